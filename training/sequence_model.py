"""A sequence ranker (SASRec: Kang and McAuley, ICDM 2018): the last items of a history against candidates.

Only the module. One graph from item numbers to scores: item i is i + 1, 0 is
nothing. The last block is computed for the newest place only, since no other
is read: half of the work of two blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FAMILY = "sasrec"
NOWHERE = -1e9
"""Added to the attention of places that hold nothing; finite, since an empty history has no other."""


class _Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, feed: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.before_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, feed * width), nn.ReLU(), nn.Linear(feed * width, width)
        )
        self.dropout = dropout

    def forward(self, places: Tensor, asking: Tensor, bias: Tensor) -> Tensor:
        """`asking [b, q, d]` after a look at all `places [b, L, d]`; bias `[b, 1, q, L]`."""
        own = self.before_attention(asking)
        key, value = self.key_value(self.before_attention(places)).chunk(2, dim=-1)
        query, key, value = (self._split(part) for part in (self.query(own), key, value))
        size = query.shape[-1]
        weights = torch.softmax(query @ key.transpose(-1, -2) / size**0.5 + bias, dim=-1)
        seen = (weights @ value).transpose(1, 2).flatten(2)
        after = asking + self._dropped(self.out(seen))
        made: Tensor = after + self._dropped(self.feed(self.before_feed(after)))
        return made

    def _dropped(self, part: Tensor) -> Tensor:
        return functional.dropout(part, self.dropout) if self.training else part

    def _split(self, part: Tensor) -> Tensor:
        batch, length, width = part.shape
        return part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


class SequenceRanker(nn.Module):
    """History `[batch, L] int32`, candidates `[batch, n] int32` -> probabilities `[batch, n]`.

    n_items: of the catalogue. length: L. feed: how many times as wide the inner layers are. dropout:
    while it is trained. scale and offset calibrate the logit, as in `PairRanker`.
    """

    mask: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        n_items: int,
        length: int,
        width: int = 64,
        heads: int = 2,
        blocks: int = 2,
        feed: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.length = length
        self.items = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, heads, feed, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.dropout = dropout
        nn.init.normal_(self.items.weight, std=0.02)
        later = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
        self.register_buffer("mask", later.float() * NOWHERE)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def states(self, history: Tensor, items: Tensor) -> Tensor:
        """What is known after each place, `[batch, l, width]`, of histories `[batch, l]`, l <= L: for
        training, which asks at all of them. items: their vectors, `[n_items + 1, width]`."""
        length = history.shape[1]
        nothing = (history == 0).float()[:, None, None, :] * NOWHERE
        places = items[history] + self.positions[-length:]
        if self.training:
            places = functional.dropout(places, self.dropout)
        for block in self.blocks:
            places = block(places, places, nothing + self.mask[-length:, -length:])
        made: Tensor = self.norm(places)
        return made

    def user(self, history: Tensor) -> Tensor:
        """The vector `[batch, width]` of each history."""
        nothing = (history == 0).float()[:, None, None, :] * NOWHERE
        places = self.items(history) + self.positions
        for block in self.blocks[:-1]:
            places = block(places, places, nothing + self.mask)
        last: Tensor = self.blocks[-1](places, places[:, -1:], nothing)
        return functional.layer_norm(
            last[:, 0], self.norm.normalized_shape, self.norm.weight, self.norm.bias
        )

    def logits(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Uncalibrated scores `[batch, n]`."""
        asked = self.items(candidates)
        scores: Tensor = (asked @ self.user(history)[:, :, None]).squeeze(-1)
        return scores

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(history, candidates) * self.scale + self.offset)
