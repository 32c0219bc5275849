"""From lists to a fitted model: which kind it is to be, tuned on validation and refitted one window later.

Owns the choice of the track, and says why. `pairs`: the ranker over pair features. `auto`: also with a
sequence model's score among them, if validation gains by it; not tried on where the sequence model alone
is far from the ranker, since it costs a training at each cut. Alone: a model of histories by itself, for
those who ask for it; so is the repeat-consumption ranker, which learns from the ranker's lists. Must not
know bundles or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from server.errors import Refused
from server.features.types import Float64
from training import recanet
from training.data.dataset import Dataset
from training.device import threads
from training.fair_training import (
    FairChoice,
    FairSettings,
    Weighting,
    choose_strength,
    fair_groups,
    weighting_of,
)
from training.families import Ranker
from training.lists_at_cuts import ListsAtCuts
from training.loop import OnEpoch
from training.recanet_train import TrainedRepeats, train_repeats
from training.rows import Lists
from training.run_log import RunLog
from training.sequence_model import SequenceRanker
from training.settings import TrainSettings
from training.stacked_model import StackedRanker
from training.train import (
    Trained,
    calibration,
    ndcgs_at_20,
    ndcgs_of_scores,
    train_ranker,
)
from training.unknown import Unknown, choose_unknown

WORTH = 0.001
"""Validation NDCG that a sequence model must add: it costs memory, and time for each list."""
HOPE = 0.5
"""A sequence model that alone reaches less than this share of the ranker is not tried on."""


@dataclass(frozen=True)
class Fitted:
    """A model to ship, and how it was found.

    validation: the lists that it was calibrated on, as it reads them. track: for the manifest. unknown:
    what whoever has no history gets; None where nothing was to choose.
    """

    whole: Ranker
    validation: Lists
    ndcg: float
    best_epoch: int
    fair: FairChoice | None
    track: dict[str, Any]
    unknown: Unknown | None = None


@dataclass(frozen=True)
class _Tuned:
    """What tuning found: the ranker, the lists as it reads them, and what these count for."""

    trained: Trained
    tuning: list[Lists]
    validation: Lists
    stacked: bool
    track: dict[str, Any]
    fair: FairChoice | None = None


class Fitter:
    """Fits the model of one run. data: all events, of which only `lists` decides what is seen."""

    def __init__(
        self,
        data: Dataset,
        settings: TrainSettings,
        lists: ListsAtCuts,
        log: RunLog,
        fair: FairSettings | None,
    ) -> None:
        self._data = data
        self._settings = settings
        self._lists = lists
        self._log = log
        self._fair = fair

    def fitted(self, until_ms: int, *, final: bool, refit: bool) -> Fitted:
        """The model that learned from what came before `until_ms`.

        final: from the test window too. refit: False leaves it as it was tuned.
        """
        sequence = self._settings.sequence
        if sequence is not None and sequence.family != "sasrec" and not sequence.alone:
            raise Refused(
                f"sequence.family: got {sequence.family!r}, allowed beside pair features: sasrec; or "
                "set sequence.alone"
            )
        if sequence is not None and sequence.alone:
            if sequence.family == recanet.FAMILY:
                return self._repeats(until_ms, final=final, refit=refit)
            _, validation = self._lists.tuning(validation_only=True)
            return self._alone(validation, until_ms)
        tuning, validation = self._lists.tuning()
        tuned = self._tuned(tuning, validation)
        if not refit:
            return self._whole(tuned, tuned.trained, until_ms)
        # One window later: the oldest cut leaves, the validation window comes in.
        learned = [*tuned.tuning[1:], tuned.validation]
        if final:
            learned = self._lists.cuts(len(tuning), until_ms)
            if tuned.stacked:
                learned = [self._lists.scored(one) for one in learned]
        with self._log.spent("refit"):
            trained = self._train(
                "refit", learned, None, tuned.trained.best_epoch, self._weighting(tuned, learned)
            )
        trained.model.scale.copy_(tuned.trained.model.scale)
        trained.model.offset.copy_(tuned.trained.model.offset)
        return self._whole(tuned, trained, until_ms)

    def _whole(self, tuned: _Tuned, trained: Trained, until_ms: int) -> Fitted:
        ranker = trained.model
        unknown = self._unknown(tuned)
        if unknown is not None:
            unknown.give(ranker)
        whole: Ranker = ranker
        if tuned.stacked:
            model = self._lists.sequence_model(until_ms)
            assert isinstance(model, SequenceRanker)
            whole = StackedRanker(ranker, model)
        ndcg = tuned.trained.course.best_ndcg
        return Fitted(
            whole,
            tuned.validation,
            ndcg,
            tuned.trained.best_epoch,
            tuned.fair,
            tuned.track,
            unknown,
        )

    def _unknown(self, tuned: _Tuned) -> Unknown | None:
        """By the tuned ranker, since a refitted one has seen what validation asks for."""
        if "item" in self._settings.without:
            return None
        hidden = self._lists.hidden
        if tuned.stacked:
            hidden = self._lists.scored(hidden)
        return choose_unknown(tuned.trained.model, hidden)

    def _alone(self, validation: Lists, until_ms: int) -> Fitted:
        """A model of histories by itself, calibrated on the candidates that it will be asked about."""
        assert self._settings.sequence is not None
        of_all = self._lists.tuned_sequences()
        scored = self._lists.scored(validation)
        scores = scored.features[:, -1]
        ndcg = float(ndcgs_of_scores(scores, validation).mean())
        whole = self._lists.sequence_model(until_ms)
        scale, offset = calibration(scores, validation.labels)
        whole.scale.fill_(scale)
        whole.offset.fill_(offset)
        track = {
            "chosen": self._settings.sequence.family,
            "why": "it was asked for",
            "validation_ndcg_at_20": {
                "of all items": round(of_all, 5),
                "of candidates": round(ndcg, 5),
            },
        }
        return Fitted(whole, validation, ndcg, self._lists.sequence_epochs, None, track)

    def _repeats(self, until_ms: int, *, final: bool, refit: bool) -> Fitted:
        """The repeat-consumption ranker: tuned, and refitted one window later, as the ranker is."""
        assert self._settings.sequence is not None
        tuning, validation = self._lists.tuning()
        with self._log.spent("tuning"):
            tuned = self._train_repeats(
                "tuning", tuning, validation, self._settings.sequence.epochs
            )
        model, best_epoch = tuned.model, tuned.course.best_epoch
        if refit:
            learned = [*tuning[1:], validation]
            if final:
                learned = self._lists.cuts(len(tuning), until_ms)
            with self._log.spent("refit"):
                model = self._train_repeats("refit", learned, None, best_epoch).model
            model.scale.copy_(tuned.model.scale)
            model.offset.copy_(tuned.model.offset)
        ndcg = tuned.course.best_ndcg
        track = {
            "chosen": recanet.FAMILY,
            "why": "it was asked for",
            "validation_ndcg_at_20": {"of candidates": round(ndcg, 5)},
        }
        return Fitted(model, validation, ndcg, best_epoch, None, track)

    def _train_repeats(
        self, what: str, lists: list[Lists], validation: Lists | None, epochs: int
    ) -> TrainedRepeats:
        with self._log.bar(what, epochs) as advance:
            trained = train_repeats(
                lists, validation, self._data.n_items, self._settings, epochs,
                self._on_epoch(advance, validation), self._log.stage(what),
            )  # fmt: skip
        self._log.ended(what, trained.course)
        return trained

    def _tuned(self, tuning: list[Lists], validation: Lists) -> _Tuned:
        """The ranker, whether the sequence model's score is worth its cost to it, and fair weights."""
        with self._log.spent("tuning"):
            trained = self._train("tuning", tuning, validation, self._settings.epochs)
        ndcg = trained.course.best_ndcg
        track = {
            "chosen": "pairs",
            "why": "it was asked for",
            "validation_ndcg_at_20": {"pairs": round(ndcg, 5)},
        }
        tuned = _Tuned(trained, tuning, validation, False, track)
        if self._settings.sequence is not None:
            tuned = self._stacked_or_not(tuned)
        if self._fair is None:
            return tuned
        with self._log.spent("fair tuning"):
            return self._fairly(self._fair, tuned)

    def _stacked_or_not(self, plain: _Tuned) -> _Tuned:
        ndcg = plain.trained.course.best_ndcg
        alone = self._lists.tuned_sequences()
        values = {"pairs": round(ndcg, 5), "sequences alone": round(alone, 5)}
        if alone < HOPE * ndcg:
            return self._chosen(
                plain,
                values,
                f"sequences alone reach validation NDCG@20 {alone:.4f}, less than {HOPE:.0%} of the "
                f"{ndcg:.4f} of pair features: not tried on",
            )
        tuning = [self._lists.scored(one) for one in plain.tuning]
        validation = self._lists.scored(plain.validation)
        with self._log.spent("tuning"):
            stacked = self._train(
                "tuning, with sequences", tuning, validation, self._settings.epochs
            )
        with_ndcg = stacked.course.best_ndcg
        values["pairs with sequences"] = round(with_ndcg, 5)
        told = f"validation NDCG@20 {with_ndcg:.4f} with the sequence model's score, {ndcg:.4f} without"
        if with_ndcg < ndcg + WORTH:
            return self._chosen(plain, values, f"{told}: left out, for less than {WORTH} more")
        return self._chosen(_Tuned(stacked, tuning, validation, True, {}), values, f"{told}: taken")

    def _chosen(self, tuned: _Tuned, values: dict[str, float], why: str) -> _Tuned:
        self._log.tell(f"track: {why}")
        track = {
            "chosen": "pairs with sequences" if tuned.stacked else "pairs",
            "why": why,
            "validation_ndcg_at_20": values,
        }
        return _Tuned(tuned.trained, tuned.tuning, tuned.validation, tuned.stacked, track)

    def _fairly(self, fair: FairSettings, plain: _Tuned) -> _Tuned:
        """The same form, with the weights that validation chooses; strength 0 is what is there."""
        tuning, validation = plain.tuning, plain.validation
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
        return _Tuned(
            made[choice.chosen.strength], tuning, validation, plain.stacked, plain.track, choice
        )

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
            on_epoch = self._on_epoch(advance, validation)
            # The layers are too small for two threads, which wait for each other wherever
            # something else runs beside them.
            with threads(1):
                stage = self._log.stage(what)
                trained = train_ranker(
                    lists, validation, self._settings, epochs, on_epoch, stage, weighting
                )
        self._log.ended(what, trained.course)
        return trained

    def _on_epoch(self, advance: Callable[[int], None], validation: Lists | None) -> OnEpoch:
        def on_epoch(epoch: int, ndcg: float) -> None:
            advance(1)
            if validation is not None:
                self._log.tell(f"  epoch {epoch}: validation NDCG@20 {ndcg:.4f}")

        return on_epoch
