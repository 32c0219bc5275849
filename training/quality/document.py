"""The results of a quality run as one JSON document, with intervals over users.

kind            "quality-table", schema_version 1
collection      source, digest, users, items, events, protocol, evaluated users, k
rows            name, title, kind (baseline | model), settings or track, refit, metrics (each an
                estimate), minus_best_baseline (paired, of NDCG), seconds, peak_rss_bytes, resumed (it
                went on from checkpoints, its own or those of the row that tuned for it: their seconds
                are not in its own)
best_baseline   its name, by NDCG
ablation        variant -> validation NDCG@20, and minus_all (paired)
policies        name -> ndcg_kept; curve: strength of the default policy's floors -> ndcg_kept
fair            row -> attribute, method, strength, overall (paired with the ranker without it),
                groups: label -> plain, fair and their paired difference; worst
goals           metric, goal, value, met
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from training.baselines import BASELINES
from training.data.schema import UNKNOWN
from training.intervals import Resampler
from training.metrics import PerUser
from training.quality.ablation import ALL
from training.quality.goals import GOALS, MOST_COST
from training.quality.kept import Entry
from training.quality.measured import Asked
from training.quality.rows import PAIRS, SHIPPED, Row
from training.user_groups import MIN_USERS, groups_of


class Incomplete(ValueError):
    """A table without every baseline is no table."""


def document(
    asked: Asked,
    baselines: Mapping[str, Entry],
    models: Mapping[str, tuple[Row, Entry]],
    ablation: Entry | None,
    policies: Entry | None,
    *,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """All that was measured.

    Raises:
        Incomplete: a baseline is missing.
    """
    missing = [one.name for one in BASELINES if one.name not in baselines]
    if missing:
        raise Incomplete(f"no table without every baseline; missing: {', '.join(missing)}")
    k, data, split = asked.k, asked.prepared.dataset, asked.prepared.split
    ndcg = f"ndcg_at_{k}"
    sample = Resampler(len(asked.task.targets), resamples=resamples, seed=seed)
    best = max(BASELINES, key=lambda one: float(baselines[one.name].arrays[ndcg].mean())).name
    bar = baselines[best].arrays[ndcg]

    def told(entry: Entry) -> dict[str, Any]:
        return {
            "metrics": {
                name: sample.mean(values).as_json() for name, values in entry.arrays.items()
            },
            "minus_best_baseline": sample.mean(entry.arrays[ndcg] - bar).as_json(),
            **entry.facts,
        }

    rows = [
        {"name": one.name, "title": one.title, "kind": "baseline", **told(baselines[one.name])}
        for one in BASELINES
    ] + [
        {"name": name, "title": row.title, "kind": "model", **told(entry)}
        for name, (row, entry) in models.items()
    ]
    made: dict[str, Any] = {
        "kind": "quality-table",
        "schema_version": 1,
        "collection": {
            "source": data.source, "digest": data.digest(), "users": data.n_users,
            "items": data.n_items, "events": data.n_events, "protocol": split.protocol,
            "evaluated_users": len(asked.task.targets), "k": k,
            "ranking": "full; models through the served path",
        },
        "intervals": {"confidence": sample.confidence, "resamples": resamples, "seed": seed},
        "best_baseline": best,
        "rows": rows,
        "ablation": None if ablation is None else _ablation(ablation, resamples, seed),
        "policies": None if policies is None else _policies(policies, sample),
        "fair": _fair(asked, models, sample),
    }  # fmt: skip
    made["goals"] = _goals(made)
    return made


def _ablation(entry: Entry, resamples: int, seed: int) -> dict[str, Any]:
    everything = entry.arrays[ALL]
    sample = Resampler(len(everything), resamples=resamples, seed=seed)
    return {
        name: {
            "validation_ndcg_at_20": sample.mean(values).as_json(),
            "minus_all": sample.mean(values - everything).as_json(),
        }
        for name, values in entry.arrays.items()
    }


def _policies(entry: Entry, sample: Resampler) -> dict[str, Any]:
    plain = entry.arrays[entry.facts["plain"]]
    kept = {name: sample.ratio(values, plain).as_json() for name, values in entry.arrays.items()}
    curve = entry.facts["curve"]
    return {
        "default": entry.facts["default"],
        "ndcg_kept": {name: one for name, one in kept.items() if name not in curve},
        "curve": {name: kept[name] for name in curve},
    }


def _fair(
    asked: Asked, models: Mapping[str, tuple[Row, Entry]], sample: Resampler
) -> dict[str, Any]:
    """What fair losses did to the whole and to each group; of groups of too few users nothing."""
    if PAIRS not in models:
        return {}
    plain, made = models[PAIRS][1].arrays, {}
    ndcg = f"ndcg_at_{asked.k}"
    for name, (row, entry) in models.items():
        if row.fair is None:
            continue
        attribute = row.fair.attribute
        labels = groups_of(asked.prepared.dataset, asked.task.targets.users, [attribute])[attribute]
        shown = [
            label
            for label in sorted(set(labels.tolist()) - {UNKNOWN})
            if (labels == label).sum() >= MIN_USERS
        ]
        groups = {
            label: _group(plain[ndcg], entry.arrays[ndcg], labels == label, sample)
            for label in shown
        }
        made[name] = {
            "attribute": attribute,
            "method": row.fair.method,
            "strength": entry.facts["fair_training"]["strength"],
            "overall": sample.mean(entry.arrays[ndcg] - plain[ndcg]).as_json(),
            "groups": groups,
            "worst": min(shown, key=lambda label: groups[label]["plain"]["value"], default=None),
        }
    return made


def _group(
    plain: np.ndarray[Any, Any], fair: np.ndarray[Any, Any], members: Any, sample: Resampler
) -> dict[str, Any]:
    some = Resampler(int(members.sum()), resamples=sample.resamples, seed=sample.seed)
    values: PerUser = {
        "plain": plain[members],
        "fair": fair[members],
        "difference": fair[members] - plain[members],
    }
    return {name: some.mean(column).as_json() for name, column in values.items()}


def _goals(made: dict[str, Any]) -> list[dict[str, Any]]:
    shipped = next((row for row in made["rows"] if row["name"] == SHIPPED), None)
    found = []
    for goal in GOALS.get(made["collection"]["source"], ()):
        value = None if shipped is None else shipped["metrics"].get(goal.metric, {}).get("value")
        found.append(
            {"metric": goal.metric, "goal": f">= {goal.least}", "value": value,
             "met": None if value is None else value >= goal.least}
        )  # fmt: skip
    policies = made["policies"]
    if policies is not None and policies["curve"]:
        kept = policies["ndcg_kept"][policies["default"]]["value"]
        cost = None if kept is None else 1 - kept
        found.append(
            {"metric": f"cost of {policies['default']}", "goal": f"<= {MOST_COST}", "value": cost,
             "met": None if cost is None else cost <= MOST_COST}
        )  # fmt: skip
    return found
