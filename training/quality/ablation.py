"""What groups of features and seeds are worth to the ranker: validation NDCG@20, user by user.

Lists are made once; only the ranker is trained anew. On validation, so that nothing that is chosen by it
has seen the test window.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch
from rich.console import Console

from training.data.prepare import Prepared
from training.device import deterministic
from training.feature_groups import FEATURE_GROUPS
from training.metrics import PerUser
from training.pipeline import Pipeline
from training.quality.kept import Entry
from training.settings import TrainSettings
from training.train import ndcgs_at_20, train_ranker

ALL = "all features"


def variants(base: TrainSettings, seeds: int) -> Iterator[tuple[str, TrainSettings]]:
    """Name and settings: all features, each group left out, and further seeds."""
    yield ALL, base
    for group in FEATURE_GROUPS:
        yield f"without {group}", replace(base, without=(group,))
    for number in range(1, seeds):
        yield f"seed {base.seed + number}", replace(base, seed=base.seed + number)


def ablation_entry(prepared: Prepared, base: TrainSettings, seeds: int) -> Entry:
    """NDCG@20 `[users]` of each variant on validation."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as alone:
        return Entry({}, alone.submit(_measured, prepared, base, seeds).result())


def _measured(prepared: Prepared, base: TrainSettings, seeds: int) -> PerUser:
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print("\nablation", style="bold", markup=False)
    deterministic()
    torch.set_num_threads(1)
    tuning, validation = Pipeline(prepared, base, console).lists.tuning()
    found: PerUser = {}
    for name, settings in variants(base, seeds):
        trained = train_ranker(
            tuning, validation, settings, settings.epochs, lambda epoch, ndcg: None
        )
        found[name] = ndcgs_at_20(trained.model, validation)
        console.print(f"  {name}: validation NDCG@20 {found[name].mean():.4f}", markup=False)
    return found
