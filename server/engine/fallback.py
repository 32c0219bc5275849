"""Lists for when there is no time: best sellers, brought under a policy's bounds beforehand.

Owns which policies have one, what it is made of, and when a request may get it. A policy declares
it with `on_late = "fallback"`; such a list is the work of the same fair stage, and its receipt is as
good as any: under load lists become less personal, never less fair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from server.bundle import Bundle
from server.engine.fair import FairStage, Made
from server.engine.groups import PolicyItems
from server.engine.query import RecommendQuery
from server.engine.supply import missing_groups
from server.fairness import FairList, Status, rerank
from server.fairness.head import head_of
from server.fairness.types import Float32, Int32, Int64

POOL = 4
"""Best sellers that are considered, for each place of the longest list; more where a group is short."""
READY = (10, 20, 50, 100)
"""Lengths whose lists are made before the first request; others are made when first asked for."""


@dataclass(frozen=True)
class _Pool:
    """What the lists of one policy are made of, best sellers first.

    items: `[n]`, indices in the bundle. scores: `[n]`, from 1 down to above 0, evenly. members:
    `[A, n]` rows. vectors: `[n, d]`, for a policy that wants items to differ.
    """

    policy: PolicyItems
    items: Int32
    scores: Float32
    members: Int32
    vectors: Float32 | None
    ties: Int64

    @staticmethod
    def of(bundle: Bundle, policy: PolicyItems, stage: FairStage) -> _Pool:
        compiled, popular = policy.compiled, bundle.state.popular
        first = popular[: POOL * compiled.max_count]
        none = np.empty(0, np.int32)
        more = missing_groups(first, none, popular, policy, compiled, compiled.max_count)
        items = popular[np.isin(popular, np.concatenate([first, more]))]
        n = len(items)
        return _Pool(
            policy,
            items.astype(np.int32),
            np.linspace(1, 0, n, endpoint=False, dtype=np.float32),
            policy.rows[:, items],
            stage.vectors_of(items, compiled),
            np.arange(n, dtype=np.int64),
        )

    @property
    def ready(self) -> tuple[int, ...]:
        """The lengths that are made beforehand."""
        most = self.policy.compiled.max_count
        return (*(count for count in READY if count < most), most)

    def list_of(self, count: int) -> FairList:
        return rerank(
            self.scores,
            self.members,
            count,
            self.policy.compiled,
            self.ties,
            vectors=self.vectors,
        )


@dataclass(frozen=True)
class FallbackList:
    """A list of best sellers that keeps its policy; the pool's columns as in the candidates of any
    other list, and `made` with positions in them."""

    items: Int32
    scores: Float32
    members: Int32
    made: Made


class Fallbacks:
    """The fallback lists of one bundle, by policy and length."""

    def __init__(
        self, bundle: Bundle, policies: Mapping[str, PolicyItems], stage: FairStage
    ) -> None:
        self._stage = stage
        self._pools = {
            name: _Pool.of(bundle, policy, stage)
            for name, policy in policies.items()
            if policy.compiled.policy.on_late == "fallback"
        }
        self._lists: dict[tuple[str, int], FallbackList | None] = {}
        for name, pool in self._pools.items():
            for count in pool.ready:
                self.list_of(name, count)

    def __bool__(self) -> bool:
        return len(self._pools) > 0

    def offered(self, query: RecommendQuery, policy: str) -> bool:
        """Whether a list that knows nothing of the request but its length would be an answer to it."""
        return (
            policy in self._pools
            and not query.names_candidates
            and query.after is None
            and not query.validate_only
        )

    def list_of(self, policy: str, count: int, unwanted: Iterable[int] = ()) -> FallbackList | None:
        """The list, or None: no list of best sellers keeps the policy, or it has an unwanted item."""
        key = policy, count
        if key not in self._lists:
            self._lists[key] = self._make(self._pools[policy], count)
        found = self._lists[key]
        if found is None or not set(found.items[found.made.fair.order].tolist()).isdisjoint(
            unwanted
        ):
            return None
        return found

    def _make(self, pool: _Pool, count: int) -> FallbackList | None:
        compiled = pool.policy.compiled
        if len(compiled.starts) > 1 and count not in pool.ready:
            # A search would be too long for a request. The head of a longer list keeps the bounds too.
            longer = self._lists[compiled.policy.name, min(filter(count.__lt__, pool.ready))]
            if longer is None:
                return None
            fair = head_of(longer.made.fair, count, pool.scores, pool.members, compiled)
        else:
            fair = pool.list_of(count)
        if fair.receipt.status not in (Status.MET, Status.SKIPPED):
            return None
        providers = self._stage.providers(pool.members, pool.items, pool.policy)
        return FallbackList(pool.items, pool.scores, pool.members, Made(fair, None, {}, providers))
