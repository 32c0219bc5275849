"""Where a result was measured: without it no time means anything to another."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from bench.fairness.compiled import CORES

PACKAGES = ("numpy", "numba", "scipy")


def conditions(seconds: float) -> dict[str, Any]:
    """The seconds that it took, the processor, how many of its cores, the load of the last minutes, and versions.

    load_15_minutes: processes that ran or waited; what was measured is one or more of them.
    """
    return {
        "processor": _processor(),
        "cores": CORES,
        "seconds": round(seconds, 1),
        "load_15_minutes": round(os.getloadavg()[2], 1),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
