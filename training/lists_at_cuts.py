"""Lists to learn from and to validate on, made at cuts in time, each with a state of its own.

Owns which cuts there are and what each is given: item statistics and, where it is wanted, the score of a
sequence model, both of nothing but what came before the cut.
"""

from __future__ import annotations

from datetime import UTC, datetime

from server.errors import Refused
from server.features import FeatureState, warm_up
from server.features.types import DAY_MS
from training.data.dataset import Dataset
from training.data.split import Split, Targets, targets_between
from training.fit_features import fit_features
from training.leaks import check_leaks
from training.rows import Lists, make_lists, with_scores
from training.run_log import RunLog
from training.sequence_model import SequenceRanker
from training.sequence_train import sequence_scores, train_sequences
from training.settings import TrainSettings

LISTS_WANTED = 20_000
"""Where one cut has so many, more cuts would teach little more."""


def day_of(unix_ms: int) -> str:
    """The UTC day of an instant, such as "2026-11-24"."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d")


class ListsAtCuts:
    """Makes the lists of one run. data: all events, of which each cut sees those before it."""

    def __init__(self, data: Dataset, split: Split, settings: TrainSettings, log: RunLog) -> None:
        self._data = data
        self._split = split
        self._settings = settings
        self._log = log
        self._sequence_epochs = 0

    def tuning(self) -> tuple[list[Lists], Lists]:
        """The lists of the training cuts, and those of the validation window."""
        split = self._split
        validation = self._lists(
            "validation", split.train_until_ms, split.validation_until_ms, for_validation=True
        )
        count = max(1, min(self._settings.cuts, -(-LISTS_WANTED // len(validation))))
        return self.cuts(count, split.train_until_ms), validation

    def cuts(self, count: int, until_ms: int) -> list[Lists]:
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
        state = self.state(what, history, cut_ms)
        with self._log.spent("lists"), self._log.bar(f"{what}: lists", len(targets)) as advance:
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
        model = self.sequence_model(what, history, targets if for_validation else None)
        return with_scores(lists, sequence_scores(model, lists.recent, lists.items, lists.ptr))

    def sequence_model(
        self, what: str, history: Dataset, validation: Targets | None
    ) -> SequenceRanker:
        """A sequence model of what is in `history`. validation: what came next, by which the number of
        epochs is chosen, for this model and all others."""
        settings = self._settings.sequence
        assert settings is not None
        epochs = settings.epochs if validation is not None else self._sequence_epochs
        what = f"{what}: sequences"
        with self._log.spent("sequences"), self._log.bar(what, epochs) as advance:

            def on_epoch(epoch: int, ndcg: float) -> None:
                advance(1)
                if validation is not None:
                    self._log.tell(f"  epoch {epoch}: of sequences alone NDCG@20 {ndcg:.4f}")

            trained = train_sequences(
                history, settings, self._settings.seed, epochs, validation, on_epoch,
                self._log.stage(what),
            )  # fmt: skip
        self._log.ended(what, trained.course)
        if validation is not None:
            self._sequence_epochs = trained.best_epoch
        return trained.model

    def state(self, what: str, history: Dataset, cut_ms: int) -> FeatureState:
        """The item statistics at a cut; history: what came before it."""
        bar = self._log.bar(f"{what}: item statistics", history.n_items)
        with self._log.spent("item statistics"), bar as advance:
            state = fit_features(history, cut_ms, self._settings, advance)
        warm_up(state)
        return state
