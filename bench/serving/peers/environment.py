"""The peers' own virtual environments: made once, used while what they were made of is unchanged.

An environment counts as made only when its marker stands in it, which is written last and names what
it was made of; one that was interrupted, or whose requirements or Python changed, is made anew.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.whole import write_whole

MARKER = ".made-of"
INSTALL_TIMEOUT_S = 900.0
_PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!]+")

Run = Callable[[Sequence[str], float], None]
"""Runs a command; raises `Unavailable` with the reason where it fails."""


class Unavailable(RuntimeError):
    """A peer cannot be measured here; the message is the reason."""


def pins(requirements: Path) -> list[str]:
    """The lines of a requirements file.

    Raises:
        Unavailable: there is none, or a line is no exact `name==version`: what was measured would
            depend on the day.
    """
    try:
        lines = requirements.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Unavailable(f"{requirements.name}: {error.strerror}") from error
    found = [text for line in lines if (text := line.partition("#")[0].strip())]
    for text in found:
        if not _PIN.fullmatch(text):
            raise Unavailable(f"{requirements.name}: got {text!r}, allowed: name==version")
    if not found:
        raise Unavailable(f"{requirements.name}: is empty")
    return found


def environment(root: Path, name: str, requirements: Path, run: Run | None = None) -> Path:
    """The Python of a peer's environment below `root`, made if it is not there.

    Raises:
        Unavailable: it cannot be made, and why.
    """
    made_of = _made_of(pins(requirements))
    folder = root / name
    python = folder / "bin" / "python"
    if python.exists() and _marker(folder) == made_of:
        return python
    run = run or _run
    if folder.exists():
        shutil.rmtree(folder)
    run([sys.executable, "-m", "venv", str(folder)], INSTALL_TIMEOUT_S)
    run(
        [
            str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet",
            "--no-input", "--requirement", str(requirements),
        ],
        INSTALL_TIMEOUT_S,
    )  # fmt: skip
    write_whole(folder / MARKER, made_of)
    return python


def _made_of(lines: Sequence[str]) -> str:
    text = "\n".join([sys.version, *sorted(lines)])
    return hashlib.sha256(text.encode()).hexdigest()


def _marker(folder: Path) -> str:
    try:
        return (folder / MARKER).read_text(encoding="utf-8")
    except OSError:
        return ""


def _run(command: Sequence[str], timeout_s: float) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{' '.join(command[1:4])}: {error}") from error
    if done.returncode:
        raise Unavailable(f"{' '.join(command[1:4])}: {last_words(done.stderr)}")


def last_words(text: str) -> str:
    """The line of a log that most likely says what was wrong: the last error, or the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|exception", line, re.IGNORECASE)]
    return (errors or lines or ["it said nothing"])[-1][:300]
