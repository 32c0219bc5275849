"""The fair stage alone, for callers who have scored their candidates already.

Owns what `Rerank` means: groups sent or looked up, ties settled by item id, the
policy's kernels last. No model and no history is read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from server.bundle import Bundle
from server.engine.query import Answer, Degraded, Phases, RerankQuery
from server.errors import InvalidField, Reason, UnknownName, listed
from server.fairness import CompiledPolicy, rerank


def answer_rerank(query: RerankQuery, bundle: Bundle, policy: CompiledPolicy) -> Answer:
    """The fair list of the caller's candidates.

    Raises:
        UnknownName: the group table is not in the bundle.
        InvalidField: a group is unknown to the policy, or missing and not to be looked up.
    """
    started_ns = time.perf_counter_ns()
    groups = _groups_of(query, bundle, policy)
    by_label = {label: code for code, label in enumerate(policy.labels)}
    codes = np.zeros(len(groups), np.int32)
    if policy.labels:
        for place, group in enumerate(groups):
            code = by_label.get(group)
            if code is None:
                raise InvalidField.of(
                    f"candidates[{place}].group",
                    group,
                    f"a group of policy {policy.policy.name!r}: {listed(policy.labels)}",
                )
            codes[place] = code
    # Ties go by item id, whatever the order in which the caller sent them.
    id_rank = np.empty(len(groups), np.int64)
    id_rank[sorted(range(len(groups)), key=query.item_ids.__getitem__)] = np.arange(len(groups))
    fair = rerank(query.scores, codes, query.count, policy, tie_break=id_rank)
    order = fair.order.tolist()
    return Answer(
        item_ids=tuple(query.item_ids[place] for place in order),
        scores=query.scores[fair.order],
        groups=tuple(groups[place] for place in order),
        sources=np.zeros(len(order), np.int8),
        fair=fair,
        degraded=frozenset({Degraded.SHORT_LIST} if len(order) < query.count else ()),
        skipped_candidates=0,
        skipped_history=0,
        phases=Phases(fair_ns=time.perf_counter_ns() - started_ns),
    )


def _groups_of(query: RerankQuery, bundle: Bundle, policy: CompiledPolicy) -> Sequence[str]:
    name = query.group_table or policy.policy.group_table
    table = bundle.groups.get(name)
    if table is None and name:
        raise UnknownName(Reason.UNKNOWN_GROUP_TABLE, "group table", name, bundle.groups)
    if table is None or all(query.groups):
        return query.groups
    groups = list(query.groups)
    for place, group in enumerate(groups):
        if not group:
            item = bundle.items.index.get(query.item_ids[place])
            if item is None:
                raise InvalidField.of(
                    f"candidates[{place}].group",
                    group,
                    f"a group, since item {query.item_ids[place]!r} is not in the bundle",
                )
            groups[place] = table.labels[table.codes[item]]
    return groups
