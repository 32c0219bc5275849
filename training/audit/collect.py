"""Every list of one policy with what it was made of, measured while it is at hand.

Owns the step from the engine's answers to arrays. Candidates are not kept: of each list its
items, its bounds and three numbers remain. Each policy gets an engine of its own, so that exposure
that one run charged is never another's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from server.bundle import Bundle
from server.engine.engine import Engine
from server.engine.groups import PolicyItems
from server.engine.query import Answer, ScoredCandidates
from server.fairness import CompiledPolicy, Receipt, Status
from server.fairness.discount import discounts
from server.features.types import Float64, Int32, Int64
from training.audit.optimum import largest_dcg
from training.metrics import roc_auc
from training.served import served_answers
from training.task import Task


@dataclass(frozen=True)
class Relevance:
    """What users bought after the cut, in places of the bundle's item table.

    ptr, items: as in `Targets`, without items that the bundle does not know (`unknown` of them).
    """

    ptr: Int64
    items: Int32
    first_ptr: Int64
    first_items: Int32
    unknown: int

    @staticmethod
    def of(bundle: Bundle, task: Task) -> Relevance:
        """The targets of a task."""
        find = bundle.items.index.get
        places = np.array([find(item, -1) for item in task.history.item_ids], np.int32)
        targets = task.targets
        ptr, items = _known(targets.ptr, places[targets.items])
        first_ptr, first_items = _known(targets.first_ptr, places[targets.first_items])
        return Relevance(ptr, items, first_ptr, first_items, len(targets.items) - len(items))


def _known(ptr: Int64, items: Int32) -> tuple[Int64, Int32]:
    known = items >= 0
    return np.concatenate([[0], np.cumsum(known)])[ptr].astype(np.int64), items[known]


@dataclass(frozen=True)
class Collected:
    """The lists of T users under one policy.

    lists: `[T, k] int32`, bundle places, -1 after a short list's end.
    own: each list's policy; of a calibrated one, the user's own tables.
    regret: `[T]`, 1 - DCG / the largest DCG of any list of these candidates that keeps the bounds;
    NaN where no list keeps them, or where the receipt's bound is 0.
    exact: whether `regret` is against the exact optimum, or against the receipt's bound on it, which
    may be larger.
    auc, first_auc: `[T]`, of the scores over the candidates, against the whole period and the first
    basket; NaN where candidates are all of one kind.
    """

    compiled: CompiledPolicy
    lists: Int32
    receipts: tuple[Receipt, ...]
    own: tuple[CompiledPolicy, ...]
    regret: Float64
    exact: bool
    auc: Float64
    first_auc: Float64

    @cached_property
    def statuses(self) -> dict[str, int]:
        """Receipts by status, in lower case."""
        found = [receipt.status for receipt in self.receipts]
        return {status.name.lower(): found.count(status) for status in Status}


def collect(
    bundle: Bundle,
    task: Task,
    relevance: Relevance,
    policy: str,
    *,
    k: int,
    users: Int32 | None = None,
    on_users: Callable[[int], None] = lambda _: None,
) -> Collected:
    """Ask for the list of every user of the task, in their order, under one policy.

    users: rows of the task's users, rising; None for all.
    """
    asked = np.arange(len(task.targets)) if users is None else users
    compiled = bundle.policies[policy]
    members = PolicyItems.of(bundle, compiled)
    lists = np.full((len(asked), k), -1, np.int32)
    regrets, aucs, first_aucs = (np.full(len(asked), np.nan) for _ in range(3))
    receipts, own = [], []
    exact = len(compiled.blocks) == 1 if compiled.labels else True
    wanted = np.zeros(len(bundle.items.ids), np.bool_)
    answers = served_answers(
        Engine(bundle), task.history, task.targets.users[asked], task.cut_ms,
        policy=policy, k=k, with_candidates=True, on_users=on_users,
    )  # fmt: skip
    for row, (user, answer) in enumerate(zip(asked.tolist(), answers, strict=True)):
        candidates = answer.candidates
        assert candidates is not None
        index = bundle.items.index
        items = np.array([index[item] for item in candidates.item_ids], np.int32)
        scores = candidates.scores.astype(np.float64)
        lists[row, : len(answer.item_ids)] = [index[item] for item in answer.item_ids]
        receipts.append(answer.fair.receipt)
        tables = compiled
        if compiled.calibrations:
            tables = compiled.for_user(members.counted(candidates.bought))
        own.append(tables)
        if exact:
            regrets[row] = _regret(answer, candidates, members.rows[:, items], tables)
        elif (of_best := answer.fair.receipt.utility_of_best) > 0:
            regrets[row] = 1.0 - of_best
        for ptr, targets, out in (
            (relevance.ptr, relevance.items, aucs),
            (relevance.first_ptr, relevance.first_items, first_aucs),
        ):
            bought = targets[ptr[user] : ptr[user + 1]]
            wanted[bought] = True
            out[row] = roc_auc(scores, wanted[items])
            wanted[bought] = False
    return Collected(compiled, lists, tuple(receipts), tuple(own), regrets, exact, aucs, first_aucs)


def _regret(
    answer: Answer, candidates: ScoredCandidates, rows: Int32, tables: CompiledPolicy
) -> float:
    """Of one group table or of none; NaN where no list keeps the bounds."""
    scores = candidates.scores.astype(np.float64)
    worth = discounts(len(answer.item_ids), tables.policy.discount)
    if tables.labels:
        best = largest_dcg(scores, rows[0], tables.floors, tables.ceilings, worth)
    else:
        best = float(np.sort(scores)[::-1][: len(worth)] @ worth)
    if best is None:
        return float("nan")
    got = float(answer.scores.astype(np.float64) @ worth)
    # What differs by rounding is the same.
    return 0.0 if best <= 0 or abs(best - got) <= 1e-12 * best else 1.0 - got / best
