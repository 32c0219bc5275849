"""The ranker: an MLP over pair features that gives the probability of a purchase. Only the module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAMILY = "pair-feature-mlp"

CONSTANT = 1e-6
"""A feature that deviates less, as a share of its mean, is constant but for rounding."""


class PairRanker(nn.Module):
    """Features `[batch, n, F]` -> probabilities `[batch, n]`.

    Standardisation (fitted on the training part) and calibration (Platt 1999: a scale and an
    offset on the logit, fitted on validation) are buffers: they travel in the graph. A feature
    that training saw with one value only counts for nothing: nothing was learned of others.
    """

    mean: Tensor
    inverse_std: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Tensor, std: Tensor, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        varies = std > CONSTANT * mean.abs().clamp_min(1.0)
        self.register_buffer("inverse_std", varies / std.clamp_min(CONSTANT))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))
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
        return torch.sigmoid(self.logits(features) * self.scale + self.offset)
