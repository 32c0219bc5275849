"""The fair stage of one request: the user's own tables, the order, the bounds, the receipt.

Owns what a policy needs besides scores and groups: item vectors, and the exposure that all
lists so far gave to each group. Every list goes through `make`; one that is sent is
charged, and only with the places that are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from server.bundle import Bundle
from server.engine.groups import Counts, PolicyItems
from server.engine.query import ScoredCandidates
from server.exposures import ExposureAccount, ExposureLedger
from server.fairness import CompiledPolicy, FairList, rerank
from server.fairness.amortise import fair_co_boost, p_mmf_boost
from server.fairness.compile import Amortisation
from server.fairness.discount import discounts
from server.fairness.policy_sections import Discount
from server.features.vectors import item_vectors

LIST_PLACES = 20
"""Places of what an amortised policy counts as a list."""

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Made:
    """A fair list, and what besides the scores it was made of.

    providers: `[n] int32`, each candidate's group in the table whose exposure is evened out, -1
    where it has none.
    """

    fair: FairList
    boosts: Float32 | None
    bought: Counts
    providers: Int32 | None

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
    """Makes lists of one bundle's policies, and keeps account of what they showed."""

    def __init__(self, bundle: Bundle, ledger: ExposureLedger) -> None:
        compiled = bundle.policies.values()
        self._vectors = (
            item_vectors(bundle.state)
            if any(one.policy.shaping("diverse") for one in compiled)
            else None
        )
        self._accounts: dict[str, ExposureAccount] = {
            one.policy.digest: ledger.account(one.policy.digest, one.amortisation.labels)
            for one in compiled
            if one.amortisation is not None
        }

    def make(
        self,
        scores: Float32,
        members: Int32,
        items: Int32,
        count: int,
        policy: PolicyItems,
        compiled: CompiledPolicy,
        tie_break: NDArray[np.int64],
        bought: Counts,
        fixed: Int32 | None = None,
    ) -> Made:
        """The fair list.

        scores `[n]`; members `[A, n]` rows; items `[n]`, indices in the bundle, -1 where unknown;
        compiled: the policy's tables, the user's own where it is calibrated to what he bought. fixed: positions of
        the candidates that were shown on earlier pages.
        """
        providers = self.providers(members, items, policy)
        boosts = None
        if providers is not None and compiled.amortisation is not None:
            account = self._accounts[compiled.policy.digest]
            boosts = boost_of(
                compiled.amortisation, compiled.policy.discount, account.totals(), providers
            )
        fair = rerank(
            scores,
            members,
            count,
            compiled,
            tie_break,
            boost=boosts,
            vectors=self.vectors_of(items, compiled),
            fixed=fixed,
        )
        return Made(fair, boosts, bought, providers)

    def charge(self, made: Made, policy: PolicyItems, first: int, end: int) -> None:
        """Count what was shown: the places after `first` and up to `end` of a list."""
        if made.providers is None:
            return
        shown = made.providers[made.fair.order[first:end]]
        worth = discounts(len(made.fair.order), policy.compiled.policy.discount)[first:end]
        known = shown >= 0
        self._accounts[policy.compiled.policy.digest].charge(shown[known], worth[known])

    def providers(self, members: Int32, items: Int32, policy: PolicyItems) -> Int32 | None:
        """`[n]`, each candidate's group in the table whose exposure is evened out, if any."""
        evened = policy.compiled.amortisation
        if evened is None or policy.provider is None:
            return None
        tables = policy.compiled.policy.tables
        if evened.group_table in tables:
            # What the caller of Rerank told counts, also of items that the bundle does not know.
            table = tables.index(evened.group_table)
            own: Int32 = members[table] - np.int32(policy.compiled.starts[table])
            return own
        return np.where(items >= 0, policy.provider[items], -1).astype(np.int32)

    def vectors_of(self, items: Int32, compiled: CompiledPolicy) -> Float32 | None:
        """`[n, d]`, for a policy that wants items to differ."""
        if self._vectors is None or not compiled.policy.shaping("diverse"):
            return None
        vectors = self._vectors[items]
        vectors[items < 0] = 0
        return vectors


def boost_of(
    evened: Amortisation, discount: Discount, exposure: Float64, providers: Int32
) -> Float32:
    """What to add to each candidate's score, `[n] float32`.

    exposure: `[G]`, over all lists; providers: `[n]`, rows or -1. A list counts as the exposure of
    twenty places, however many pages it was shown in. A group without a candidate
    here cannot be helped by this list and takes no part, or it would take what others could use.
    """
    here = np.zeros(len(exposure), np.bool_)
    here[providers[providers >= 0]] = True
    targets = np.where(here, evened.targets, 0.0)
    n_here = int(np.count_nonzero(targets))
    boosts = np.zeros(len(providers), np.float32)
    if n_here == 0 or not exposure.any():
        return boosts
    strength = float(Fraction(evened.rule.strength))
    targets /= targets.sum()
    # A group of average target that got nothing for so many lists is behind by `lists` of them.
    step = strength / (evened.rule.lists * float(discounts(LIST_PLACES, discount).sum()))
    if evened.rule.method == "p_mmf":
        gained = p_mmf_boost(exposure, targets, strength / n_here, step / n_here)
    else:
        gained = fair_co_boost(exposure, targets, step)
    known = providers >= 0
    boosts[known] = gained[providers[known]]
    return boosts
