"""What whoever has no history gets: the ranker's order or the best sellers', by validation.

The ranker has learned from a few windows which items do well without a history; the counts of the last
weeks have seen the window that matters. Both are asked for the validation users with their histories
hidden. Where best sellers are at least as good, the model's graph gives their order to an empty history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from server.features.pairs import FEATURE_NAMES
from training.model import Columns, PairRanker
from training.rows import Lists
from training.train import calibration, ndcgs_at_20, ndcgs_of_scores

COLUMNS = Columns(
    history=FEATURE_NAMES.index("user_items"), popularity=FEATURE_NAMES.index("popularity_recent")
)


@dataclass(frozen=True)
class Unknown:
    """The choice. scale, offset: of log(1 + purchases of the last weeks), to the chance of a purchase."""

    ndcg_of_ranker: float
    ndcg_of_best_sellers: float
    scale: float
    offset: float

    @property
    def best_sellers(self) -> bool:
        """Whether their order is taken."""
        return self.ndcg_of_best_sellers >= self.ndcg_of_ranker

    def give(self, model: PairRanker) -> None:
        """Put the choice into the model."""
        if self.best_sellers:
            model.columns = COLUMNS
            model.popular_scale.fill_(self.scale)
            model.popular_offset.fill_(self.offset)

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "order": "best sellers" if self.best_sellers else "ranker",
            "validation_ndcg_at_20": {
                "ranker": round(self.ndcg_of_ranker, 5),
                "best sellers": round(self.ndcg_of_best_sellers, 5),
            },
        }


def choose_unknown(model: PairRanker, lists: Lists) -> Unknown:
    """lists: those of validation users with their histories hidden, as the model reads them."""
    popularity = np.ascontiguousarray(lists.features[:, COLUMNS.popularity])
    scale, offset = calibration(popularity, lists.labels)
    return Unknown(
        float(ndcgs_at_20(model, lists).mean()),
        float(ndcgs_of_scores(popularity, lists).mean()),
        scale,
        offset,
    )
