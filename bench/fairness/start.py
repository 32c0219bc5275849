"""How long the kernels take to be ready in a new process, against importing numba alone.

Seconds are the process's own on the CPU, as elsewhere in these timings: starting waits for nothing
else where files are in memory.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import server
from bench.fairness.timing import Row

READY = "from server.fairness import warm_up; warm_up()"
NUMBA = "import numba"
GOAL_S = 1.0
# Below a file: no user, not even root, can make a folder there.
NOWHERE = "/dev/null/nowhere"


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _start_s(program: str, environment: Mapping[str, str]) -> float:
    before_s = _cpu_s()
    # -P: not the sources of the folder that this runs in.
    subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True)
    return _cpu_s() - before_s


def _more_s(environment: Mapping[str, str], rounds: int) -> tuple[float, float, float]:
    """(seconds more than numba, seconds, the first start's seconds), medians in turns."""
    first = _start_s(READY, environment)
    ready, plain = [], []
    for _ in range(rounds):
        plain.append(_start_s(NUMBA, environment))
        ready.append(_start_s(READY, environment))
    return median(ready) - median(plain), median(ready), first


def read_only_copy(folder: Path) -> Path:
    """The server's package where nothing can be kept beside it."""
    copy = folder / "install"
    source = Path(server.__file__).parent
    shutil.copytree(source, copy / "server", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [copy / "server", *copy.glob("server/**/")]:
        # A file where the folder would be stops every user.
        (path / "__pycache__").write_text("")
    return copy


def starts(rounds: int) -> list[Row]:
    """A second start beside a source that can be written, and from a read-only install."""
    own = {**os.environ, "PYTHONPATH": str(Path(server.__file__).resolve().parents[1])}
    rows = []
    with tempfile.TemporaryDirectory() as made:
        temporary = Path(made) / "tmp"
        temporary.mkdir()
        locked = {
            **own, "PYTHONPATH": str(read_only_copy(Path(made))), "HOME": NOWHERE,
            "XDG_CACHE_HOME": NOWHERE, "TMPDIR": str(temporary),
        }  # fmt: skip
        locked.pop("NUMBA_CACHE_DIR", None)
        for name, environment in (("", own), (", read-only install", locked)):
            more, ready, first = _more_s(environment, rounds)
            note = f"ready in {ready:.2f} s; the first start took {first:.2f} s"
            rows.append(Row(f"second start after import numba{name}", more, "s more", GOAL_S, note))
    return rows
