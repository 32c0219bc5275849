"""What must hold of one fair list and its receipt: the definitions, written out.

Owns the meaning of each theorem (docs: `fairness` in the contract's comments).
Works on messages, so that a live server and the kernels are judged alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.invariants.claims import Claims
from bench.invariants.oracles import best_utility, dcg, exposure, first_unkeepable_prefix
from bench.invariants.world import PolicyFacts, Tables
from equipoise.v1 import recommendation_pb2 as pb

# The shares are float32 on the wire; sums of a list's gains are float64.
SHARE_TOLERANCE = 1e-5
UTILITY_TOLERANCE = 1e-6
SCORE_TOLERANCE = 1e-6

_RAISED = (
    pb.REASON_CODE_RAISED_FOR_FLOOR, pb.REASON_CODE_RAISED_FOR_CEILING,
    pb.REASON_CODE_RAISED_FOR_EXPOSURE, pb.REASON_CODE_RAISED_FOR_DIVERSITY,
)  # fmt: skip
_LOWERED = (
    pb.REASON_CODE_LOWERED_FOR_FLOOR, pb.REASON_CODE_LOWERED_FOR_CEILING,
    pb.REASON_CODE_LOWERED_FOR_EXPOSURE, pb.REASON_CODE_LOWERED_FOR_DIVERSITY,
)  # fmt: skip


def groups_of(item: pb.RankedItem | pb.ScoredCandidate) -> tuple[str, ...]:
    """The item's group in each table of the policy."""
    return tuple(item.groups) or ((item.group,) if item.group else ())


@dataclass(frozen=True)
class Candidates:
    """What a list was chosen from: every candidate's score and groups."""

    scores: Mapping[str, float]
    groups: Mapping[str, tuple[str, ...]]

    def by_score(self) -> list[str]:
        """Plain score order; ties by item id."""
        return sorted(self.scores, key=lambda item: (-self.scores[item], item))


def check_shape(claims: Claims, items: Sequence[pb.RankedItem], size: int) -> None:
    """No item twice, ranks from 1, as long as it must be."""
    ids = [item.item_id for item in items]
    twice = [item for item, times in Counter(ids).items() if times > 1]
    claims.that("no_duplicates", not twice, lambda: f"{twice[0]!r} stands twice")
    claims.that(
        "length", len(ids) == size, lambda: f"{len(ids)} items, expected min(count, n) = {size}"
    )
    ranks = [item.rank for item in items]
    claims.that("ranks", ranks == list(range(1, len(ids) + 1)), lambda: f"the ranks are {ranks}")


def check_receipt_alone(
    claims: Claims,
    items: Sequence[pb.RankedItem],
    receipt: pb.FairnessReceipt,
    policy: PolicyFacts,
) -> None:
    """What list and receipt say of each other, whatever the candidates were."""
    told = (receipt.policy, receipt.policy_version, receipt.policy_digest, receipt.group_table)
    asked = (policy.name, policy.version, policy.digest, policy.group_table)
    claims.that(
        "receipt_names_policy", told == asked, lambda: f"the receipt says {told}, asked: {asked}"
    )
    moved = sum(item.rank != item.rank_by_score for item in items)
    claims.that(
        "places_moved",
        receipt.places_moved == moved,
        lambda: f"the receipt says {receipt.places_moved}, counted {moved}",
    )
    for item in items:
        if item.rank == item.rank_by_score:
            right = item.reason == pb.REASON_CODE_SCORE
        else:
            right = item.reason in (_RAISED if item.rank < item.rank_by_score else _LOWERED)
        claims.that(
            "reason_codes",
            right,
            lambda item=item: (
                f"{item.item_id!r} at {item.rank}, by score {item.rank_by_score}: "  # type: ignore[misc]
                f"{pb.ReasonCode.Name(item.reason)}"
            ),
        )
    lowest: dict[tuple[str, ...], float] = {}
    for item in items if policy.by_score else ():
        group = groups_of(item) if policy.labels else ()
        claims.that(
            "score_order_in_group",
            item.score <= lowest.get(group, math.inf) + SCORE_TOLERANCE * abs(item.score),
            lambda item=item: (
                f"{item.item_id!r} at {item.rank} scores higher than an item of its "  # type: ignore[misc]
                "group above it"
            ),
        )
        lowest[group] = item.score
    _check_exposure(claims, items, receipt, policy)
    _check_status(claims, items, receipt, policy)


def _check_exposure(
    claims: Claims,
    items: Sequence[pb.RankedItem],
    receipt: pb.FairnessReceipt,
    policy: PolicyFacts,
) -> None:
    expected = (
        exposure([groups_of(item) for item in items], receipt.discount) if policy.labels else {}
    )
    told = {part.group: (part.items, part.exposure_share) for part in receipt.exposure}
    same = told.keys() == expected.keys() and all(
        told[group][0] == count and abs(told[group][1] - share) <= SHARE_TOLERANCE
        for group, (count, share) in expected.items()
    )
    claims.that(
        "exposure",
        same and len(told) == len(receipt.exposure),
        lambda: f"the receipt says {told}, counted {expected}",
    )


def _check_status(
    claims: Claims,
    items: Sequence[pb.RankedItem],
    receipt: pb.FairnessReceipt,
    policy: PolicyFacts,
) -> None:
    status = pb.ReceiptStatus.Name(receipt.status)
    if policy.kind == "none" or not items:
        claims.that(
            "status", receipt.status == pb.RECEIPT_STATUS_SKIPPED,
            lambda: f"{status} for a stage that had nothing to do",
        )  # fmt: skip
        return
    claims.that(
        "status",
        receipt.status in (pb.RECEIPT_STATUS_MET, pb.RECEIPT_STATUS_INFEASIBLE)
        or (receipt.status == pb.RECEIPT_STATUS_NOT_FOUND and not policy.one_table),
        lambda: f"{status} for policy {policy.name!r} of kind {policy.kind!r}",
    )
    infeasible = receipt.status != pb.RECEIPT_STATUS_MET
    claims.that(
        "first_bad_prefix_belongs_to_infeasible",
        receipt.HasField("first_bad_prefix") == infeasible,
        lambda: (
            f"{status}, and first_bad_prefix is "
            f"{'set' if receipt.HasField('first_bad_prefix') else 'not set'}"
        ),
    )
    bad = receipt.first_bad_prefix
    if infeasible:
        claims.that(
            "first_bad_prefix_is_in_the_list",
            1 <= bad.prefix <= len(items) and bad.group in policy.labels,
            lambda: f"prefix {bad.prefix} and group {bad.group!r} of {len(items)} places",
        )
    if policy.tables is not None:
        _check_bounds(claims, items, receipt, policy, policy.tables)


def _check_bounds(
    claims: Claims,
    items: Sequence[pb.RankedItem],
    receipt: pb.FairnessReceipt,
    policy: PolicyFacts,
    tables: Tables,
) -> None:
    """Every prefix keeps its bounds; if the receipt says infeasible, all before the bad one do."""
    infeasible = receipt.status != pb.RECEIPT_STATUS_MET
    last = receipt.first_bad_prefix.prefix - 1 if infeasible else len(items)
    broken = _first_broken([groups_of(item) for item in items[:last]], policy.labels, tables)
    name = "kept_before_first_bad_prefix" if infeasible else "bounds_kept_when_met"
    claims.that(name, broken is None, lambda: str(broken))
    if infeasible:
        bad = receipt.first_bad_prefix
        row = policy.labels.index(bad.group)
        floor, ceiling = tables.floors[row][bad.prefix], tables.ceilings[row][bad.prefix]
        claims.that(
            "first_bad_prefix_quotes_the_bound",
            (bad.needed == floor and bad.available < floor)
            or (bad.needed == ceiling and bad.available > ceiling),
            lambda: (
                f"needed {bad.needed}, available {bad.available}; the policy's floor is "
                f"{floor}, its ceiling {ceiling}"
            ),
        )


def _first_broken(
    groups: Sequence[Sequence[str]], labels: Sequence[str], tables: Tables
) -> str | None:
    counts = dict.fromkeys(labels, 0)
    for prefix, own in enumerate(groups, start=1):
        for group in own:
            if group not in counts:
                return f"place {prefix} is of group {group!r}, which the policy does not have"
            counts[group] += 1
        for row, label in enumerate(labels):
            low, high = tables.floors[row][prefix], tables.ceilings[row][prefix]
            if not low <= counts[label] <= high:
                return (
                    f"the first {prefix} places hold {counts[label]} of {label!r}, "
                    f"allowed: {low} to {high}"
                )
    return None


def check_against_candidates(
    claims: Claims,
    items: Sequence[pb.RankedItem],
    receipt: pb.FairnessReceipt,
    policy: PolicyFacts,
    candidates: Candidates,
) -> None:
    """What list and receipt say of the candidates, all of whose scores are known."""
    foreign = [item.item_id for item in items if item.item_id not in candidates.scores]
    claims.that("subset_of_candidates", not foreign, lambda: f"{foreign[0]!r} is no candidate")
    if foreign:
        return
    for item in items:
        score = candidates.scores[item.item_id]
        claims.that(
            "scores_unchanged",
            math.isclose(item.score, score, rel_tol=SCORE_TOLERANCE, abs_tol=1e-30),
            lambda item=item, score=score: f"{item.item_id!r}: {item.score}, was {score}",  # type: ignore[misc]
        )
        if policy.labels:
            group = candidates.groups[item.item_id]
            claims.that(
                "groups_unchanged",
                groups_of(item) == group,
                lambda item=item, group=group: f"{item.item_id!r}: {groups_of(item)}, was {group}",  # type: ignore[misc]
            )
    order = candidates.by_score()
    rank = {item: place for place, item in enumerate(order, start=1)}
    for item in items:
        claims.that(
            "rank_by_score",
            item.rank_by_score == rank[item.item_id],
            lambda item=item: (
                f"{item.item_id!r}: {item.rank_by_score}, counted "  # type: ignore[misc]
                f"{rank[item.item_id]} (ties by item id)"
            ),
        )
    if policy.by_score:
        _check_choice_in_groups(claims, items, policy, candidates, order)
    _check_utility(claims, items, receipt, policy, candidates, order)
    if policy.tables is not None and policy.labels and policy.one_table and items:
        _check_feasibility(claims, items, receipt, policy, policy.tables, candidates)


def _check_choice_in_groups(
    claims: Claims,
    items: Sequence[pb.RankedItem],
    policy: PolicyFacts,
    candidates: Candidates,
    order: Sequence[str],
) -> None:
    """Of each group its best items, in their order: within a group nothing justifies another."""
    grouped = bool(policy.labels)
    for group in {candidates.groups[item.item_id] if grouped else () for item in items}:
        mine = [i.item_id for i in items if not grouped or candidates.groups[i.item_id] == group]
        best = [item for item in order if not grouped or candidates.groups[item] == group]
        name = "best_of_each_group" if grouped else "plain_order_for_kind_none"
        claims.that(
            name,
            mine == best[: len(mine)],
            lambda mine=mine, best=best: f"{mine}, by score and id: {best[: len(mine)]}",  # type: ignore[misc]
        )


def _check_utility(
    claims: Claims,
    items: Sequence[pb.RankedItem],
    receipt: pb.FairnessReceipt,
    policy: PolicyFacts,
    candidates: Candidates,
    order: Sequence[str],
) -> None:
    gains = _gains(candidates)
    ideal = dcg([gains[item] for item in order[: len(items)]], receipt.discount)
    got = dcg([gains[item.item_id] for item in items], receipt.discount)
    kept = got / ideal if ideal > 0 else 1.0
    claims.that(
        "utility_kept",
        math.isclose(receipt.utility_kept, kept, rel_tol=UTILITY_TOLERANCE, abs_tol=1e-9),
        lambda: f"the receipt says {receipt.utility_kept}, computed {kept}",
    )
    exact = (
        policy.exact
        and receipt.discount == "log2"
        and policy.labels
        and receipt.status == pb.RECEIPT_STATUS_MET
    )
    if policy.tables is None or not exact:
        return
    present = [g for g in policy.labels if (g,) in set(candidates.groups.values())]
    rows = [policy.labels.index(g) for g in present]
    best = best_utility(
        [[gains[i] for i in order if candidates.groups[i] == (g,)] for g in present],
        [policy.tables.floors[row] for row in rows],
        [policy.tables.ceilings[row] for row in rows],
        len(items),
    )
    if best is not None:
        claims.that(
            "no_fair_list_is_better",
            got >= best - UTILITY_TOLERANCE * abs(best),
            lambda: f"its DCG is {got}, a list that keeps the policy has {best}",
        )


def _gains(candidates: Candidates) -> dict[str, float]:
    lowest = min(candidates.scores.values(), default=0.0)
    shift = -lowest if lowest < 0 else 0.0
    return {item: score + shift for item, score in candidates.scores.items()}


def _check_feasibility(
    claims: Claims,
    items: Sequence[pb.RankedItem],
    receipt: pb.FairnessReceipt,
    policy: PolicyFacts,
    tables: Tables,
    candidates: Candidates,
) -> None:
    """The certificate is true: that prefix cannot be kept, and every shorter one can."""
    prefix = unkeepable(policy, tables, candidates, len(items))
    if prefix is None:
        return
    told = receipt.first_bad_prefix.prefix
    claims.that(
        "first_bad_prefix_is_true",
        told == prefix,
        lambda: (
            f"the receipt says {told or 'none'}; the first prefix that no list can keep is "
            f"{prefix or 'none'}"
        ),
    )


def unkeepable(
    policy: PolicyFacts, tables: Tables, candidates: Candidates, size: int
) -> int | None:
    """The first prefix that no list of these candidates keeps; 0 for none, None if unknown."""
    if not policy.one_table:
        return None
    supply = Counter(group for own in candidates.groups.values() for group in own)
    return first_unkeepable_prefix(
        [supply[label] for label in policy.labels], tables.floors, tables.ceilings, size
    )
