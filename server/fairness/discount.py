"""What a place is worth: the discounts that a policy may choose. All fall from place to place.

The exact kinds (floors, fa_ir, cap) give the largest sum of scores in every prefix, so
their lists have the largest discounted sum under each of these, and under any other
that does not rise.
"""

from __future__ import annotations

from functools import lru_cache
from typing import assert_never

import numpy as np

from server.fairness.policy_sections import Discount
from server.fairness.types import Float64

PERSISTENCE = 0.8
"""How likely a reader goes on to the next place, for "top_heavy"."""


@lru_cache(maxsize=256)
def discounts(size: int, kind: Discount = "log2") -> Float64:
    """The worth of ranks 1..size, `[size] float64`; rank 1 is worth 1. Shared: do not write.

    log2: 1 / log2(rank + 1) (Jarvelin and Kekalainen, TOIS 2002). reciprocal: 1 / rank.
    top_heavy: 0.8^(rank - 1), rank-biased precision (Moffat and Zobel, TOIS 2008).

    >>> discounts(3).round(3).tolist(), discounts(3, "top_heavy").round(3).tolist()
    ([1.0, 0.631, 0.5], [1.0, 0.8, 0.64])
    """
    ranks = np.arange(1, size + 1, dtype=np.float64)
    match kind:
        case "log2":
            weights: Float64 = 1.0 / np.log2(ranks + 1.0)
        case "reciprocal":
            weights = 1.0 / ranks
        case "top_heavy":
            weights = PERSISTENCE ** (ranks - 1.0)
        case _:
            assert_never(kind)
    return weights
