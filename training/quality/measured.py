"""One model or baseline of the table: made, and measured on held-out purchases.

A model is trained in a process of its own, so that its memory is its own, and its lists come from the
served path; a baseline ranks the whole catalogue. Both are asked for the same users and targets.
"""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console

from server.bundle import load_bundle
from server.engine.engine import Engine
from server.errors import Refused
from training.baselines import Baseline
from training.checkpoints import work_path
from training.data.prepare import Prepared
from training.evaluate import chosen
from training.pipeline import Pipeline
from training.quality.kept import Entry
from training.quality.rows import Row
from training.served import plain_policy, refuse_a_bundle_that_has_seen, served_lists
from training.spent import peak_rss_bytes
from training.task import OnStep, Task, places_in_data, task_of


@dataclass(frozen=True)
class Asked:
    """On what is measured: the held-out part of a collection, and lists of k items."""

    prepared: Prepared
    k: int

    @cached_property
    def task(self) -> Task:
        """The test window: it is looked at once, when all is chosen."""
        return task_of(self.prepared, "test")


def baseline_entry(baseline: Baseline, asked: Asked, on_step: OnStep) -> Entry:
    """Measure it, with those of its settings that are best on validation."""
    began = time.perf_counter()
    task, users = asked.task, asked.task.targets.users
    best = chosen(baseline, asked.prepared, asked.k, on_step)
    lists, novel = best.rank(
        task.history, users, task.cut_ms, asked.k,
        on_users=lambda done: on_step(baseline.title, done, len(users)),
    )  # fmt: skip
    facts = {"settings": best.told(), "seconds": round(time.perf_counter() - began, 1)}
    return Entry(facts, task.measured(lists, novel, asked.k))


def model_entry(
    row: Row, asked: Asked, bundle: Path, on_step: OnStep, *, resume: bool, keep: bool
) -> Entry:
    """Train it into `bundle` and measure what a server with that bundle would send.

    resume: go on from the checkpoints beside it. keep: leave them there.

    Raises:
        Refused: as training does; or training was killed, such as for want of memory.
    """
    spawn = get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as alone:
            facts = alone.submit(_trained, row, asked.prepared, bundle, resume, keep).result()
    except BrokenProcessPool as error:
        raise Refused(
            f"{row.name}: the training process was killed, perhaps for want of memory; start again to "
            "go on from its last checkpoint"
        ) from error
    lists, novel = served(bundle, asked, on_step, row.title)
    return Entry(facts, asked.task.measured(lists, novel, asked.k))


def _trained(
    row: Row, prepared: Prepared, bundle: Path, resume: bool, keep: bool
) -> dict[str, Any]:
    began = time.perf_counter()
    resumed = resume and work_path(bundle).exists()
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(f"\n{row.name}", style="bold", markup=False)
    released = Pipeline(prepared, row.settings, console, fair=row.fair).run(
        name=row.name, policies=None, default_policy=None, out=bundle, refit=row.refit,
        resume=resume, keep_checkpoints=keep,
    )  # fmt: skip
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "peak_rss_bytes": peak_rss_bytes(),
        "resumed": resumed,
        "refit": row.refit,
        "family": released.manifest.model.family,
        "track": released.manifest.quality["track"],
        "validation_ndcg_at_20": released.validation_ndcg_at_20,
        "parity_max_difference": released.parity,
        "fair_training": None if released.fair is None else released.fair.as_json(),
        "model_digest": released.manifest.model.digest,
    }


def served(path: Path, asked: Asked, on_step: OnStep, what: str) -> tuple[Any, Any]:
    """The bundle's lists without a policy, over all items and without those of the history, as places
    in the data."""
    bundle = load_bundle(path)
    engine, task = Engine(bundle), asked.task
    refuse_a_bundle_that_has_seen(engine, task.cut_ms)
    to_data, users = places_in_data(bundle, asked.prepared.dataset), task.targets.users
    lists = [
        to_data[
            served_lists(
                engine, task.history, users, task.cut_ms, policy=plain_policy(engine), k=asked.k,
                seen=seen, on_users=lambda done: on_step(what, done, 2 * len(users)),
            ).items
        ]
        for seen in (True, False)
    ]  # fmt: skip
    return lists[0], lists[1]
