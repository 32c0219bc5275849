"""The kinds of model that are trained and served, and what each reads: one place that names them all."""

from __future__ import annotations

from dataclasses import dataclass

from training import model, recanet, sequence_model, stacked_model, towers
from training.model import PairRanker
from training.recanet import RepeatRanker
from training.sequence_model import SequenceRanker
from training.stacked_model import StackedRanker
from training.towers import TowerRanker

Ranker = PairRanker | StackedRanker | SequenceRanker | TowerRanker | RepeatRanker


@dataclass(frozen=True)
class Family:
    """What a bundle says of its model.

    n_features: pair features that it reads, or 0. history_length: last items of the history, or 0.
    n_items: of the catalogue whose numbers it reads, or 0. told: a clause of the model card.
    """

    name: str
    n_features: int
    history_length: int
    n_items: int
    told: str


def family_of(ranker: Ranker) -> Family:
    """The family of a trained model."""
    if isinstance(ranker, PairRanker):
        features = len(ranker.mean)
        return Family(
            model.FAMILY,
            features,
            0,
            0,
            f"an MLP over {features} features of the pair (history, item)",
        )
    if isinstance(ranker, StackedRanker):
        features, sequence = len(ranker.pairs.mean) - 1, ranker.sequence
        return Family(
            stacked_model.FAMILY,
            features,
            sequence.length,
            sequence.items.num_embeddings - 1,
            f"an MLP over {features} features of the pair (history, item) and the score of a sequence "
            f"model (SASRec) over the last {sequence.length} items",
        )
    length, items = ranker.length, ranker.items.num_embeddings - 1
    if isinstance(ranker, RepeatRanker):
        return Family(
            recanet.FAMILY,
            len(ranker.mean),
            length,
            items,
            f"an LSTM over the last {ranker.gaps} gaps between the user's purchases of an item, found among "
            f"his last {length} purchases, with the item's own vector and the features that say how he "
            "shops (after ReCANet)",
        )
    if isinstance(ranker, SequenceRanker):
        told = f"a sequence model (SASRec) over the last {length} items"
        return Family(sequence_model.FAMILY, 0, length, items, told)
    joined = "a Dense layer over both and their product"
    if not ranker.product:
        joined = "the formula sigma(w (user - item)), which gives every user the same order"
    return Family(
        towers.FAMILY if ranker.product else towers.FORMULA,
        0,
        length,
        items,
        f"two towers (Embedding, LSTM, Dense) over the last {length} items and an item's attributes, "
        f"joined by {joined}",
    )
