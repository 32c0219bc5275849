"""The article's model: a tower for the user and one for the item, each Embedding -> LSTM -> Dense, joined.

Only the modules. The user's tower reads his last items, the item's reads its own number and its
words (商品属性), both in order. Three ways to join the towers' vectors u and p:

    product     a Dense layer over u, p and u * p, then a sigmoid
    difference  the article's formula, sigma(w (u - p))

The formula cannot personalise: w u is the same for all items of a list, and w p for all users, so
that every user gets the same order (see docs/data-science.md). It is kept as the baseline that the
article stands for. The LSTMs have no biases: what holds nothing leaves their state as it was, so that
a history says the same however much room is left before it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAMILY = "two-tower"
FORMULA = "two-tower-difference"


class Tower(nn.Module):
    """Numbers `[b, l]`, 0 for nothing before the others -> vectors `[b, width]`; or one for each place."""

    def __init__(self, numbers: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(numbers, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, batch_first=True, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(width, width)
        nn.init.normal_(self.embedding.weight, std=0.1)
        with torch.no_grad():
            self.embedding.weight[0] = 0

    def places(self, numbers: Tensor) -> Tensor:
        """What is known after each place, `[b, l, width]`."""
        states, _ = self.lstm(self.dropout(self.embedding(numbers)))
        made: Tensor = self.dense(self.dropout(states))
        return made

    def forward(self, numbers: Tensor) -> Tensor:
        return self.places(numbers)[:, -1]


class TowerRanker(nn.Module):
    """History `[batch, L] int32`, candidates `[batch, n] int32` -> probabilities `[batch, n]`.

    Item i is i + 1, 0 is nothing. items: the item tower's vectors of all, a table once it is trained.
    product: how the towers are joined; see above. scale and offset calibrate, as in `PairRanker`.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self, n_items: int, length: int, width: int, dropout: float = 0.0, *, product: bool = True
    ) -> None:
        super().__init__()
        self.length = length
        self.product = product
        self.user_tower = Tower(n_items + 1, width, dropout)
        self.items = nn.Embedding(n_items + 1, width)
        self.of_user = nn.Parameter(torch.randn(width) / width**0.5)
        self.of_item = nn.Parameter(torch.randn(width) / width**0.5)
        self.of_both = nn.Parameter(torch.ones(width) if product else torch.zeros(width))
        self.of_both.requires_grad_(product)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def states(self, history: Tensor) -> Tensor:
        """What each place of histories `[b, l]`, l <= L, asks of the next item: `[b, l, width]`, of which
        the product with an item's vector is its logit, but for what is the same for all items."""
        return self._asked(self.user_tower.places(history))

    def user(self, history: Tensor) -> Tensor:
        """What each history asks, `[b, width]`."""
        return self._asked(self.user_tower(history))

    def _asked(self, told: Tensor) -> Tensor:
        if self.product:
            return self.of_item + self.of_both * told
        return (-self.of_user).expand_as(told)

    def logits(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Uncalibrated scores `[batch, n]`."""
        told = self.user_tower(history)
        vectors = self.items(candidates)
        scores: Tensor = (vectors @ self._asked(told)[:, :, None]).squeeze(-1)
        scores = scores + (told @ self.of_user)[:, None]
        return scores

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(history, candidates) * self.scale + self.offset)
