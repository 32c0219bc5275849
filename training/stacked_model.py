"""Pair features and a sequence model in one graph: the sequence model's score is one feature more.

Only the module. The two are trained one after the other: the sequence model on histories before a
cut, then the ranker on what was bought after it, with the score among its features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.model import PairRanker
from training.sequence_model import SequenceRanker

FAMILY = "pair-features-and-sequence"


class StackedRanker(nn.Module):
    """Features `[batch, n, F]`, history `[batch, L]`, candidates `[batch, n]` -> probabilities `[batch, n]`.

    pairs: over F + 1 features, the last of which is the sequence model's logit.
    """

    def __init__(self, pairs: PairRanker, sequence: SequenceRanker) -> None:
        super().__init__()
        self.pairs = pairs
        self.sequence = sequence

    def forward(self, features: Tensor, history: Tensor, candidates: Tensor) -> Tensor:
        told = self.sequence.logits(history, candidates)
        scores: Tensor = self.pairs(torch.cat([features, told[..., None]], dim=-1))
        return scores
