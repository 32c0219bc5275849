"""One size: a shop is made, `equipoise train` learns from it in a process of its own, and that is timed.

Owns the process and where it was measured. Must not know what is good or bad.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from server.errors import Refused
from training.scale.shop import Size, write_shop

TOLD = 2_000
"""Of what a failed training said, how many letters from the end are repeated."""


@dataclass(frozen=True)
class Measured:
    """What one size took.

    wall_s, cpu_s: of the whole process, all threads. parts_s: wall seconds by part, as training tells them;
    the rest (start, reading, cleaning) is a part of its own. peak_rss_bytes: the most memory that the
    process held. validation_ndcg_at_20: shows that something was learned. Where the time limit ended the
    process `in_time` is False, and there is neither memory nor quality. on: the machine.
    """

    events: int
    users: int
    items: int
    family: str
    quick: bool
    seed: int
    in_time: bool
    wall_s: float
    cpu_s: float
    parts_s: dict[str, float]
    peak_rss_bytes: int | None
    validation_ndcg_at_20: float | None
    on: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


def measured(
    size: Size, folder: Path, *, family: str, quick: bool, seed: int, limit_s: float
) -> Measured:
    """Train on a shop of this size, in `folder`, which is there and empty; killed after `limit_s`.

    Raises:
        Refused: the training failed.
    """
    # The sources may change while it trains.
    commit = _commit()
    interactions, items = write_shop(size, folder, seed)
    command = [
        sys.executable, "-m", "server.cli", "train", "--interactions", str(interactions),
        "--items", str(items), "--out", str(folder / "bundle"), "--family", family, "--seed", str(seed),
        "--json",
        *(["--quick"] if quick else []),
    ]  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    told, errors = folder / "told.json", folder / "errors.txt"
    with told.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        in_time = True
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            in_time, code = False, 0
        finally:
            process.kill()
            process.wait()
    wall_s, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        said = errors.read_text(errors="replace")[-TOLD:].strip()
        raise Refused(f"training of {size.events:,} events ended with {code}: {said}")
    facts = json.loads(told.read_text()) if in_time else {}
    parts = facts.get("seconds", {})
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(
        size.events, size.users, size.items, family, quick, seed, in_time, round(wall_s, 1),
        round(cpu_s, 1),
        {"start, reading, cleaning": round(wall_s - sum(parts.values()), 1)} | parts if parts else {},
        facts.get("peak_rss_bytes"), facts.get("validation_ndcg_at_20"), conditions(commit),
    )  # fmt: skip


def conditions(commit: str) -> dict[str, Any]:
    """Of which sources, where and when it was measured, without which no time means anything to another.

    load_15_minutes: processes that ran or waited, the one that was measured among them.
    """
    return {
        "commit": commit,
        "ended": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "load_15_minutes": round(os.getloadavg()[2], 1),
        "python": platform.python_version(),
    }


def _commit() -> str:
    """The state of the sources: a commit, with a "+" where files that it tracks have changed since."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
