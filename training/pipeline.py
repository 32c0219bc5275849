"""Prepared data -> a release bundle: tune, refit, export, gate, write. Reads top to bottom.

Tuning trains on cuts before the validation window and picks the epoch there.
The refit repeats that number of epochs one window later, so that what ships has
seen the validation weeks too; the test window is never touched, so that
`evaluate` can measure what ships. A final refit learns from it as well: for the
release that follows a passed evaluation, which nothing is left to measure on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from server.bundle import Manifest, write_bundle
from server.errors import Refused
from server.features import FEATURE_NAMES, FeatureState, warm_up
from server.features.types import DAY_MS
from training.choose_policies import choose_policies
from training.data.dataset import Dataset
from training.data.prepare import Prepared
from training.data.split import targets_between
from training.export import check_parity, export_onnx, scorer_of
from training.fit_features import fit_features, with_levels
from training.model import PairRanker
from training.release import assemble, group_tables
from training.rows import Lists, make_lists
from training.settings import TrainSettings
from training.train import train_ranker


def day_of(unix_ms: int) -> str:
    """The UTC day of an instant, such as "2026-11-24"."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True)
class Released:
    """A written bundle, and what was measured on the way."""

    manifest: Manifest
    validation_ndcg_at_20: float
    validation_users: int
    best_epoch: int
    parity: float


class Pipeline:
    """One training run, with a progress bar on whatever takes long."""

    def __init__(self, prepared: Prepared, settings: TrainSettings, console: Console) -> None:
        self._data = with_levels(prepared.dataset)
        self._split = prepared.split
        self._settings = settings
        self._console = console

    def run(
        self,
        *,
        name: str,
        policies: Path | None,
        default_policy: str | None,
        out: Path,
        final: bool = False,
    ) -> Released:
        """Train and write the bundle.

        policies, default_policy: see `training.choose_policies`; checked before anything is
        trained. final: learn from the test window too.

        Raises:
            Refused: too little data, a failed parity gate, a policy that makes no sense, or a
                folder that cannot be written. No bundle is written then.
        """
        split, settings = self._split, self._settings
        until_ms = split.test_until_ms if final else split.validation_until_ms
        history = self._data.until(until_ms)
        groups = group_tables(history)
        chosen = choose_policies(policies, default_policy, groups)
        for left_out, why in chosen.left_out.items():
            self._console.print(f"policy {left_out} is left out: {why}", markup=False, emoji=False)
        for never, why in chosen.never_met.items():
            self._console.print(f"policy {never}: {why}", markup=False, emoji=False)
        torch.use_deterministic_algorithms(True)
        tuning = self._cuts(split.train_until_ms)
        validation = self._lists(
            "validation", split.train_until_ms, split.validation_until_ms, with_short=False
        )
        tuned = self._train("tuning", tuning, validation, settings.epochs)
        ndcg = max(tuned.ndcg_by_epoch)
        # One window later: the oldest cut leaves, the validation window comes in.
        refit = self._cuts(until_ms) if final else [*tuning[1:], validation]
        ranker = self._train("refit", refit, None, tuned.best_epoch).model
        ranker.scale.copy_(tuned.model.scale)
        ranker.offset.copy_(tuned.model.offset)
        state = self._state("bundle", history, until_ms)
        self._console.print("exporting to ONNX, and comparing onnxruntime with torch")
        model = export_onnx(ranker)
        parity = check_parity(ranker, scorer_of(model, len(FEATURE_NAMES)), validation)
        parts = assemble(
            name=name,
            data=history,
            until_ms=until_ms,
            state=state,
            model=model,
            groups=groups,
            policies=chosen,
            settings=settings,
            horizon_days=max(1, round(split.horizon_ms / DAY_MS)),
            quality={
                "protocol": split.protocol,
                "settings": settings.name,
                "learned_from_test_window": final,
                "validation_ndcg_at_20": round(ndcg, 5),
                "validation_users": len(validation),
                "parity_max_difference": parity,
            },
        )
        manifest = write_bundle(parts, out)
        _save_checkpoint(ranker, out)
        return Released(manifest, ndcg, len(validation), tuned.best_epoch, parity)

    def _cuts(self, until_ms: int) -> list[Lists]:
        """Lists at cuts one horizon apart, the last of which looks ahead to `until_ms`."""
        count, step_ms = self._settings.cuts, self._split.horizon_ms
        return [
            self._lists(
                f"cut {number} of {count}",
                until_ms - (count + 1 - number) * step_ms,
                until_ms - (count - number) * step_ms,
                with_short=True,
            )
            for number in range(1, count + 1)
        ]

    def _lists(self, what: str, cut_ms: int, until_ms: int, *, with_short: bool) -> Lists:
        history = self._data.until(cut_ms)
        targets = targets_between(self._data, cut_ms, until_ms)
        if not len(targets):
            raise Refused(
                "too little data: nobody with a history bought anything in the "
                f"{(until_ms - cut_ms) / DAY_MS:.0f} days after a training cut, {day_of(cut_ms)}. "
                f"All cuts are counted back from the last event, {day_of(self._data.last_ms)}: "
                "bring a longer time span, or leave out a straggler after a gap"
            )
        state = self._state(what, history, cut_ms)
        with self._bar(f"{what}: lists", len(targets)) as advance:
            return make_lists(
                history,
                targets,
                cut_ms,
                state,
                self._settings,
                with_short=with_short,
                on_list=advance,
            )

    def _state(self, what: str, history: Dataset, cut_ms: int) -> FeatureState:
        with self._bar(f"{what}: item statistics", history.n_items) as advance:
            state = fit_features(history, cut_ms, self._settings, advance)
        warm_up(state)
        return state

    def _train(self, what: str, lists: list[Lists], validation: Lists | None, epochs: int) -> Any:
        with self._bar(what, epochs) as advance:

            def on_epoch(epoch: int, ndcg: float) -> None:
                advance(1)
                if validation is not None:
                    self._console.print(f"  epoch {epoch}: validation NDCG@20 {ndcg:.4f}")

            # The layers are too small for two threads, which wait for each other wherever
            # something else runs beside them.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return train_ranker(lists, validation, self._settings, epochs, on_epoch)
            finally:
                torch.set_num_threads(threads)

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        columns = (
            TextColumn(f"{what:<27}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.advance(task, done)
            # Training may stop early: then it is done, not stuck.
            progress.update(task, completed=total)


def _save_checkpoint(ranker: PairRanker, out: Path) -> None:
    """The weights as safetensors beside the bundle, whole or not at all."""
    path = out.with_name(f"{out.name}.ranker.safetensors")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(ranker.state_dict(), aside)
        aside.replace(path)
    except OSError as error:
        raise Refused(f"cannot write the checkpoint {path}: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)
