"""Environments for other people's clients, made on demand beside the checkout and kept.

Their stubs and ours cannot share a process, and their versions must not decide ours.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "foreign"
KEPT = ROOT / "out" / "clients"
INSTALL_TIMEOUT_S = 240
RUN_TIMEOUT_S = 120


def foreign_python(client: str) -> Path:
    """The interpreter of an environment with what `tests/foreign/<client>/requirements.txt` names.

    Skips the test where it cannot be made. One that was left half made is made again.
    """
    wanted = (SCRIPTS / client / "requirements.txt").read_text(encoding="utf-8")
    folder, marker = KEPT / client, KEPT / client / "made-of.txt"
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f"{client}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists() or marker.read_text(encoding="utf-8") != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                _make(folder, SCRIPTS / client / "requirements.txt")
            except (OSError, subprocess.SubprocessError) as error:
                said = getattr(error, "stderr", None) or str(error)
                pytest.skip(f"no environment for {client}: {str(said).strip()[-300:]}")
            marker.write_text(wanted, encoding="utf-8")
    return folder / "bin" / "python"


def _make(folder: Path, requirements: Path) -> None:
    for command in (
        [sys.executable, "-m", "venv", folder],
        [folder / "bin" / "python", "-m", "pip", "install", "--quiet",
         "--disable-pip-version-check", "--only-binary", ":all:", "--requirement", requirements],
    ):  # fmt: skip
        subprocess.run(
            [str(part) for part in command],
            check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, env=_bare(),
        )  # fmt: skip


def run_foreign(client: str, script: str, *arguments: str) -> Any:
    """What a script of `tests/foreign/<client>` prints as JSON."""
    done = subprocess.run(
        [str(foreign_python(client)), str(SCRIPTS / client / script), *arguments],
        capture_output=True, text=True, timeout=RUN_TIMEOUT_S, env=_bare(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def _bare() -> dict[str, str]:
    """The environment without our own modules in it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
