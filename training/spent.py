"""What a run costs: wall seconds by part, and the most memory that the process held.

spent = Spent()
with spent("refit"):
    ...
spent.seconds, peak_rss_bytes()
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

UNIT = 1 if sys.platform == "darwin" else 1024
"""Of ru_maxrss."""


class Spent:
    """A stop watch for each part; a part that comes again is added up, one inside another is its own."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._inside: list[str] = []

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """The block's time is that of `part`, and not that of the part around it."""
        began = time.perf_counter()
        self._inside.append(part)
        try:
            yield
        finally:
            taken = time.perf_counter() - began
            self._inside.pop()
            self._seconds[part] = self._seconds.get(part, 0.0) + taken
            if self._inside:
                around = self._inside[-1]
                self._seconds[around] = self._seconds.get(around, 0.0) - taken

    @property
    def seconds(self) -> dict[str, float]:
        """By part, in the order in which they first ended."""
        return {part: round(taken, 3) for part, taken in self._seconds.items()}


def peak_rss_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def cost_lines(seconds: Mapping[str, float], peak_bytes: int) -> list[str]:
    """For people: the parts, and the memory.

    >>> cost_lines({"lists": 61.5, "refit": 2.04}, 3 << 30)
    ['1:03.5 min: lists 1:01.5 min, refit 2.0 s', '3.0 GiB at most']
    """
    parts = ", ".join(f"{part} {_span(taken)}" for part, taken in seconds.items())
    return [f"{_span(sum(seconds.values()))}: {parts}", f"{peak_bytes / 2**30:.1f} GiB at most"]


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f} min" if minutes else f"{rest:.1f} s"
