"""Where a result was measured: without it no time means anything to another."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from bench.fairness.compiled import CORES

PACKAGES = ("numpy", "numba", "scipy")


def conditions(seconds: float) -> dict[str, Any]:
    """The sources, the seconds that it took, the processor, how many of its cores, the load of the last minutes, and versions.

    load_15_minutes: processes that ran or waited; what was measured is one or more of them.
    """
    return {
        "commit": _commit(),
        "ended": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "cores": CORES,
        "seconds": round(seconds, 1),
        "load_15_minutes": round(os.getloadavg()[2], 1),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
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


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
