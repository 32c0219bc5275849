"""Lists to learn from and to validate on, made at cuts in time, each with a state of its own.

Owns which cuts there are and what each is given: item statistics and, where it is wanted, the score of a
sequence model, both of nothing but what came before the cut.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from server.errors import Refused
from server.features import FeatureState, warm_up
from server.features.types import DAY_MS
from training.data.dataset import Dataset
from training.data.split import Split, Targets, targets_between
from training.fit_features import fit_features
from training.leaks import check_leaks
from training.learners import HistoryRanker
from training.loop import Course
from training.rows import Lists, make_lists, with_scores
from training.run_log import RunLog
from training.sequence_train import sequence_scores, train_sequences
from training.settings import TrainSettings

LISTS_WANTED = 20_000
"""Where one cut has so many, more cuts would teach little more."""
HIDDEN_WANTED = 5_000
"""Users whose histories are hidden, who all get one list: so many tell well how good it is."""
VALIDATION = "validation"


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
        self.sequence_epochs = 0
        self._hidden: Lists | None = None
        self._sequence_models: dict[int, HistoryRanker] = {}

    def tuning(self, *, validation_only: bool = False) -> tuple[list[Lists], Lists]:
        """The lists of the training cuts, unless they are not needed, and those of the validation window."""
        split = self._split
        validation = self._lists(
            VALIDATION, split.train_until_ms, split.validation_until_ms, with_short=False
        )
        if validation_only:
            return [], validation
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

    def _lists(self, what: str, cut_ms: int, until_ms: int, *, with_short: bool = True) -> Lists:
        history = self._data.until(cut_ms)
        targets = targets_between(self._data, cut_ms, until_ms)
        targets = self._some(targets, cut_ms)
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
                with_short=with_short,
                on_list=advance,
            )
            check_leaks(lists, self._data, cut_ms, state, self._settings)
        if what == VALIDATION:
            some = targets.some(np.arange(min(len(targets), HIDDEN_WANTED)))
            self._hidden = make_lists(
                history, some, cut_ms, state, self._settings,
                with_short=False, hidden=True, on_list=lambda done: None,
            )  # fmt: skip
        return lists

    @property
    def hidden(self) -> Lists:
        """The lists of validation users as if they had no history, after `tuning`."""
        assert self._hidden is not None
        return self._hidden

    def _some(self, targets: Targets, cut_ms: int) -> Targets:
        """At most as many users as lists are wanted, drawn by the seed: memory grows with each."""
        if len(targets) <= LISTS_WANTED:
            return targets
        rng = np.random.default_rng((self._settings.seed, cut_ms))
        return targets.some(np.sort(rng.choice(len(targets), LISTS_WANTED, replace=False)))

    def scored(self, lists: Lists) -> Lists:
        """The lists with the sequence model's logits as one feature more: of a model that has seen no more
        than their histories, or its scores would tell too much."""
        model = self.sequence_model(lists.cut_ms)
        return with_scores(lists, sequence_scores(model, lists.recent, lists.items, lists.ptr))

    def tuned_sequences(self) -> float:
        """Train the sequence model of the validation cut, and so choose the number of epochs of all; its
        NDCG@20 on validation, of the whole catalogue."""
        split = self._split
        course = self._train_sequences(
            split.train_until_ms,
            targets_between(self._data, split.train_until_ms, split.validation_until_ms),
        )
        self.sequence_epochs = course.best_epoch
        return course.best_ndcg

    def sequence_model(self, cut_ms: int) -> HistoryRanker:
        """The sequence model of what came before a cut, after `tuned_sequences`."""
        if cut_ms not in self._sequence_models:
            self._train_sequences(cut_ms, None)
        return self._sequence_models[cut_ms]

    def _train_sequences(self, cut_ms: int, validation: Targets | None) -> Course:
        assert self._settings.sequence is not None
        # By all events, so that each cut's training is as long.
        settings = self._settings.sequence.bounded(
            self._data.n_events, self._log.device.type == "cpu"
        )
        epochs = settings.epochs if validation is not None else self.sequence_epochs
        history = self._data.until(cut_ms)
        day = f"{(self._split.test_until_ms - cut_ms) / DAY_MS:g} days before the end"
        what = f"{settings.family}, {day}"
        with self._log.spent("sequences"), self._log.bar(what, epochs) as advance:

            def on_epoch(epoch: int, ndcg: float) -> None:
                advance(1)
                if validation is not None:
                    self._log.tell(f"  epoch {epoch}: alone, of all items, NDCG@20 {ndcg:.4f}")

            trained = train_sequences(
                history, settings, self._settings.seed, epochs, validation, on_epoch,
                self._log.stage(what),
            )  # fmt: skip
        self._log.ended(what, trained.course)
        self._sequence_models[cut_ms] = trained.model
        return trained.course

    def state(self, what: str, history: Dataset, cut_ms: int) -> FeatureState:
        """The item statistics at a cut; history: what came before it."""
        bar = self._log.bar(f"{what}: item statistics", history.n_items)
        with self._log.spent("item statistics"), bar as advance:
            state = fit_features(history, cut_ms, self._settings, advance)
        warm_up(state)
        return state
