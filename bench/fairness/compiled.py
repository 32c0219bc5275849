"""Compiled loops without the GIL, so that threads use every core.

numba's cache looks at the file of the function alone, not at those of the functions which it calls,
and a proof of yesterday's kernel proves nothing. So what is kept on disk belongs to one state of all
the sources that a loop can reach.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from server.jit import kernel

F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_ROOT = Path(__file__).resolve().parents[2]
_REACHED = (
    "bench/fairness/*.py",
    "server/fairness/*.py",
    "server/jit.py",
    # What lists of the whole stage are made and judged with, beside the loops.
    "bench/verify/bounds.py",
    "bench/verify/document.py",
    "server/engine/fair.py",
)


def _digest() -> str:
    read = hashlib.sha256()
    for pattern in _REACHED:
        for path in sorted(_ROOT.glob(pattern)):
            read.update(path.read_bytes())
    return read.hexdigest()


SOURCES = _digest()


def compiled(function: F) -> F:
    """Compile `function` on first use, or load what was compiled of the same sources."""
    loop: Any = kernel(function)
    cache = getattr(getattr(loop, "_cache", None), "_cache_file", None)
    if cache is not None:  # a folder can be written
        cache._source_stamp = SOURCES
    made: F = loop
    return made


def in_threads(call: Callable[..., T], jobs: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """The answers of `call(*job)` as they come, a thread for each core; jobs are taken when due."""
    left = iter(jobs)
    with ThreadPoolExecutor(CORES) as pool:
        # The first call compiles: two threads would only wait for each other.
        running: set[Future[T]] = {pool.submit(call, *job) for job in islice(left, 1)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for job in islice(left, CORES - len(running)):
                running.add(pool.submit(call, *job))
            for answer in done:
                yield answer.result()
