"""The ranker: an MLP over pair features that gives the probability of a purchase. Only the module.

Whoever has no history may get the order of the best sellers instead, which the layers know from a few
windows only; see `training.unknown`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

FAMILY = "pair-feature-mlp"

CONSTANT = 1e-6
"""A feature that deviates less, as a share of its mean, is constant but for rounding."""


@dataclass(frozen=True)
class Columns:
    """Where a feature is 0 for all candidates of an empty history and only then, and where best sellers
    are told by."""

    history: int
    popularity: int


def inverse_of(mean: Tensor, std: Tensor) -> Tensor:
    """What standardisation multiplies with, `[F]`: 0 for a feature that is constant."""
    varies = std > CONSTANT * mean.abs().clamp_min(1.0)
    return varies / std.clamp_min(CONSTANT)


class PairRanker(nn.Module):
    """Features `[batch, n, F]` -> probabilities `[batch, n]`.

    Standardisation (fitted on the training part) and calibration (Platt 1999: a scale and an
    offset on the logit, fitted on validation) are buffers: they travel in the graph. A feature
    that training saw with one value only counts for nothing: nothing was learned of others.
    columns: where they are given, an empty history gets the best sellers' order.
    """

    mean: Tensor
    inverse_std: Tensor
    scale: Tensor
    offset: Tensor
    popular_scale: Tensor
    popular_offset: Tensor

    def __init__(self, mean: Tensor, std: Tensor, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.columns: Columns | None = None
        self.register_buffer("mean", mean)
        self.register_buffer("inverse_std", inverse_of(mean, std))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
        self.register_buffer("popular_scale", torch.zeros(()))
        self.register_buffer("popular_offset", torch.zeros(()))
        first, second = hidden
        self.layers = nn.Sequential(
            nn.Linear(len(mean), first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, 1),
        )

    def logits(self, features: Tensor) -> Tensor:
        """Uncalibrated scores `[...]` of features `[..., F]`."""
        standard = (features - self.mean) * self.inverse_std
        scores: Tensor = self.layers(standard).squeeze(-1)
        return scores

    def forward(self, features: Tensor) -> Tensor:
        told = self.logits(features) * self.scale + self.offset
        if self.columns is not None:
            popular = features[..., self.columns.popularity] * self.popular_scale
            empty = features[..., self.columns.history] == 0
            told = torch.where(empty, popular + self.popular_offset, told)
        return torch.sigmoid(told)
