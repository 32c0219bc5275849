"""How a ranker is trained: one frozen dataclass; under each field what raising or lowering it does.

The ranges are those that a settings file is held to (`training.settings_file`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from training.feature_groups import Group

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


HistoryFamily = Literal["sasrec", "two-tower", "two-tower-difference", "recanet"]


@dataclass(frozen=True)
class SequenceSettings:
    """Those of a model that reads histories."""

    family: HistoryFamily = "sasrec"
    """"sasrec"; "two-tower" (the article's, Embedding -> LSTM -> Dense on both sides) or
    "two-tower-difference" (its formula, which gives all users one list); "recanet" (gaps between purchases
    of an item)."""

    alone: bool = False
    """The model by itself, without pair features."""

    length: Count = 50
    """The last items of a history that it reads: more costs time per request."""

    width: Count = 64
    """Of an item's vector: more needs more purchases, and memory in the bundle."""

    heads: Count = 2
    """Attention heads."""

    blocks: Count = 2
    """Attention blocks."""

    feed: Count = 4
    """How many times as wide the inner layers are."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """More is steadier on few data, and slower."""

    learning_rate: LearningRate = 1e-3
    """AdamW's; one cycle, cosine to zero."""

    weight_decay: NotNegative = 0.0
    """AdamW's."""

    windows_per_step: Count = 128
    """Pieces of histories per optimiser step."""

    epochs: Count = 20
    """The most passes over all histories; the best epoch on validation is kept."""

    patience: Count = 5
    """Epochs without a better validation NDCG before training stops."""

    whole_softmax: Annotated[int, Field(ge=0)] = 4_000_000_000
    """Up to so many events times items the loss is against all items: better, and slower."""

    drawn: Count = 2_048
    """Beyond, against so many items that are drawn for each step."""

    steps: Count = 400
    """The most optimiser steps in an epoch: of more pieces some are drawn for each epoch."""

    places: Count = 640_000
    """About the most events that are foretold in an epoch, as those that cost its time: of more some are
    drawn for each epoch. More learns rare items better, and is slower."""

    popularity: NotNegative = 0.5
    """Drawn items are drawn by this power of how often they were bought."""

    gaps: Count = 5
    """The last gaps between purchases of an item that "recanet" reads: each costs time per request."""

    unbought: Count = 100
    """About the most candidates that were not bought of which "recanet" learns, by list and step: more is
    slower."""

    many_events: Count = 5_000_000
    """With more events than this, training on a CPU is held to the three bounds that follow: a run then
    takes minutes for its sequence models, and not hours."""

    many_epochs: Count = 8
    """The most epochs then; a GPU has time for all."""

    many_steps: Count = 100
    """The most optimiser steps in an epoch then: more learns rare items better, and is slower."""

    many_drawn: Count = 512
    """The most items that are drawn for a step then: most of a step's time goes into them."""

    def of(self, family: HistoryFamily) -> SequenceSettings:
        """Those of a family that stands alone. A tower's LSTM reads every item that a step asks for, so
        that a step takes three times as long as SASRec's: it has fewer epochs, and items to draw. Gaps
        between purchases are found in a long history, and take fewer epochs still."""
        alone = replace(self, family=family, alone=True)
        if family == "sasrec":
            return alone
        if family == "recanet":
            # A few epochs teach it all, the next ones only the noise of rare items.
            return replace(
                alone, length=max(self.length, 512), width=min(self.width, 32), dropout=0.5,
                learning_rate=2e-3, weight_decay=0.1, epochs=min(self.epochs, 8),
                patience=min(self.patience, 3),
            )  # fmt: skip
        return replace(alone, epochs=min(self.epochs, 8), drawn=min(self.drawn, 512))

    def bounded(self, events: int, on_cpu: bool) -> SequenceSettings:
        """Those of a run over so many events."""
        if events <= self.many_events or not on_cpu:
            return self
        return replace(
            self,
            epochs=min(self.epochs, self.many_epochs),
            steps=min(self.steps, self.many_steps),
            drawn=min(self.drawn, self.many_drawn),
        )


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one training run; the defaults were chosen on validation weeks."""

    name: str = "full"
    """Stands in the bundle, so that nobody ships a quick one for a full one."""

    n_novel: Count = 80
    """Items outside the history per list: more finds more, and costs time per request."""

    popular_share: Share = 0.5
    """The share of those that is kept for the best sellers of the last four weeks; the others come by
    EASE. More serves users of few events better, of whom EASE knows little."""

    regularization: Positive = 200.0
    """EASE's lambda: more pulls weights towards popularity."""

    keep_ease: Count = 50
    """EASE weights kept per item: more makes the bundle larger and each request slower."""

    keep_cosine: Count = 50
    """Cosine neighbours kept per item."""

    min_buyers: Count = 3
    """Users who must have bought both items of a pair before it gets a weight, and an item before
    its counts are told: more hides individuals better and knows fewer rare items."""

    cuts: Count = 3
    """Training cuts: each adds lists of another moment, and a fit of the item statistics. They are as
    far apart as the validation window is long, so that no purchase is a label twice."""

    short_share: Share = 0.2
    """The share of users that also train with only their last few events (0 to 5), so that new
    and unknown users get sensible lists too."""

    hidden: tuple[Count, Count] = (64, 32)
    """Widths of the two hidden layers."""

    loss: Literal["softmax", "bce"] = "softmax"
    """"softmax" (listwise, over one user's candidates) or "bce" (each candidate on its own)."""

    lists_per_step: Count = 32
    """Lists per optimiser step."""

    learning_rate: LearningRate = 2e-3
    """AdamW's; one cycle, cosine to zero."""

    weight_decay: NotNegative = 1e-4
    """AdamW's."""

    epochs: Count = 12
    """The most passes over all lists; the best epoch on validation is kept."""

    patience: Count = 4
    """Epochs without a better validation NDCG before training stops."""

    without: tuple[Group, ...] = ()
    """Groups of features that count for nothing, to see what they are worth; see
    `training.feature_groups`."""

    sequence: SequenceSettings | None = None
    """Whether a sequence model's score is a feature as well, and how it is trained."""

    leak_auc: Annotated[float, Field(ge=0.5, le=1)] = 0.995
    """The AUC above which one feature alone is taken for a leak of the labels; 1 asks nothing."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Everything random comes from it; on CPU the same seed gives the same model."""

    @property
    def n_popular(self) -> int:
        """How many of the items outside the history are best sellers."""
        return round(self.n_novel * self.popular_share)

    @classmethod
    def quick(cls, seed: int = 0) -> TrainSettings:
        """Small and fast, for trying things out: not a model to ship."""
        return cls(
            name="quick",
            n_novel=40,
            keep_ease=30,
            keep_cosine=30,
            cuts=1,
            short_share=0.3,  # of one cut's users a tenth are too few
            epochs=3,
            seed=seed,
        )
