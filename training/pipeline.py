"""Prepared data -> a release bundle: tune, refit, export, gate, write. Reads top to bottom.

Tuning trains on cuts before the validation window and picks the epoch there.
The refit repeats that number of epochs one window later, so that what ships has
seen the validation weeks too; the test window is never touched, so that
`evaluate` can measure what ships. A final refit learns from it as well: for the
release that follows a passed evaluation, which nothing is left to measure on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from rich.console import Console

from server import __version__
from server.bundle import Manifest, check_target, write_bundle
from server.features import FEATURE_NAMES
from server.features.types import DAY_MS, Float64
from training.checkpoints import CPU, WorkFolder, aside, work_path
from training.choose_policies import choose_policies
from training.data.prepare import Prepared
from training.export import ParityFailed, check_parity, export_onnx, export_stacked, scorer_of
from training.fair_training import (
    FairChoice,
    FairSettings,
    Weighting,
    check_attribute,
    choose_strength,
    fair_groups,
    weighting_of,
)
from training.fit_features import with_levels
from training.lists_at_cuts import ListsAtCuts
from training.model import FAMILY as PAIRS
from training.model import PairRanker
from training.release import assemble, group_tables
from training.rows import Lists, without_scores
from training.run_log import RunLog
from training.settings import TrainSettings
from training.spent import peak_rss_bytes
from training.stacked_model import FAMILY as STACKED
from training.stacked_model import StackedRanker
from training.train import Trained, ndcgs_at_20, train_ranker

WORTH = 0.001
"""Validation NDCG that a sequence model must add: it costs memory, and time for each list."""


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
        self._fair = fair
        self._log = RunLog(console, settings.seed, device)
        self.lists = ListsAtCuts(self._data, self._split, settings, self._log)

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
        check_target(out)
        if self._fair is not None:
            check_attribute(self._data, self._fair.attribute)
        with WorkFolder.open(
            work_path(out),
            self._key(final),
            resume=resume,
            keep=keep_checkpoints,
            tell=self._log.tell,
        ) as work:
            self._log.work = work
            try:
                return self._run(name, policies, default_policy, out, final)
            except ParityFailed:
                work.discard()  # to go on would lead here again
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
            self._log.tell(f"policy {left_out} is left out: {why}")
        for never, why in chosen.never_met.items():
            self._log.tell(f"policy {never}: {why}")
        torch.use_deterministic_algorithms(True, warn_only=self._log.device.type != "cpu")
        tuning, validation = self.lists.tuning()
        tuned = self._tuned(tuning, validation)
        ndcg = tuned.trained.course.best_ndcg
        # One window later: the oldest cut leaves, the validation window comes in.
        refit = self.lists.cuts(len(tuning), until_ms) if final else [*tuning[1:], validation]
        if settings.sequence is not None and not tuned.stacked:
            refit = [without_scores(one) for one in refit]
        with self._log.spent("refit"):
            ranker = self._train(
                "refit", refit, None, tuned.trained.best_epoch, self._weighting(tuned, refit)
            ).model
        ranker.scale.copy_(tuned.trained.model.scale)
        ranker.offset.copy_(tuned.trained.model.offset)
        state = self.lists.state("bundle", history, until_ms)
        whole: PairRanker | StackedRanker = ranker
        if tuned.stacked:
            whole = StackedRanker(ranker, self.lists.sequence_model("bundle", history, None))
        length = whole.sequence.length if isinstance(whole, StackedRanker) else 0
        self._log.tell("exporting to ONNX, and comparing onnxruntime with torch")
        with self._log.spent("export"):
            model = (
                export_stacked(whole) if isinstance(whole, StackedRanker) else export_onnx(whole)
            )
            parity = check_parity(whole, scorer_of(model, len(FEATURE_NAMES), length), validation)
        with self._log.spent("bundle"):
            parts = assemble(
                name=name,
                data=history,
                until_ms=until_ms,
                state=state,
                model=model,
                family=STACKED if tuned.stacked else PAIRS,
                history_length=length,
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
                    "learning_curves": self._log.curves,
                }
                | ({"fair_training": tuned.fair.as_json()} if tuned.fair is not None else {}),
            )
            weights = safetensors.torch.save(whole.state_dict())
            ranker_path = out.with_name(f"{out.name}.ranker.safetensors")
            # Its room is taken first: a bundle never stands beside another one's weights.
            with aside(ranker_path, weights, "the model's weights", folder=work_path(out)) as place:
                manifest = write_bundle(parts, out)
                place()
        return Released(
            manifest, ndcg, len(validation), tuned.trained.best_epoch, parity,
            self._log.curves, tuned.fair, self._log.spent.seconds, peak_rss_bytes(),
        )  # fmt: skip

    def _key(self, final: bool) -> dict[str, Any]:
        """All that the model depends on."""
        return {
            "made_with": {
                "equipoise": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "device": self._log.device.type,
                "threads": torch.get_num_threads(),
            },
            **self.data_key(),
            "final": final,
            "settings": asdict(self._settings),
            "fair": None if self._fair is None else asdict(self._fair),
        }

    def data_key(self) -> dict[str, Any]:
        """The data and its cuts."""
        split = self._split
        return {
            "data": self._data.digest(),
            "cuts_ms": [split.train_until_ms, split.validation_until_ms, split.test_until_ms],
        }

    def _tuned(self, tuning: list[Lists], validation: Lists) -> _Tuned:
        """The ranker, whether the sequence model's score is worth its cost to it, and fair weights."""
        epochs = self._settings.epochs
        with self._log.spent("tuning"):
            if self._settings.sequence is None:
                tuned = _Tuned(self._train("tuning", tuning, validation, epochs), False)
            else:
                tuned = self._stacked_or_not(tuning, validation)
        if self._fair is None:
            return tuned
        if self._settings.sequence is not None and not tuned.stacked:
            tuning, validation = [without_scores(one) for one in tuning], without_scores(validation)
        with self._log.spent("fair tuning"):
            return self._fairly(self._fair, tuned, tuning, validation)

    def _stacked_or_not(self, tuning: list[Lists], validation: Lists) -> _Tuned:
        epochs = self._settings.epochs
        stacked = self._train("tuning, with sequences", tuning, validation, epochs)
        parts = [without_scores(one) for one in tuning]
        plain = self._train("tuning, without", parts, without_scores(validation), epochs)
        with_ndcg, ndcg = max(stacked.ndcg_by_epoch), max(plain.ndcg_by_epoch)
        worth = with_ndcg >= ndcg + WORTH
        self._log.tell(
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

        def measured(strength: float) -> tuple[Float64, int]:
            if strength not in made:
                made[strength] = self._train(
                    f"tuning, {fair.method} {strength:g}", tuning, validation,
                    self._settings.epochs, weighting_of(fair, groups, tuning, strength),
                )  # fmt: skip
            trained = made[strength]
            return ndcgs_at_20(trained.model, validation), trained.best_epoch

        choice = choose_strength(fair, groups, validation, measured, self._log.tell)
        return _Tuned(made[choice.chosen.strength], plain.stacked, choice)

    def _weighting(self, tuned: _Tuned, lists: list[Lists]) -> Weighting | None:
        if tuned.fair is None:
            return None
        return weighting_of(
            tuned.fair.settings, tuned.fair.groups, lists, tuned.fair.chosen.strength
        )

    def _train(
        self,
        what: str,
        lists: list[Lists],
        validation: Lists | None,
        epochs: int,
        weighting: Weighting | None = None,
    ) -> Trained:
        with self._log.bar(what, epochs) as advance:

            def on_epoch(epoch: int, ndcg: float) -> None:
                advance(1)
                if validation is not None:
                    self._log.tell(f"  epoch {epoch}: validation NDCG@20 {ndcg:.4f}")

            # The layers are too small for two threads, which wait for each other wherever
            # something else runs beside them.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                stage = self._log.stage(what)
                trained = train_ranker(
                    lists, validation, self._settings, epochs, on_epoch, stage, weighting
                )
            finally:
                torch.set_num_threads(threads)
        self._log.ended(what, trained.course)
        return trained
