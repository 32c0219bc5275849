"""What is asked for, as item numbers: histories and candidates that differ, drawn from a seed.

Plain arrays, so that every server's caller can ask for the same lists; read by programs that have
numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
COUNT = 20
"""Places of a list."""


@dataclass(frozen=True)
class Shape:
    """What one request holds. candidates: 0 leaves the choice to the server."""

    history: int = 50
    candidates: int = 200


@dataclass(frozen=True)
class Calls:
    """Row by row one request. history `[R, h]`, oldest first; candidates `[R, n]`, none of them in
    its history; expected `[R, COUNT]` the list, best first. All are indices in the bundle."""

    history: Int32
    candidates: Int32
    expected: Int32

    def save(self, path: Path) -> None:
        """As a file for another process."""
        np.savez(path, history=self.history, candidates=self.candidates, expected=self.expected)

    @staticmethod
    def load(path: str) -> Calls:
        """What `save` wrote."""
        with np.load(path) as file:
            return Calls(file["history"], file["candidates"], file["expected"])


def draw_arrays(n_items: int, shape: Shape, requests: int, seed: int) -> tuple[Int32, Int32]:
    """Histories and candidates, no two alike. Popular items are bought more often (Zipf).

    What was bought is no candidate: a server that leaves it out has the same work as one that
    does not. A catalogue too small for that is a candidate as a whole, or in part at random.
    """
    rng = np.random.default_rng(seed)
    # Added up once: a draw with weights would do it each time, which costs a large catalogue.
    upto = np.cumsum(1 / np.arange(1, n_items + 1) ** 0.8)
    history = np.empty((requests, shape.history), np.int32)
    candidates = np.empty((requests, min(n_items, shape.candidates)), np.int32)
    spare = min(n_items, shape.candidates + shape.history)
    small = spare < shape.candidates + shape.history
    for row in range(requests):
        history[row] = np.searchsorted(upto, rng.random(shape.history) * upto[-1])
        drawn = rng.choice(n_items, spare, replace=False)
        free = drawn if small else drawn[~np.isin(drawn, history[row])]
        candidates[row] = free[: shape.candidates]
    return history, candidates
