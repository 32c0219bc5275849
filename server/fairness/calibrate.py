"""A user's own shares as bounds of his list, and how far a list is from them.

Steck, "Calibrated Recommendations", RecSys 2018: a list should show a user's areas of
interest in their proportions, for what is bought most otherwise crowds out the rest. His
greedy trades the score against a divergence; here the shares bound every prefix, in
integers, so that a list can be checked, and the divergence is reported.

>>> import numpy as np
>>> rule = Calibrated(at_least="1/2", at_most="3/2", smoothing=0)
>>> floors, ceilings = Calibration.of(rule, "category", 0, np.ones(2, np.int64)).bounds(
...     np.array([3, 1]), 8
... )
>>> floors[0].tolist(), ceilings[1].tolist()
([0, 0, 0, 1, 1, 1, 2, 2, 3], [0, 1, 1, 2, 2, 2, 3, 3, 3])
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from server.fairness.policy_sections import Calibrated
from server.fairness.types import Int32

MAX_BOUGHT = 100_000
"""The most purchases that a target may rest on: beyond it the products below leave 64 bits."""

_SMOOTHING = 0.01
"""How much of the target is mixed into the list before the divergence, Steck's alpha."""


@dataclass(frozen=True)
class Calibration:
    """The rule for one group table.

    start: the table's first row among those of the policy. items: `[G]`, of the catalogue.
    """

    group_table: str
    start: int
    items: NDArray[np.int64]
    at_least: Fraction
    at_most: Fraction
    smoothing: int

    @staticmethod
    def of(rule: Calibrated, group_table: str, start: int, items: NDArray[np.int64]) -> Calibration:
        """The rule as its owner wrote it, for a table with so many items in each group."""
        return Calibration(
            group_table, start, np.asarray(items, np.int64), Fraction(rule.at_least),
            Fraction(rule.at_most), rule.smoothing,
        )  # fmt: skip

    def target(self, bought: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        """(numerators `[G]`, denominator) of the user's shares q; all 0 over 1 where nothing is known.

        q_g = (bought_g + smoothing items_g / items) / (bought + smoothing).
        """
        catalogue = int(self.items.sum())
        whole = (int(bought.sum()) + self.smoothing) * catalogue
        if whole == 0:
            return np.zeros(len(self.items), np.int64), 1
        return bought * catalogue + self.smoothing * self.items, whole

    def bounds(self, bought: NDArray[np.int64], max_count: int) -> tuple[Int32, Int32]:
        """Floors and ceilings `[G, K + 1] int32` of a user who bought so often of each group.

        floor(at_least q k) and ceil(at_most q k). They are sound: since at_least <= 1 <= at_most,
        at_least q b - at_most q a <= q (b - a), and the q add up to 1.
        """
        numerators, denominator = self.target(bought)
        prefix = np.arange(max_count + 1, dtype=np.int64)
        if not numerators.any():
            free = np.tile(prefix.astype(np.int32), (len(self.items), 1))
            return np.zeros_like(free), free
        # Beyond 64 bits, for catalogues of a million items, Python's own integers take over.
        largest = denominator * max_count * max(self.at_most.numerator, self.at_least.numerator)
        if largest >= 2**62:
            numerators = numerators.astype(object)
        wanted = numerators[:, np.newaxis] * prefix
        low, high = self.at_least, self.at_most
        floors = wanted * low.numerator // (denominator * low.denominator)
        ceilings = -(-wanted * high.numerator // (denominator * high.denominator))
        return floors.astype(np.int32), np.minimum(ceilings, prefix).astype(np.int32)


def divergence(target: NDArray[np.float64], listed: NDArray[np.float64]) -> float:
    """KL(target || list), with a hundredth of the target mixed into the list (Steck's eq. 5, 6).

    target, listed: `[G]`, shares that add up to 1. 0 iff they are the same; finite always.

    >>> round(divergence(np.array([.5, .5]), np.array([1., 0.])), 3)
    1.959
    """
    seen = target > 0
    mixed = (1 - _SMOOTHING) * listed[seen] + _SMOOTHING * target[seen]
    return max(0.0, float(target[seen] @ np.log(target[seen] / mixed)))
