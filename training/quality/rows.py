"""Which models the table has, and how each is trained. Nothing here is chosen by a collection."""

from __future__ import annotations

from dataclasses import dataclass, replace

from training.fair_training import FairSettings
from training.settings import HistoryFamily, SequenceSettings, TrainSettings


@dataclass(frozen=True)
class Row:
    """One model of the table.

    refit: whether it also learns from the validation window once tuned. tuned_by: the row whose tuning is
    its own, so that it need not be done twice; the row comes before.
    """

    name: str
    title: str
    settings: TrainSettings
    refit: bool = True
    fair: FairSettings | None = None
    tuned_by: str | None = None


PAIRS, SHIPPED = "pairs", "auto"
"""The rows that others are compared with: the ranker, and what `equipoise train` ships."""


def model_rows(base: TrainSettings, sequence: SequenceSettings, fair_by: str | None) -> list[Row]:
    """The models, from the simplest: the article's formula and towers, SASRec, ReCANet, the ranker over
    pair features, and what validation chooses; then the ranker with fair losses, if users have groups."""

    def alone(family: HistoryFamily) -> TrainSettings:
        return replace(base, sequence=sequence.of(family))

    chosen = replace(base, sequence=sequence)
    rows = [
        Row("two-tower-difference", "the article's formula", alone("two-tower-difference")),
        Row("two-tower", "two towers (LSTM)", alone("two-tower")),
        Row("sasrec", "SASRec", alone("sasrec")),
        Row("recanet", "purchase gaps (ReCANet)", alone("recanet")),
        Row(PAIRS, "pair features", base),
        Row("pairs-no-refit", "pair features", base, refit=False, tuned_by=PAIRS),
        Row(SHIPPED, "chosen by validation", chosen),
        Row("auto-no-refit", "chosen by validation", chosen, refit=False, tuned_by=SHIPPED),
    ]
    if fair_by is not None:
        rows += [
            Row("fair-reweight", "pair features, reweighted", base, fair=FairSettings(fair_by)),
            Row(
                "fair-group-dro",
                "pair features, GroupDRO",
                base,
                fair=FairSettings(fair_by, "group-dro"),
            ),
        ]
    return rows
