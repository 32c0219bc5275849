"""The fair stage alone, for callers who have scored their candidates already.

Owns what `Rerank` means: groups sent or looked up, ties settled by item id, the
policy's kernels last. No model and no history is read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.bundle import Bundle
from server.engine.fair import FairStage
from server.engine.groups import PolicyItems
from server.engine.query import Answer, Degraded, Phases, RerankQuery
from server.errors import InvalidField, Reason, UnknownName, listed


def answer_rerank(
    query: RerankQuery, bundle: Bundle, policy: PolicyItems, stage: FairStage
) -> Answer:
    """The fair list of the caller's candidates.

    Raises:
        UnknownName: the group table is not in the bundle.
        InvalidField: a group is unknown to the policy, or missing and not to be looked up.
    """
    started_ns = time.monotonic_ns()
    known = np.fromiter(
        (bundle.items.index.get(item, -1) for item in query.item_ids), np.int32, len(query.item_ids)
    )
    members = _members(query, bundle, policy, known)
    # Ties go by item id, whatever the order in which the caller sent them.
    id_rank = np.empty(len(query.item_ids), np.int64)
    id_rank[sorted(range(len(id_rank)), key=query.item_ids.__getitem__)] = np.arange(len(id_rank))
    bought = policy.counted(query.bought)
    looked_up_ns = time.monotonic_ns()
    compiled = policy.compiled.for_user(bought)
    made = stage.make(query.scores, members, known, query.count, policy, compiled, id_rank, bought)
    stage.charge(made, policy, 0, len(made.fair.order))
    fair_ns = time.monotonic_ns() - looked_up_ns
    order = made.fair.order.tolist()
    return Answer(
        item_ids=tuple(query.item_ids[place] for place in order),
        scores=query.scores[made.fair.order],
        groups=policy.labels_of(members[:, made.fair.order]),
        sources=np.zeros(len(order), np.int8),
        fair=made.fair,
        degraded=_degraded(query, policy, known, len(order)),
        skipped_candidates=0,
        skipped_history=0,
        phases=Phases(
            features_ns=looked_up_ns - started_ns,
            fair_ns=fair_ns,
            history_from_ns=started_ns,
            fair_from_ns=looked_up_ns,
        ),
        candidates=made.candidates(query.item_ids, query.scores, members, policy)
        if query.with_candidates
        else None,
        groups_from_caller=bool(policy.compiled.labels) and any(query.groups),
    )


def _degraded(
    query: RerankQuery, policy: PolicyItems, known: NDArray[np.int32], size: int
) -> frozenset[Degraded]:
    found = {Degraded.SHORT_LIST} if size < query.count else set()
    if policy.compiled.policy.shaping("diverse") and (known < 0).any():
        found.add(Degraded.NO_VECTORS)
    return frozenset(found)


def _members(
    query: RerankQuery, bundle: Bundle, policy: PolicyItems, known: NDArray[np.int32]
) -> NDArray[np.int32]:
    """`[A, n]`: the row of each candidate in each of the policy's tables."""
    other = query.group_table
    if other and other not in bundle.groups:
        raise UnknownName(Reason.UNKNOWN_GROUP_TABLE, "group table", other, bundle.groups)
    tables = policy.compiled.policy.tables
    if other and len(tables) > 1:
        raise InvalidField.of("group_table", other, f"none: the policy has {', '.join(tables)}")
    members = _looked_up(bundle, policy, other, known)
    told = np.fromiter(map(bool, query.groups), np.bool_, len(known))
    if told.any() and tables:
        _check_widths(query.groups, tables)
        for table, own in enumerate(members):
            row = policy.row_of[table]
            own[told] = [row.get(groups[table], -1) for groups in query.groups if groups]
    if (bad := np.argwhere(members.T < 0)).size:
        place, table = bad[0].tolist()
        raise _unknown(query, bundle, policy, table, place, int(known[place]))
    return members


def _looked_up(
    bundle: Bundle, policy: PolicyItems, other: str, known: NDArray[np.int32]
) -> NDArray[np.int32]:
    """`[A, n]`: rows by the bundle, of its group table `other` if named; -1 where there is none."""
    rows = policy.rows
    if other and len(rows):
        table = bundle.groups[other]
        row_of = np.array([policy.row_of[0].get(label, -1) for label in table.labels], np.int32)
        rows = row_of[table.codes][np.newaxis]
    return np.where(known >= 0, rows[:, known], np.int32(-1))


def _check_widths(groups: Sequence[tuple[str, ...]], tables: Sequence[str]) -> None:
    for place, own in enumerate(groups):
        if own and len(own) != len(tables):
            raise InvalidField.of(
                f"candidates[{place}].group{'s' if len(tables) > 1 else ''}",
                ", ".join(own),
                f"one group of each of {', '.join(tables)}",
            )


def _unknown(
    query: RerankQuery, bundle: Bundle, policy: PolicyItems, table: int, place: int, item: int
) -> InvalidField:
    """Why a candidate has no row."""
    field = f"candidates[{place}].group"
    if query.groups[place]:
        group = query.groups[place][table]
    elif item < 0:
        return InvalidField.of(
            field, "", f"a group, since item {query.item_ids[place]!r} is not in the bundle"
        )
    else:
        other = bundle.groups[query.group_table]
        group = other.labels[other.codes[item]]
    labels: Sequence[str] = list(policy.row_of[table])
    name = policy.compiled.policy.name
    return InvalidField.of(field, group, f"a group of policy {name!r}: {listed(labels)}")
