"""The greedy orders of a diverse policy, replayed from their papers' definitions.

With r the score, scaled from 0 to 1 over the candidates, and t the trade-off, each place goes to the
item with the largest

    MMR: (1 - t) r - t (largest inner product with an item picked before, 0 at the first place)
    DPP: (1 - t) / t r + log(squared distance to the span of the items picked before)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SLACK = 1e-5
"""What is less apart than this may go either way: vectors are 32-bit floats in the server."""

# An item nearer than this to the span of the picked is not picked for diversity.
_IN_SPAN = 1e-6
# Where scores weigh more than this against diversity, they alone count.
_STEEPEST = 700.0


@dataclass(frozen=True)
class Replay:
    """An order of all candidates. loose: somewhere two items were as good, so that rounding decides;
    lost: it decides even whether an item can still be picked for diversity."""

    order: Sequence[int]
    loose: bool = False
    lost: bool = False


def replayed(
    method: str,
    trade_off: float,
    values: Floats,
    vectors: NDArray[np.float32],
    by_value: Sequence[int],
    listed: Mapping[int, int],
    size: int,
) -> Replay:
    """The picks for `size` places, then the others by value.

    by_value: positions, best first. listed: position -> place in the list that is judged, which is
    followed where two items are as good.
    """
    if trade_off == 0 or (method == "dpp" and trade_off * (1 + _STEEPEST) < 1):
        return Replay(list(by_value))
    pick = (_Mmr if method == "mmr" else _Dpp)(trade_off, vectors.astype(np.float64))
    relevance = _scaled(values)
    rank = {item: at for at, item in enumerate(by_value)}
    left = np.ones(len(values), np.bool_)
    order: list[int] = []
    loose = lost = False
    while len(order) < size:
        wanted = np.where(left, pick.wanted(relevance), -np.inf)
        lost |= pick.on_the_edge(left)
        if not np.isfinite(wanted).any():
            break
        near = np.flatnonzero(wanted >= wanted.max() - SLACK).tolist()
        loose |= len(near) > 1
        best = min(near, key=lambda item: (listed.get(item, len(values) + 1), rank[item]))
        order.append(best)
        left[best] = False
        pick.picked(best)
    return Replay([*order, *(item for item in by_value if left[item])], loose, lost)


def _scaled(values: Floats) -> Floats:
    lowest, highest = float(values.min()), float(values.max())
    return (values - lowest) / (highest - lowest) if highest > lowest else np.zeros(len(values))


class _Mmr:
    def __init__(self, trade_off: float, vectors: Floats) -> None:
        self._trade_off, self._vectors = trade_off, vectors
        self._likeness: Floats | None = None

    def wanted(self, relevance: Floats) -> Floats:
        likeness = 0.0 if self._likeness is None else self._likeness
        return (1 - self._trade_off) * relevance - self._trade_off * likeness

    def picked(self, item: int) -> None:
        products: Floats = self._vectors @ self._vectors[item]
        before = products if self._likeness is None else self._likeness
        self._likeness = np.maximum(before, products)

    def on_the_edge(self, left: NDArray[np.bool_]) -> bool:
        return False


class _Dpp:
    def __init__(self, trade_off: float, vectors: Floats) -> None:
        self._steep = (1 - trade_off) / trade_off
        # Of an item of which nothing is known: like no other, at distance 1 from all.
        self._unknown: NDArray[np.bool_] = np.logical_not(vectors.any(axis=1))
        self._rest = vectors.copy()  # of each what is not in the span of the picked

    def _apart(self) -> Floats:
        return np.where(self._unknown, 1.0, (self._rest**2).sum(axis=1))

    def wanted(self, relevance: Floats) -> Floats:
        apart = self._apart()
        open_to = apart >= _IN_SPAN
        gain = self._steep * relevance + np.log(np.where(open_to, apart, 1.0))
        return np.where(open_to, gain, -np.inf)

    def picked(self, item: int) -> None:
        if not self._unknown[item]:
            own = self._rest[item] / np.linalg.norm(self._rest[item])
            self._rest = self._rest - np.outer(self._rest @ own, own)

    def on_the_edge(self, left: NDArray[np.bool_]) -> bool:
        apart = self._apart()
        return bool(np.any(left & (apart > _IN_SPAN / 2) & (apart < 2 * _IN_SPAN)))
