"""Does a score of 0.1 mean that one in ten is bought? The reliability of the served probabilities.

Owns the block `calibration` of the results, for all candidates and for those that were listed.
Scores are put into BINS bins of equally many pairs (Nguyen and O'Connor, EMNLP 2015: with bins of
equal width nearly all pairs would be in the first); of each the mean score and the share that was
bought within the horizon. The expected calibration error is the mean distance of the two, each bin
by its pairs (Naeini et al., AAAI 2015). Intervals draw users with all their pairs; chance alone
makes an error above 0, in a resample more than in the sample.

Users are those evaluated: who bought nothing in the whole window is not asked, as in training.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from server.features.types import Float64
from training.intervals import Estimate, Resampler
from training.measures.candidates import Bool, Scored

BINS = 15


def calibration_block(scored: Scored, sample: Resampler) -> dict[str, Any]:
    """The block `calibration`."""
    return {
        "definition": (
            f"{BINS} bins of equally many pairs; expected calibration error: mean over pairs of "
            "|mean score - share bought within the horizon| of their bin; intervals over users"
        ),
        "candidates": _curve(scored, np.ones(len(scored), np.bool_), sample),
        "listed": _curve(scored, scored.listed, sample),
    }


def _curve(scored: Scored, chosen: Bool, sample: Resampler) -> dict[str, Any]:
    scores, rows = scored.scores[chosen], scored.rows[chosen]
    bought = scored.positive[chosen].astype(np.float64)
    if not len(scores):
        return {"expected_calibration_error": Estimate(None, None, None, 0, "lower").as_json(),
                "n_pairs": 0, "n_bought": 0, "mean_score": None, "bins": []}  # fmt: skip
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, BINS + 1)))
    bins = np.clip(np.searchsorted(edges, scores, side="right") - 1, 0, max(0, len(edges) - 2))
    n_bins = int(bins.max()) + 1

    def per_user(weights: Float64) -> Float64:
        flat = np.bincount(
            rows.astype(np.int64) * n_bins + bins, weights, minlength=sample.n_users * n_bins
        )
        return flat.reshape(sample.n_users, n_bins).astype(np.float64)

    pairs, total, hits = per_user(np.ones(len(scores))), per_user(scores), per_user(bought)
    drawn = [sample.draws @ part for part in (pairs, total, hits)]
    tail = (1.0 - sample.confidence) / 2.0
    tails = [tail, 1.0 - tail]
    n_pairs, n_total, n_hits = (part.sum(axis=0) for part in (pairs, total, hits))
    low, high = np.quantile(_error(*drawn), tails)
    rates = np.divide(drawn[2], drawn[0], out=np.full(drawn[2].shape, np.nan), where=drawn[0] > 0)
    rate_low, rate_high = np.nanquantile(rates, tails, axis=0)
    value = float(_error(n_pairs[None], n_total[None], n_hits[None])[0])
    users = len(np.unique(rows))
    return {
        "expected_calibration_error": Estimate(
            value, float(low), float(high), users, "lower"
        ).as_json(),
        "n_pairs": len(scores),
        "n_bought": int(bought.sum()),
        "mean_score": float(scores.mean()),
        "bins": [
            {
                "lowest_score": float(scores[bins == place].min()),
                "highest_score": float(scores[bins == place].max()),
                "mean_score": float(n_total[place] / n_pairs[place]),
                "share_bought": float(n_hits[place] / n_pairs[place]),
                "share_bought_low": float(rate_low[place]),
                "share_bought_high": float(rate_high[place]),
                "n_pairs": int(n_pairs[place]),
            }
            for place in range(n_bins)
            if n_pairs[place]
        ],
    }


def _error(pairs: Float64, total: Float64, hits: Float64) -> Float64:
    """`[r]` from sums per bin `[r, bins]`: mean |score - rate|, by pairs."""
    return np.asarray(np.abs(total - hits).sum(axis=1) / np.maximum(pairs.sum(axis=1), 1.0))
