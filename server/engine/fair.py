"""The fair stage of one request: the user's own tables, the order, the bounds, the receipt.

Owns what the policy needs besides scores and groups. Every list goes through `make`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.engine.groups import Counts, PolicyItems
from server.engine.query import ScoredCandidates
from server.fairness import FairList, rerank

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """A fair list, and what besides the scores it was made of."""

    fair: FairList
    boosts: Float32 | None
    bought: Counts

    def candidates(
        self, item_ids: Sequence[str], scores: Float32, members: Int32, policy: PolicyItems
    ) -> ScoredCandidates:
        """All candidates, as whoever checks the list needs them."""
        return ScoredCandidates(
            item_ids=tuple(item_ids),
            scores=scores,
            groups=policy.labels_of(members) if len(members) else ((),) * len(scores),
            boosts=np.zeros(len(scores), np.float32) if self.boosts is None else self.boosts,
            bought=policy.told(self.bought),
        )


class FairStage:
    """Makes lists of one bundle's policies."""

    def make(
        self,
        scores: Float32,
        members: Int32,
        items: Int32,
        count: int,
        policy: PolicyItems,
        tie_break: NDArray[np.int64],
        bought: Counts,
        fixed: Int32 | None = None,
    ) -> Made:
        """The fair list.

        scores `[n]`; members `[A, n]` rows; items `[n]`, indices in the bundle, -1 where unknown;
        bought: what the user's shares are taken from, for calibrated policies. fixed: positions of
        the candidates that were shown on earlier pages.
        """
        compiled = policy.compiled.for_user(bought)
        fair = rerank(scores, members, count, compiled, tie_break, fixed=fixed)
        return Made(fair, None, bought)
