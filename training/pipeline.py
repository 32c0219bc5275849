"""Prepared data -> a release bundle: tune, refit, export, gate, write. Reads top to bottom.

Tuning trains on cuts before the validation window and picks the epoch there.
The refit repeats that number of epochs one window later, so that what ships has
seen the validation weeks too; the test window is never touched, so that
`evaluate` can measure what ships. A final refit learns from it as well: for the
release that follows a passed evaluation, which nothing is left to measure on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
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

from server import __version__
from server.bundle import Manifest, write_bundle
from server.errors import Refused
from server.features import FeatureState, warm_up
from server.features.types import DAY_MS, Float64
from training.checkpoints import CPU, Stage, WorkFolder, aside, work_path
from training.choose_policies import choose_policies
from training.data.dataset import Dataset
from training.data.prepare import Prepared
from training.data.split import Targets, targets_between
from training.export import ParityFailed, check_parity, export_onnx, scorer_of
from training.fair_training import (
    FairChoice,
    FairSettings,
    Weighting,
    check_attribute,
    choose_strength,
    fair_groups,
    preference,
    weighting_of,
)
from training.families import Ranker, family_of
from training.fit_features import fit_features, with_levels
from training.leaks import check_leaks
from training.learners import HistoryRanker
from training.loop import Course
from training.release import assemble, group_tables
from training.rows import Lists, make_lists, with_scores, without_scores
from training.sequence_model import SequenceRanker
from training.sequence_train import sequence_scores, train_sequences
from training.settings import TrainSettings
from training.spent import Spent, peak_rss_bytes
from training.stacked_model import StackedRanker
from training.train import Trained, ndcgs_at_20, train_ranker

LISTS_WANTED = 20_000
"""Where one cut has so many, more cuts would teach little more."""
WORTH = 0.001
"""Validation NDCG that a sequence model must add: it costs memory, and time for each list."""


def day_of(unix_ms: int) -> str:
    """The UTC day of an instant, such as "2026-11-24"."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True)
class Released:
    """A written bundle, and what was measured on the way.

    curves: the learning curve of each stage. seconds: by part of the run.
    """

    manifest: Manifest
    validation_ndcg_at_20: float
    validation_users: int
    best_epoch: int
    parity: float
    curves: dict[str, dict[str, list[Any]]]
    fair: FairChoice | None
    seconds: dict[str, float]
    peak_rss_bytes: int


@dataclass(frozen=True)
class _Tuned:
    """What tuning found: the ranker, its form, and what its lists count for."""

    trained: Trained
    stacked: bool
    fair: FairChoice | None = None


class Pipeline:
    """One training run, with a progress bar on whatever takes long.

    fair: groups whose lists count for more. device: what trains; see `training.device`.
    """

    def __init__(
        self,
        prepared: Prepared,
        settings: TrainSettings,
        console: Console,
        *,
        fair: FairSettings | None = None,
        device: torch.device = CPU,
    ) -> None:
        self._data = with_levels(prepared.dataset)
        self._split = prepared.split
        self._settings = settings
        self._console = console
        self._fair = fair
        self._device = device
        self._sequence_epochs = 0
        self._work: WorkFolder | None = None
        self._curves: dict[str, dict[str, list[Any]]] = {}
        self._spent = Spent()

    def run(
        self,
        *,
        name: str,
        policies: Path | None,
        default_policy: str | None,
        out: Path,
        final: bool = False,
        resume: bool = False,
        keep_checkpoints: bool = False,
    ) -> Released:
        """Train and write the bundle.

        policies, default_policy: see `training.choose_policies`; checked before anything is
        trained. final: learn from the test window too. resume: go on from the checkpoints of a run
        that was killed; item statistics and lists are computed again.

        Raises:
            Refused: too little data, a leak, a loss that is no number, a failed parity gate, a policy
                that makes no sense, another run's checkpoints, or a folder that cannot be written. No
                bundle is written then.
        """
        if self._fair is not None:
            check_attribute(self._data, self._fair.attribute)
        with WorkFolder.open(
            work_path(out), self._key(final), resume=resume, keep=keep_checkpoints, tell=self._tell
        ) as self._work:
            try:
                return self._run(name, policies, default_policy, out, final)
            except ParityFailed:
                self._work.discard()  # to go on would lead here again
                raise

    def _run(
        self, name: str, policies: Path | None, default_policy: str | None, out: Path, final: bool
    ) -> Released:
        split, settings = self._split, self._settings
        until_ms = split.test_until_ms if final else split.validation_until_ms
        history = self._data.until(until_ms)
        groups = group_tables(history)
        chosen = choose_policies(policies, default_policy, groups)
        for left_out, why in chosen.left_out.items():
            self._tell(f"policy {left_out} is left out: {why}")
        for never, why in chosen.never_met.items():
            self._tell(f"policy {never}: {why}")
        torch.use_deterministic_algorithms(True, warn_only=self._device.type != "cpu")
        tuning, validation = self.tuning_lists()
        tuned = self._tuned(tuning, validation)
        ndcg = tuned.trained.course.best_ndcg
        # One window later: the oldest cut leaves, the validation window comes in.
        refit = self._cuts(len(tuning), until_ms) if final else [*tuning[1:], validation]
        if settings.sequence is not None and not tuned.stacked:
            refit = [without_scores(one) for one in refit]
        with self._spent("refit"):
            ranker = self._train(
                "refit", refit, None, tuned.trained.best_epoch, self._weighting(tuned, refit)
            ).model
        ranker.scale.copy_(tuned.trained.model.scale)
        ranker.offset.copy_(tuned.trained.model.offset)
        state = self._state("bundle", history, until_ms)
        whole: Ranker = ranker
        if tuned.stacked:
            sequence = self._sequence_model("bundle", history, None)
            assert isinstance(sequence, SequenceRanker)
            whole = StackedRanker(ranker, sequence)
        family = family_of(whole)
        self._console.print("exporting to ONNX, and comparing onnxruntime with torch")
        with self._spent("export"):
            model = export_onnx(whole)
            parity = check_parity(whole, scorer_of(model, family), validation)
        with self._spent("bundle"):
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
                    "learning_curves": self._curves,
                }
                | ({"fair_training": tuned.fair.as_json()} if tuned.fair is not None else {}),
            )
            weights = safetensors.torch.save(whole.state_dict())
            ranker_path = out.with_name(f"{out.name}.ranker.safetensors")
            # Its room is taken first: a bundle never stands beside another one's weights.
            with aside(ranker_path, weights, "the model's weights") as place:
                manifest = write_bundle(parts, out)
                place()
        return Released(
            manifest, ndcg, len(validation), tuned.trained.best_epoch, parity,
            self._curves, tuned.fair, self._spent.seconds, peak_rss_bytes(),
        )  # fmt: skip

    def tuning_lists(self) -> tuple[list[Lists], Lists]:
        """The lists of the training cuts, and those of the validation window."""
        split = self._split
        validation = self._lists(
            "validation", split.train_until_ms, split.validation_until_ms, for_validation=True
        )
        count = max(1, min(self._settings.cuts, -(-LISTS_WANTED // len(validation))))
        return self._cuts(count, split.train_until_ms), validation

    def _key(self, final: bool) -> dict[str, Any]:
        """All that the model depends on."""
        split = self._split
        return {
            "made_with": {
                "equipoise": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "device": self._device.type,
                "threads": torch.get_num_threads(),
            },
            "data": self._data.digest(),
            "cuts_ms": [split.train_until_ms, split.validation_until_ms, split.test_until_ms],
            "final": final,
            "settings": asdict(self._settings),
            "fair": None if self._fair is None else asdict(self._fair),
        }

    def _tell(self, text: str) -> None:
        self._console.print(text, markup=False, emoji=False)

    def _stage(self, name: str) -> Stage:
        seed = self._settings.seed
        if self._work is None:
            return Stage(name, seed, self._device)
        return self._work.stage(name, seed, self._device)

    def _curve(self, what: str, course: Course) -> None:
        self._curves[what] = course.curve()

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
        with self._spent("lists"), self._bar(f"{what}: lists", len(targets)) as advance:
            lists = make_lists(
                history,
                targets,
                cut_ms,
                state,
                self._settings,
                with_short=not for_validation,
                on_list=advance,
            )
            check_leaks(lists, self._data, cut_ms, state, self._settings)
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
        what = f"{what}: sequences"
        with self._spent("sequences"), self._bar(what, epochs) as advance:

            def on_epoch(epoch: int, ndcg: float) -> None:
                advance(1)
                if validation is not None:
                    self._console.print(f"  epoch {epoch}: of sequences alone NDCG@20 {ndcg:.4f}")

            trained = train_sequences(
                history, settings, self._settings.seed, epochs, validation, on_epoch,
                self._stage(what),
            )  # fmt: skip
        self._curve(what, trained.course)
        if validation is not None:
            self._sequence_epochs = trained.best_epoch
        return trained.model

    def _tuned(self, tuning: list[Lists], validation: Lists) -> _Tuned:
        """The ranker, whether the sequence model's score is worth its cost to it, and fair weights."""
        epochs = self._settings.epochs
        with self._spent("tuning"):
            if self._settings.sequence is None:
                tuned = _Tuned(self._train("tuning", tuning, validation, epochs), False)
            else:
                tuned = self._stacked_or_not(tuning, validation)
        if self._fair is None:
            return tuned
        if self._settings.sequence is not None and not tuned.stacked:
            tuning, validation = [without_scores(one) for one in tuning], without_scores(validation)
        with self._spent("fair tuning"):
            return self._fairly(self._fair, tuned, tuning, validation)

    def _stacked_or_not(self, tuning: list[Lists], validation: Lists) -> _Tuned:
        epochs = self._settings.epochs
        stacked = self._train("tuning, with sequences", tuning, validation, epochs)
        parts = [without_scores(one) for one in tuning]
        plain = self._train("tuning, without", parts, without_scores(validation), epochs)
        with_ndcg, ndcg = max(stacked.ndcg_by_epoch), max(plain.ndcg_by_epoch)
        worth = with_ndcg >= ndcg + WORTH
        self._console.print(
            f"sequences: validation NDCG@20 {with_ndcg:.4f} with their score, {ndcg:.4f} without: "
            + ("they are in" if worth else f"left out, for less than {WORTH} more")
        )
        return _Tuned(stacked, True) if worth else _Tuned(plain, False)

    def _fairly(
        self, fair: FairSettings, plain: _Tuned, tuning: list[Lists], validation: Lists
    ) -> _Tuned:
        """The same form, with the weights that validation chooses; strength 0 is what is there."""
        groups = fair_groups(self._data, fair, tuning, validation)
        made = {0.0: plain.trained}
        floor = plain.trained.course.best_ndcg * (1 - fair.most_lost)
        prefer = preference(groups, validation, floor)

        def measured(strength: float) -> tuple[Float64, int]:
            if strength not in made:
                made[strength] = self._train(
                    f"tuning, {fair.method} {strength:g}", tuning, validation,
                    self._settings.epochs, weighting_of(fair, groups, tuning, strength), prefer,
                )  # fmt: skip
            trained = made[strength]
            return ndcgs_at_20(trained.model, validation), trained.best_epoch

        choice = choose_strength(fair, groups, validation, measured, self._tell)
        return _Tuned(made[choice.chosen.strength], plain.stacked, choice)

    def _weighting(self, tuned: _Tuned, lists: list[Lists]) -> Weighting | None:
        if tuned.fair is None:
            return None
        return weighting_of(
            tuned.fair.settings, tuned.fair.groups, lists, tuned.fair.chosen.strength
        )

    def _state(self, what: str, history: Dataset, cut_ms: int) -> FeatureState:
        bar = self._bar(f"{what}: item statistics", history.n_items)
        with self._spent("item statistics"), bar as advance:
            state = fit_features(history, cut_ms, self._settings, advance)
        warm_up(state)
        return state

    def _train(
        self,
        what: str,
        lists: list[Lists],
        validation: Lists | None,
        epochs: int,
        weighting: Weighting | None = None,
        prefer: Callable[[Float64], float] | None = None,
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
                stage = self._stage(what)
                trained = train_ranker(
                    lists, validation, self._settings, epochs, on_epoch, stage, weighting, prefer
                )
            finally:
                torch.set_num_threads(threads)
        self._curve(what, trained.course)
        return trained

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
