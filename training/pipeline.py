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
from server.features import FeatureState, warm_up
from server.features.types import DAY_MS
from training.choose_policies import choose_policies
from training.data.dataset import Dataset
from training.data.prepare import Prepared
from training.data.split import Targets, targets_between
from training.export import check_parity, export_onnx, scorer_of
from training.families import Ranker, family_of
from training.fit_features import fit_features, with_levels
from training.learners import HistoryRanker
from training.release import assemble, group_tables
from training.rows import Lists, make_lists, with_scores, without_scores
from training.sequence_model import SequenceRanker
from training.sequence_train import sequence_scores, train_sequences
from training.settings import TrainSettings
from training.stacked_model import StackedRanker
from training.train import Trained, train_ranker

LISTS_WANTED = 20_000
"""Where one cut has so many, more cuts would teach little more."""
WORTH = 0.001
"""Validation NDCG that a sequence model must add: it costs memory, and time for each list."""


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
        self._sequence_epochs = 0

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
        validation = self._lists(
            "validation", split.train_until_ms, split.validation_until_ms, for_validation=True
        )
        count = max(1, min(settings.cuts, -(-LISTS_WANTED // len(validation))))
        tuning = self._cuts(count, split.train_until_ms)
        tuned, stacked = self._tuned(tuning, validation)
        ndcg = max(tuned.ndcg_by_epoch)
        # One window later: the oldest cut leaves, the validation window comes in.
        refit = self._cuts(count, until_ms) if final else [*tuning[1:], validation]
        if settings.sequence is not None and not stacked:
            refit = [without_scores(one) for one in refit]
        ranker = self._train("refit", refit, None, tuned.best_epoch).model
        ranker.scale.copy_(tuned.model.scale)
        ranker.offset.copy_(tuned.model.offset)
        state = self._state("bundle", history, until_ms)
        whole: Ranker = ranker
        if stacked:
            sequence = self._sequence_model("bundle", history, None)
            assert isinstance(sequence, SequenceRanker)
            whole = StackedRanker(ranker, sequence)
        family = family_of(whole)
        self._console.print("exporting to ONNX, and comparing onnxruntime with torch")
        model = export_onnx(whole)
        parity = check_parity(whole, scorer_of(model, family), validation)
        parts = assemble(
            name=name,
            data=history,
            until_ms=until_ms,
            state=state,
            model=model,
            family=family,
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
        _save_checkpoint(whole, out)
        return Released(manifest, ndcg, len(validation), tuned.best_epoch, parity)

    def _cuts(self, count: int, until_ms: int) -> list[Lists]:
        """Lists at cuts one horizon apart, the last of which looks ahead to `until_ms`."""
        step_ms = self._split.horizon_ms
        return [
            self._lists(
                f"cut {number} of {count}",
                until_ms - (count + 1 - number) * step_ms,
                until_ms - (count - number) * step_ms,
            )
            for number in range(1, count + 1)
        ]

    def _lists(
        self, what: str, cut_ms: int, until_ms: int, *, for_validation: bool = False
    ) -> Lists:
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
            lists = make_lists(
                history,
                targets,
                cut_ms,
                state,
                self._settings,
                with_short=not for_validation,
                on_list=advance,
            )
        if self._settings.sequence is None:
            return lists
        # Of a model that has seen no more than the lists' histories, or its scores would tell too much.
        model = self._sequence_model(what, history, targets if for_validation else None)
        return with_scores(lists, sequence_scores(model, lists.recent, lists.items, lists.ptr))

    def _sequence_model(
        self, what: str, history: Dataset, validation: Targets | None
    ) -> HistoryRanker:
        """A sequence model of what is in `history`. validation: what came next, by which the number of
        epochs is chosen, for this model and all others."""
        settings = self._settings.sequence
        assert settings is not None
        epochs = settings.epochs if validation is not None else self._sequence_epochs
        with self._bar(f"{what}: sequences", epochs) as advance:

            def on_epoch(epoch: int, ndcg: float) -> None:
                advance(1)
                if validation is not None:
                    self._console.print(f"  epoch {epoch}: of sequences alone NDCG@20 {ndcg:.4f}")

            trained = train_sequences(
                history, settings, self._settings.seed, epochs, validation, on_epoch
            )
        if validation is not None:
            self._sequence_epochs = trained.best_epoch
        return trained.model

    def _tuned(self, tuning: list[Lists], validation: Lists) -> tuple[Trained, bool]:
        """The ranker, and whether the sequence model's score is worth its cost to it."""
        if self._settings.sequence is None:
            return self._train("tuning", tuning, validation, self._settings.epochs), False
        stacked = self._train("tuning, with sequences", tuning, validation, self._settings.epochs)
        parts = [without_scores(one) for one in tuning]
        plain = self._train(
            "tuning, without", parts, without_scores(validation), self._settings.epochs
        )
        with_ndcg, ndcg = max(stacked.ndcg_by_epoch), max(plain.ndcg_by_epoch)
        worth = with_ndcg >= ndcg + WORTH
        self._console.print(
            f"sequences: validation NDCG@20 {with_ndcg:.4f} with their score, {ndcg:.4f} without: "
            + ("they are in" if worth else f"left out, for less than {WORTH} more")
        )
        return (stacked, True) if worth else (plain, False)

    def _state(self, what: str, history: Dataset, cut_ms: int) -> FeatureState:
        with self._bar(f"{what}: item statistics", history.n_items) as advance:
            state = fit_features(history, cut_ms, self._settings, advance)
        warm_up(state)
        return state

    def _train(
        self, what: str, lists: list[Lists], validation: Lists | None, epochs: int
    ) -> Trained:
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


def _save_checkpoint(ranker: torch.nn.Module, out: Path) -> None:
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
