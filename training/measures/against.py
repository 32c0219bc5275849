"""The ranker against every baseline and under every policy: differences and ratios, paired by user.

Owns the block `metrics` of the results, but for what lists do to items (`training.item_side`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.intervals import Estimate, Resampler
from training.metrics import PerUser


def metrics_block(
    sample: Resampler,
    ranker: PerUser,
    baselines: Mapping[str, PerUser],
    ndcg_with: PerUser,
    k: int,
) -> dict[str, Any]:
    """The block `metrics`, without the item side: the ranker, its lead over each baseline, and what
    each policy keeps of it (ndcg_with: policy -> NDCG per user)."""
    found = {metric: sample.mean(values) for metric, values in ranker.items()}
    for name, values in baselines.items():
        for metric in ranker:
            found[f"{metric}_minus_{name}"] = sample.mean(ranker[metric] - values[metric])
    for name, with_policy in ndcg_with.items():
        kept = sample.ratio(with_policy, ranker[f"ndcg_at_{k}"])
        found[f"ndcg_kept_{name}"] = kept
        found[f"price_of_fairness_{name}"] = _complement(kept)
    return {name: estimate.as_json() for name, estimate in found.items()}


def _complement(kept: Estimate) -> Estimate:
    if kept.value is None or kept.low is None or kept.high is None:
        return Estimate(None, None, None, kept.n_users, "lower")
    return Estimate(1 - kept.value, 1 - kept.high, 1 - kept.low, kept.n_users, "lower")
