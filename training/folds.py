"""Rolling origin: the same training at earlier moments, each measured on what came next.

Owns the folds and their document. Fold 1 is one test window before the usual cuts, fold 2 one more,
and so on: training, validation and test windows are as long as always, no test window overlaps
another, and that of `equipoise evaluate` is not looked at. A fold is made from the tables as they
were when its test window ended: later purchases, users and items are not there, and which items are
usual enough to stay is decided by what was bought before the fold's own training cut.

    document = cross_validate(prepared, settings, n_folds=3, work=Path("out/folds"), console=console)

The document `folds.json` (kind "folds", schema_version 1):

    protocol    n_folds, k, step_days, quick, what was held out of all
    folds       oldest first, of each: fold, cut_unix_ms, cut_day, until_unix_ms, users, items, events
                (learned from), bundle_id, seconds (training, measuring), metrics: as in quality.json,
                and METRIC_best_baseline {name, + its estimate}, METRIC_minus_best_baseline
    over_folds  metric -> mean, spread (standard deviation between folds), lowest, highest, n_folds,
                of the ranker, of the best baseline and of their difference
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from server.bundle import load_bundle
from server.engine.engine import Engine
from server.errors import Refused
from server.features.types import DAY_MS
from training.data.clean import Rules, clean
from training.data.dataset import dataset_of
from training.data.prepare import Prepared
from training.data.split import Split
from training.evaluate import compare, made_of
from training.intervals import Resampler
from training.lists_at_cuts import day_of
from training.pipeline import Pipeline
from training.settings import TrainSettings
from training.task import OnStep


@dataclass(frozen=True)
class FoldProtocol:
    """How folds are measured."""

    k: int = 20
    """Length of a list."""
    resamples: int = 2000
    """Bootstrap resamples of each fold's intervals."""
    confidence: float = 0.95
    """Share of resamples inside an interval."""
    seed: int = 20
    """Seed of the bootstrap."""


def split_before(split: Split, fold: int) -> Split:
    """The cuts `fold` test windows earlier.

    >>> split_before(Split(40, 60, 90, "p"), 1).test_until_ms
    60
    """
    back = fold * (split.test_until_ms - split.validation_until_ms)
    try:
        return replace(
            split,
            train_until_ms=split.train_until_ms - back,
            validation_until_ms=split.validation_until_ms - back,
            test_until_ms=split.test_until_ms - back,
            protocol=f"{split.protocol}; all {fold} test windows earlier",
        )
    except ValueError as error:
        raise Refused(f"fold {fold} would begin before 1970: fewer folds") from error


def prepared_before(prepared: Prepared, fold: int, min_item_purchases: int) -> Prepared:
    """The data as it was `fold` test windows earlier, when that fold's test window ended.

    min_item_purchases: as in the preparation; counted up to the fold's training cut.

    Raises:
        Refused: nothing was bought by then, or cleaning leaves nothing.
    """
    split = split_before(prepared.split, fold)
    rows = prepared.tables.interactions
    known = rows.filter(pl.col("time").dt.epoch("ms") <= split.test_until_ms)
    before = known.filter(pl.col("time").dt.epoch("ms") <= split.train_until_ms)
    if before.is_empty():
        first = int(rows.select(pl.col("time").dt.epoch("ms").min()).item())
        raise Refused(
            f"fold {fold} would learn from events up to {day_of(split.train_until_ms)}, and the first "
            f"is of {day_of(first)}: ask for fewer folds, or bring a longer time span"
        )
    tables, cleaning = clean(
        replace(prepared.tables, interactions=known, left_out=()),
        Rules(min_item_purchases=min_item_purchases, counted_until_ms=split.train_until_ms)
        if min_item_purchases > 1
        else Rules(),
    )
    return Prepared(tables, cleaning, dataset_of(tables), split)


def cross_validate(
    prepared: Prepared,
    settings: TrainSettings,
    *,
    n_folds: int,
    min_item_purchases: int,
    work: Path,
    console: Console,
    protocol: FoldProtocol | None = None,
    on_step: OnStep = lambda what, done, total: None,
    on_fold: Callable[[dict[str, Any]], None] = lambda fold: None,
) -> dict[str, Any]:
    """Train and measure `n_folds` earlier folds; their document.

    work: folder for the folds' bundles. on_fold: told each fold's row when it is done.

    Raises:
        Refused: the data does not reach back far enough, or training refuses a fold.
    """
    how = protocol or FoldProtocol()
    # All are prepared before minutes are spent on one.
    folds = [prepared_before(prepared, n, min_item_purchases) for n in range(n_folds, 0, -1)]
    rows = []
    for number, fold in zip(range(n_folds, 0, -1), folds, strict=True):
        console.print(
            f"fold {number}: learns until {day_of(fold.split.validation_until_ms)}, measured until "
            f"{day_of(fold.split.test_until_ms)}",
            markup=False,
        )
        rows.append(_fold(fold, settings, number, work, console, how, on_step))
        on_fold(rows[-1])
    split = prepared.split
    step_ms = split.test_until_ms - split.validation_until_ms
    return {
        "kind": "folds",
        "schema_version": 1,
        "dataset": {"source": prepared.dataset.source, "digest": prepared.dataset.digest()},
        "made_unix_ms": time.time_ns() // 1_000_000,
        "protocol": {
            "split": split.protocol,
            "n_folds": n_folds,
            "k": how.k,
            "step_days": step_ms / DAY_MS,
            "settings": settings.name,
            "seed": settings.seed,
            "min_item_purchases": min_item_purchases,
            "not_looked_at_after_unix_ms": split.test_until_ms - step_ms,
        },
        "intervals": {
            "confidence": how.confidence,
            "resamples": how.resamples,
            "seed": how.seed,
            "unit": "user",
            "method": "percentile bootstrap over the users of one fold, paired differences",
        },
        "folds": rows,
        "over_folds": over_folds(rows),
    }


def _fold(
    fold: Prepared,
    settings: TrainSettings,
    number: int,
    work: Path,
    console: Console,
    how: FoldProtocol,
    on_step: OnStep,
) -> dict[str, Any]:
    began = time.monotonic()
    out = work / f"fold-{number}"
    Pipeline(fold, settings, console).run(
        name=f"fold-{number}", policies=None, default_policy=None, out=out
    )
    trained = time.monotonic()
    bundle = load_bundle(out)
    compared = compare(Engine(bundle), fold, "test", how.k, on_step)
    sample = Resampler(
        len(compared.task.targets),
        resamples=how.resamples,
        confidence=how.confidence,
        seed=how.seed,
    )
    metrics: dict[str, Any] = {}
    for metric, values in compared.ranker.items():
        means = {
            name: float(np.nanmean(v[metric])) if np.isfinite(v[metric]).any() else -1.0
            for name, v in compared.baselines.items()
        }
        best = max(means, key=lambda name: means[name])
        other = compared.baselines[best][metric]
        metrics[metric] = sample.mean(values).as_json()
        metrics[f"{metric}_best_baseline"] = {"name": best, **sample.mean(other).as_json()}
        metrics[f"{metric}_minus_best_baseline"] = sample.mean(values - other).as_json()
    facts = made_of(bundle, fold)
    return {
        "fold": number,
        "cut_unix_ms": compared.task.cut_ms,
        "cut_day": day_of(compared.task.cut_ms),
        "until_unix_ms": compared.task.until_ms,
        "users": bundle.manifest.data.users,
        "items": bundle.manifest.data.items,
        "events": bundle.manifest.data.interactions,
        "n_users": len(compared.task.targets),
        "bundle_id": facts["bundle_id"],
        "model_digest": facts["model_digest"],
        "dataset_digest": facts["dataset"]["digest"],
        "seconds": {
            "training": round(trained - began, 1),
            "measuring": round(time.monotonic() - trained, 1),
        },
        "metrics": metrics,
    }


def over_folds(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Each metric over the folds that have it: mean, spread between folds, lowest, highest."""
    found: dict[str, dict[str, float | int | None]] = {}
    for metric in rows[0]["metrics"] if rows else ():
        values = [row["metrics"][metric]["value"] for row in rows]
        known = np.array([one for one in values if one is not None], np.float64)
        found[metric] = {
            "mean": float(known.mean()) if len(known) else None,
            "spread": float(known.std(ddof=1)) if len(known) > 1 else None,
            "lowest": float(known.min()) if len(known) else None,
            "highest": float(known.max()) if len(known) else None,
            "n_folds": len(known),
        }
    return found
