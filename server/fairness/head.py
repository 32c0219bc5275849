"""The head of a list that keeps its bounds, as a list of its own: it keeps them too, for they hold at
every prefix. It need not be the best list of its length, and its receipt says how far it can be."""

from __future__ import annotations

import numpy as np

from server.fairness import kernels
from server.fairness.bounded import Bounded
from server.fairness.compile import CompiledPolicy
from server.fairness.discount import discounts
from server.fairness.receipt import receipt_of
from server.fairness.types import FairList, Float32, Int32, Status


def head_of(
    whole: FairList, count: int, scores: Float32, members: Int32, compiled: CompiledPolicy
) -> FairList:
    """The first `count` places of a list of several tables, or all of it where they are not met.

    scores `[n]` and members `[A, n]`: of the candidates that the list was made of.
    """
    if whole.receipt.status is not Status.MET or count >= len(whole.order):
        return whole
    places, ranks = whole.order[:count].copy(), whole.rank_by_score[:count].copy()
    reasons = whole.reasons[:count].copy()
    by_score = kernels.score_order(scores, np.arange(len(scores), dtype=np.int64))
    # No list has a larger sum than plain score order.
    worth = discounts(count, compiled.policy.discount)
    most = float((worth * scores[by_score[:count]].astype(np.float64)).sum())
    found = Bounded(places, ranks, reasons, None, Status.MET, most)
    receipt = receipt_of(
        scores, by_score, members, compiled, found, ranks, shaped=False, continued=False
    )
    return FairList(places, ranks, reasons, receipt)
