"""What a bundle is worth: its lists on held-out purchases, against every baseline, with intervals.

Owns the results document (schema below) and what goes into it. Lists come from
`training.served` (the served path), numbers from `training.metrics`, intervals from
`training.intervals`. Must not know how a model was trained.

    evaluation = evaluate(bundle, prepared, Protocol())
    write_results(evaluation, Path("out/quality"))

The results file `quality.json` (schema_version 1):

    kind            "quality"
    bundle_id, model_digest, dataset, protocol, intervals, made_unix_ms
    metrics         name -> estimate {value, low, high, n_users, better: higher | lower}:
                    ndcg_at_20, recall_at_20, first_basket_*, novel_* of the ranker without a
                    policy; each of them _minus_BASELINE (paired over users);
                    ndcg_kept_POLICY = NDCG with / without the policy and
                    price_of_fairness_POLICY = 1 - that; inferred_ATTRIBUTE and
                    inferred_ATTRIBUTE_minus_purchases (of `inference`); catalogue_coverage_at_20 and
                    item_exposure_gini (no interval: low and high are null)
    baselines       name -> metric -> estimate
    baseline_settings  name -> which of several settings, chosen on validation
    groups          user attribute -> label -> metric -> estimate; of a group of fewer than
                    protocol.min_users users only n_users, and `withheld` says so
    group_counts    user attribute -> label -> users, targets, hits (a rate rests on its hits)
    worst_group     user attribute -> metric -> {label, + its estimate}, "unknown" left out;
                    `withheld` where groups of too few users could not be compared
    policies        name -> receipts counted, exposure shares before and after, floor violations
    roc             ROC curves and AUC of the served scores: all pairs of a user and a candidate,
                    by user group and by item group, bought until the end of the bundle's horizon
                    (protocol.scores_judged_until_unix_ms); `training.measures.roc`
    calibration     served probabilities against what was bought; `training.measures.calibration`
    popularity_bias novelty, coverage, concentration, popularity and exposure by decile, for
                    the ranker and each baseline; `training.measures.popularity`
    inference       whether lists betray an attribute of their user; `training.measures.inference`
    cold_start      users without history, with little of it, and rare items, each with its best
                    baseline; `training.measures.cold`
    model           the bundle's name, family, inputs, data, horizon_days, versions
    structure       the model's graph in a few blocks; `training.measures.graph`
    learning_curves, ablation  as the bundle's own `quality` has them, on validation; else null
    cleaning        rows_in, rows_out, dropped: [[reason, rows], ...]
    per_user_file   the arrays behind it, one entry per user, in an npz: user_id, METRIC,
                    BASELINE/METRIC, POLICY/ndcg_at_20, group/ATTRIBUTE
    per_user_sha256  its digest; in the file only, since it is known once the arrays are written

A value of null means that nothing could be measured. In names "-" reads "_".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle import Bundle
from server.engine.engine import Engine
from server.engine.query import Answer
from server.features.types import DAY_MS, Int32
from training.baselines import BASELINES, Baseline
from training.data.prepare import Prepared
from training.intervals import Resampler
from training.item_side import item_side, policy_facts
from training.measures.against import metrics_block
from training.measures.calibration import calibration_block
from training.measures.candidates import Gathering, bought_within
from training.measures.cold import Cold, cold_block
from training.measures.graph import structure_block
from training.measures.inference import inference_block, inference_metrics, inferred
from training.measures.model import model_block
from training.measures.popularity import popularity_block
from training.measures.roc import roc_block
from training.metrics import PerUser
from training.served import (
    ServedLists,
    plain_policy,
    refuse_a_bundle_that_has_seen,
    served_lists,
)
from training.task import OnStep, Task, places_in_bundle, places_in_data, task_of
from training.user_groups import MIN_USERS, group_counts, group_metrics, groups_of, worst_groups


@dataclass(frozen=True)
class Protocol:
    """How to evaluate. The defaults are those that published numbers of this project use."""

    on: str = "test"
    """"test", or "validation" while something is still being tuned."""
    k: int = 20
    """Length of a list: longer lists have higher recall."""
    resamples: int = 2000
    """Bootstrap resamples: more is a steadier interval."""
    confidence: float = 0.95
    """Share of resamples inside an interval: higher is wider."""
    seed: int = 20
    """Seed of the bootstrap."""
    user_attributes: tuple[str, ...] | None = None
    """User attributes whose groups are reported; None: all that the data has."""
    min_users: int = MIN_USERS
    """The k-anonymity floor: of a group of fewer users nothing is told but their number."""

    def __post_init__(self) -> None:
        if self.on not in ("test", "validation"):
            raise ValueError(f"on: got {self.on!r}, allowed: test, validation")


@dataclass(frozen=True)
class Evaluation:
    """The results document and the arrays behind it, one entry per user."""

    results: dict[str, Any]
    per_user: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Compared:
    """The ranker and every baseline on one task.

    before, novel: the ranker's lists over all items and without the history's, places in the bundle.
    ranker, baselines: what they measure. lists: over all items, of "ranker" and each baseline, places
    in the data set. settings: of the baselines that have several, those that were chosen. own: which of
    them list what their user has.
    """

    task: Task
    before: ServedLists
    novel: ServedLists
    ranker: PerUser
    baselines: dict[str, PerUser]
    lists: dict[str, Int32]
    settings: dict[str, str]
    own: dict[str, bool]


def compare(
    engine: Engine,
    prepared: Prepared,
    on: str,
    k: int,
    on_step: OnStep,
    on_answer: Callable[[Answer], None] | None = None,
) -> Compared:
    """Lists of `engine` and of all baselines for the held-out part `on`, measured.

    on_answer: given the engine's answers over all items, in the users' order.

    Raises:
        Refused: as `evaluate`.
    """
    task = task_of(prepared, on)
    refuse_a_bundle_that_has_seen(engine, task.cut_ms)
    plain, users = plain_policy(engine), task.targets.users
    to_data = places_in_data(engine.bundle, prepared.dataset)
    before = served_lists(
        engine, task.history, users, task.cut_ms, policy=plain, k=k,
        on_users=partial(_told, on_step, "ranker", len(users)), on_answer=on_answer,
    )  # fmt: skip
    novel = served_lists(
        engine, task.history, users, task.cut_ms, policy=plain, k=k, seen=False,
        on_users=partial(_told, on_step, "ranker, novel items", len(users)),
    )  # fmt: skip
    measured, lists = {}, {"ranker": to_data[before.items]}
    compared = [chosen(baseline, prepared, k, on_step) for baseline in BASELINES]
    for baseline in compared:
        lists[baseline.name], novel_lists = baseline.rank(
            task.history,
            users,
            task.cut_ms,
            k,
            on_users=partial(_told, on_step, baseline.title, len(users)),
        )
        measured[baseline.name] = task.measured(lists[baseline.name], novel_lists, k)
    ranker = task.measured(lists["ranker"], to_data[novel.items], k)
    settings = {one.name: one.told() for one in compared if one.told()}
    own = {one.name: one.own for one in compared}
    return Compared(task, before, novel, ranker, measured, lists, settings, own)


def evaluate(
    bundle: Bundle,
    prepared: Prepared,
    protocol: Protocol,
    on_step: OnStep = lambda what, done, total: None,
) -> Evaluation:
    """Measure `bundle` on the held-out part of `prepared`.

    Raises:
        Refused: the bundle has no policy of kind none, learned from events after the cut, or knows
            no item of the data; or the data has no such user attribute.
    """
    engine, k, gather = Engine(bundle), protocol.k, Gathering(bundle)
    compared = compare(engine, prepared, protocol.on, k, on_step, gather)
    task, before, ranker = compared.task, compared.before, compared.ranker
    plain, users = before.policy, task.targets.users
    to_data = places_in_data(bundle, prepared.dataset)
    fair = {
        _key(name): served_lists(
            engine, task.history, users, task.cut_ms, policy=name, k=k,
            on_users=partial(_told, on_step, f"policy {name}", len(users)),
        )
        for name in bundle.policies
        if name != plain
    }  # fmt: skip
    ndcg_with = {
        name: task.measured(to_data[lists.items], to_data[compared.novel.items], k)[f"ndcg_at_{k}"]
        for name, lists in fair.items()
    }
    horizon_ms = min(task.cut_ms + bundle.manifest.horizon_days * DAY_MS, task.until_ms)
    to_bundle = places_in_bundle(bundle, prepared.dataset)
    bought = bought_within(prepared.dataset, users, to_bundle, task.cut_ms, horizon_ms)
    scored = gather.scored(len(bundle.items.ids), *bought)

    sample = Resampler(
        len(users),
        resamples=protocol.resamples,
        confidence=protocol.confidence,
        seed=protocol.seed,
    )
    groups = groups_of(prepared.dataset, users, protocol.user_attributes)
    guessed = inferred(
        compared.lists["ranker"], task.history, users, groups,
        min_users=protocol.min_users, seed=protocol.seed,
    )  # fmt: skip
    inference = inference_block(guessed, groups, sample)
    by_group = group_metrics(
        ranker, groups, k=k, resamples=protocol.resamples, confidence=protocol.confidence,
        seed=protocol.seed, min_users=protocol.min_users,
    )  # fmt: skip
    results: dict[str, Any] = {
        "kind": "quality",
        "schema_version": 1,
        **made_of(bundle, prepared),
        "protocol": {
            "split": prepared.split.protocol,
            "on": protocol.on,
            "history_until_unix_ms": task.cut_ms,
            "targets_until_unix_ms": task.until_ms,
            "scores_judged_until_unix_ms": horizon_ms,
            "k": k,
            "ranking": "full: every item of the data set may be a target",
            "n_users": len(users),
            "min_users": protocol.min_users,
            "policy": plain,
            "served_path": True,
            "bundle_items": len(bundle.items.ids),
            "data_items_known_to_bundle": int((to_data >= 0).sum()),
            "history_events_unknown_to_bundle": before.skipped_events,
        },
        "intervals": {
            "confidence": protocol.confidence,
            "resamples": protocol.resamples,
            "seed": protocol.seed,
            "unit": "user",
            "method": "percentile bootstrap over users, paired differences",
        },
        "metrics": metrics_block(sample, ranker, compared.baselines, ndcg_with, k)
        | inference_metrics(inference)
        | item_side(before.items, len(bundle.items.ids), k),
        "baselines": {
            name: {metric: sample.mean(v).as_json() for metric, v in values.items()}
            for name, values in compared.baselines.items()
        },
        "baseline_settings": compared.settings,
        "groups": by_group,
        "group_counts": group_counts(
            task.targets, compared.lists["ranker"], groups, protocol.min_users
        ),
        "worst_group": worst_groups(by_group),
        "policies": {
            name: policy_facts(bundle, before.items, lists) for name, lists in fair.items()
        },
        "roc": roc_block(scored, groups, bundle.groups, sample, protocol.min_users),
        "calibration": calibration_block(scored, sample),
        "popularity_bias": popularity_block(compared.lists, task.history, task.targets, sample),
        "inference": inference,
        "cold_start": cold_block(
            Cold(
                engine,
                plain,
                prepared.dataset,
                task.history,
                task.targets,
                task.novel_ptr,
                task.novel_items,
                to_data[compared.novel.items],
                task.cut_ms,
                task.until_ms,
                to_data,
                compared.own,
                k,
                protocol.min_users,
                on_step,
            ),
            compared.lists,
            sample,
            protocol.seed,
        ),
        **model_block(bundle.manifest, prepared.cleaning),
        "structure": structure_block(bundle.model),
        "per_user_file": "per_user.npz",
    }
    per_user: dict[str, NDArray[Any]] = {
        "user_id": np.array([prepared.dataset.user_ids[u] for u in users.tolist()]),
        **ranker,
        **{
            f"{b}/{metric}": v
            for b, values in compared.baselines.items()
            for metric, v in values.items()
        },
        **{f"{name}/ndcg_at_{k}": values for name, values in ndcg_with.items()},
        **guessed,
        **{f"group/{name}": labels for name, labels in groups.items()},
    }
    return Evaluation(results, per_user)


def chosen(baseline: Baseline, prepared: Prepared, k: int, on_step: OnStep) -> Baseline:
    """The baseline with those of its settings, and with or without the user's own items in its lists,
    whichever has the highest NDCG on validation."""
    task = task_of(prepared, "validation")
    users, best = task.targets.users, (-1.0, baseline)
    for one in baseline.choices():
        told = partial(_told, on_step, f"{one.title}, settings", len(users))
        lists, novel_lists = one.rank(task.history, users, task.cut_ms, k, on_users=told)
        for own, ranked in ((True, lists), (False, novel_lists)):
            value = float(task.measured(ranked, novel_lists, k)[f"ndcg_at_{k}"].mean())
            if value > best[0]:
                best = value, replace(one, own=own)
    return best[1]


def made_of(bundle: Bundle, prepared: Prepared) -> dict[str, Any]:
    """What a results document says of the bundle, the data and its own time."""
    dataset = prepared.dataset
    return {
        "bundle_id": bundle.manifest.bundle_id,
        "model_digest": bundle.manifest.model.digest,
        "made_unix_ms": time.time_ns() // 1_000_000,
        "dataset": {
            "source": dataset.source,
            "digest": dataset.digest(),
            "users": dataset.n_users,
            "items": dataset.n_items,
            "events": dataset.n_events,
        },
    }


def _told(on_step: OnStep, what: str, total: int, done: int) -> None:
    on_step(what, done, total)


def _key(name: str) -> str:
    return name.replace("-", "_")
