"""Steps that are skipped while their inputs and their code are unchanged.

A step's digest covers its command, the content of the code that it runs and the
digests of the steps before it. Its stamp is written last, so a step that was
interrupted runs again. Knows nothing of what the steps do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Step:
    """One step of the demo.

    title: what a reader sees. code: globs below the repository that it depends on.
    outputs: what it leaves, below the demo's folder. run: does it; gets that folder.
    """

    name: str
    title: str
    code: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[[Path], None]


@dataclass(frozen=True)
class Done:
    """A step that is done: how long it took, and whether that was in an earlier run."""

    name: str
    seconds: float
    skipped: bool


def _files(globs: Iterable[str]) -> list[Path]:
    found = {path for glob in globs for path in ROOT.glob(glob) if path.is_file()}
    return sorted(path for path in found if "__pycache__" not in path.parts)


def digest_of(step: Step, before: str) -> str:
    """SHA-256 over the step's name, its code's content and the digest of what came before."""
    sha = hashlib.sha256(f"{step.name}\0{before}\0".encode())
    for path in _files(step.code):
        sha.update(f"{path.relative_to(ROOT)}\0".encode())
        sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def _read_stamp(path: Path) -> dict[str, object]:
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def run_steps(
    steps: Sequence[Step],
    out: Path,
    *,
    until: str | None,
    announce: Callable[[Step, bool], None],
) -> list[Done]:
    """Run the steps in order, up to and with `until`; return what each took."""
    done: list[Done] = []
    before = ""
    for step in steps:
        digest = digest_of(step, before)
        stamp_path = out / ".steps" / f"{step.name}.json"
        stamp = _read_stamp(stamp_path)
        fresh = stamp.get("digest") == digest and all((out / o).exists() for o in step.outputs)
        announce(step, fresh)
        if fresh:
            seconds = stamp.get("seconds")
            done.append(
                Done(step.name, float(seconds) if isinstance(seconds, float) else 0.0, True)
            )
        else:
            stamp_path.unlink(missing_ok=True)
            started = time.monotonic()
            step.run(out)
            seconds = time.monotonic() - started
            write_whole(stamp_path, json.dumps({"digest": digest, "seconds": seconds}))
            done.append(Done(step.name, seconds, False))
        before = digest
        if step.name == until:
            break
    return done


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
