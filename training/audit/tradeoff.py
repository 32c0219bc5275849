"""What every kind of policy costs over its parameter, and the least that it could cost.

Owns the trade-off part of the audit's document:

    users, tables       on how many users; which tables and group the sweeps speak of
    left_out            series and parameter -> why the policy was refused
    aims                what fairness may mean -> its words and the plain lists' value
    points              {series, kind, aim, parameter, ndcg_kept (estimate), utility_kept_mean,
                        fairness (aim -> value), lists, met}
    frontiers           {series, aim, parameter, utility_kept_mean, fairness, lists}: the exact
                        optimum of the same bounds on the same candidates, by assignment, mean over
                        the `lists` that have one; of kinds that bound one table
    frontier_words      which kinds have such an optimum, and why the others have none

Fairness by aim: "groups": AWRF of a table's groups against the catalogue's shares, mean over
lists; "over_all": the same of the exposure of all lists together, which is what evened-out
exposure aims at; "spread": how many groups of a table are in a list, mean; "taste": AWRF against
the user's own shares, mean. utility_kept is the DCG of the model's scores over plain score order's.
A point's `aim` is what its kind is made for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.bundle import Bundle, GroupTable
from server.engine.engine import Engine
from server.engine.groups import PolicyItems
from server.engine.query import Answer
from server.errors import listed
from server.fairness import CompiledPolicy, Status
from server.fairness.discount import discounts
from server.fairness.metrics import awrf, expected_exposure, exposure_shares
from server.features.types import Float64, Int32
from training.audit.item_side import summed
from training.audit.optimum import best_order
from training.audit.sweeps import (
    GROUPS,
    OVER_ALL,
    SPREAD,
    TASTE,
    WITH_OPTIMUM,
    WITHOUT_OPTIMUM,
    Swept,
    Tables,
    sweeps,
    tables_of,
)
from training.audit.wanted import catalogue_shares
from training.intervals import Resampler
from training.metrics import hits, ndcg
from training.served import plain_policy, served_answers, served_lists
from training.task import OnStep, Task

WHAT = "trade-off"


@dataclass(frozen=True)
class _Run:
    """The lists of one swept policy, `[T, k]`; best: of the exact optimum, where it was asked for."""

    lists: Int32
    best: Int32 | None
    utility_kept: Float64
    best_kept: Float64
    met: int


def tradeoff(
    bundle: Bundle,
    task: Task,
    to_data: Int32,
    sample: Int32,
    *,
    k: int,
    resamples: int,
    confidence: float,
    seed: int,
    on_step: OnStep,
) -> dict[str, Any]:
    """Sweep every kind on the users in `sample`, rows of the task's users."""
    engine = Engine(bundle)
    users, plain = task.targets.users[sample], plain_policy(engine)
    before = served_lists(engine, task.history, users, task.cut_ms, policy=plain, k=k).items
    tables = tables_of(bundle, expected_exposure(before, len(bundle.items.ids)))
    if tables is None:
        return {"users": len(sample), "points": [], "reason": "the bundle has no group tables"}
    swept, refused = sweeps(bundle, tables, k)
    documents = {one.compiled.policy.name: one.compiled for one in swept}
    engine = Engine(
        dataclasses.replace(bundle, policies={plain: bundle.policies[plain], **documents})
    )
    total = len(swept) * len(sample)

    def run(one: Swept) -> _Run:
        def told(done: int) -> None:
            on_step(WHAT, done, total)

        return _run(engine, task, users, one, k, told)

    own = _own_shares(engine, task, users, tables, swept, k)

    def fairness(lists: Int32) -> dict[str, float | None]:
        return {
            aim: _fairness(aim, lists, tables, own) for aim in (GROUPS, OVER_ALL, SPREAD, TASTE)
        }

    plainly = fairness(before)

    sampler = Resampler(len(sample), resamples=resamples, confidence=confidence, seed=seed)
    plain_ndcg = _ndcg(task, sample, to_data[before])
    points, frontiers = [], []
    for one in swept:
        made = run(one)
        named = {"series": one.series, "kind": one.kind, "aim": one.aim, "parameter": one.parameter}
        points.append(
            {
                **named,
                "ndcg_kept": sampler.ratio(
                    _ndcg(task, sample, to_data[made.lists]), plain_ndcg
                ).as_json(),
                "utility_kept_mean": float(made.utility_kept.mean()),
                "fairness": fairness(made.lists),
                "lists": len(sample),
                "met": made.met,
            }
        )
        if made.best is not None:
            found = np.isfinite(made.best_kept)
            frontiers.append(
                {
                    **named,
                    "utility_kept_mean": float(made.best_kept[found].mean())
                    if found.any()
                    else None,
                    "fairness": fairness(made.best),
                    "lists": int(found.sum()),
                }
            )
    return {
        "users": len(sample),
        "tables": {
            GROUPS: {"group_table": tables.shares.name, "group": tables.group},
            "second": None
            if tables.second is None
            else {"group_table": tables.second[0].name, "group": tables.second[1]},
            SPREAD: {"group_table": tables.spread.name},
            TASTE: {"group_table": tables.taste.name},
        },
        "left_out": refused,
        "aims": {
            aim: {"words": words, "plain": plainly[aim]}
            for aim, words in (
                (GROUPS, f"{tables.shares.name} in each list: closeness to the catalogue (AWRF)"),
                (
                    OVER_ALL,
                    f"{tables.shares.name} over all lists: closeness to the catalogue (AWRF)",
                ),
                (SPREAD, f"{tables.spread.name}: groups in a list of {k}"),
                (TASTE, f"{tables.taste.name}: closeness to the user's own shares (AWRF)"),
            )
        },
        "points": points,
        "frontiers": frontiers,
        "frontier_words": frontier_words({one.kind for one in swept}),
    }


def frontier_words(kinds: Collection[str]) -> str:
    """Which of the swept kinds have an exact optimum beside them, and why the others have none."""
    told = f"The exact optimum of the same bounds, for {listed(k for k in WITH_OPTIMUM if k in kinds)}."
    reasons: dict[str, list[str]] = {}
    for kind, why in WITHOUT_OPTIMUM.items():
        if kind in kinds:
            reasons.setdefault(why, []).append(kind)
    if reasons:
        none = "; ".join(f"{' and '.join(names)} ({why})" for why, names in reasons.items())
        told += f" None for {none}."
    return f"{told} A point may lie beyond another kind's optimum: it keeps other bounds."


def _run(
    engine: Engine, task: Task, users: Int32, one: Swept, k: int, told: Callable[[int], None]
) -> _Run:
    index, compiled = engine.bundle.items.index, one.compiled
    members = PolicyItems.of(engine.bundle, compiled)
    lists = np.full((len(users), k), -1, np.int32)
    best = np.full((len(users), k), -1, np.int32) if one.frontier else None
    kept, best_kept = np.full(len(users), np.nan), np.full(len(users), np.nan)
    met = 0
    answers = served_answers(
        engine, task.history, users, task.cut_ms, policy=compiled.policy.name, k=k,
        with_candidates=one.frontier, on_users=told,
    )  # fmt: skip
    for row, answer in enumerate(answers):
        lists[row, : len(answer.item_ids)] = [index[item] for item in answer.item_ids]
        kept[row] = answer.fair.receipt.utility_kept
        met += answer.fair.receipt.status is Status.MET
        if best is not None:
            best[row], best_kept[row] = _best(answer, members, index, compiled, k)
    return _Run(lists, best, kept, best_kept, met)


def _best(
    answer: Answer,
    members: PolicyItems,
    index: dict[str, int],
    compiled: CompiledPolicy,
    k: int,
) -> tuple[Int32, float]:
    """The best list of the same candidates, and the utility that it keeps; NaN where there is none."""
    candidates = answer.candidates
    assert candidates is not None
    items = np.array([index[item] for item in candidates.item_ids], np.int32)
    scores = candidates.scores.astype(np.float64)
    tables = compiled.for_user(members.counted(candidates.bought))
    worth = discounts(min(k, len(items)), compiled.policy.discount)
    order = best_order(scores, members.rows[0, items], tables.floors, tables.ceilings, worth)
    listed = np.full(k, -1, np.int32)
    ideal = float(np.sort(scores)[::-1][: len(worth)] @ worth)
    if order is None or ideal <= 0:
        return listed, float("nan")
    listed[: len(order)] = items[order]
    return listed, float(scores[order] @ worth) / ideal


def _own_shares(
    engine: Engine, task: Task, users: Int32, tables: Tables, swept: list[Swept], k: int
) -> list[Float64]:
    """Each user's own shares of the table of tastes, as a calibrated policy takes them."""
    catalogue = catalogue_shares(tables.taste)
    one = next((point for point in swept if point.aim == TASTE), None)
    if one is None:
        return [catalogue] * len(users)
    members = PolicyItems.of(engine.bundle, one.compiled)
    shares = []
    for answer in served_answers(
        engine, task.history, users, task.cut_ms,
        policy=one.compiled.policy.name, k=k, with_candidates=True,
    ):  # fmt: skip
        assert answer.candidates is not None
        (target,) = one.compiled.for_user(members.counted(answer.candidates.bought)).targets
        shares.append(target if target.any() else catalogue)
    return shares


def _fairness(aim: str, lists: Int32, tables: Tables, own: list[Float64]) -> float | None:
    """The mean over the lists that are not empty."""
    if aim == SPREAD:
        codes = tables.spread.codes
        values = [len(np.unique(codes[row[row >= 0]])) for row in lists if (row >= 0).any()]
        return float(np.mean(values)) if values else None
    table: GroupTable = tables.taste if aim == TASTE else tables.shares
    size = len(table.labels)
    catalogue = catalogue_shares(table)
    if aim == OVER_ALL:
        shown = expected_exposure(lists, len(table.codes))
        overall = awrf(summed(table, shown), catalogue)
        return float(overall) if np.isfinite(overall) else None
    wanted = own if aim == TASTE else [catalogue] * len(lists)
    values_of = [
        awrf(exposure_shares(table.codes[row[row >= 0]], size), shares)
        for row, shares in zip(lists, wanted, strict=False)
    ]
    known = [value for value in values_of if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _ndcg(task: Task, sample: Int32, lists: Int32) -> Float64:
    """`[T]`, against all that these users bought after the cut."""
    targets = task.targets
    lengths = np.diff(targets.ptr)[sample]
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.concatenate([targets.of(user) for user in sample.tolist()] or [targets.items[:0]])
    return ndcg(hits(lists, ptr, items), lengths)
