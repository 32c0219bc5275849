"""Models of histories as they are trained: an item's vector is still in parts, what is served is one table.

Owns what each family does with the items' words. Must not know losses, optimisers or epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from training.content import Words
from training.sequence_model import SequenceRanker
from training.settings import SequenceSettings
from training.towers import Tower, TowerRanker

HistoryRanker = SequenceRanker | TowerRanker
"""A module from history and candidates to probabilities: `user` [b, width] times its table `items`."""
Vectors = Callable[[Tensor | None], Tensor]
"""The vectors `[m, width]` of items' numbers `[m]`; of None, all from number 0 on."""
FOLDED = 4096


class SequenceLearner(nn.Module):
    """SASRec: an item's vector is its own and the mean of its words'."""

    word_places: Tensor
    word_ptr: Tensor

    def __init__(self, n_items: int, words: Words, settings: SequenceSettings) -> None:
        super().__init__()
        self.ranker = SequenceRanker(
            n_items, settings.length, settings.width, settings.heads, settings.blocks,
            settings.feed, settings.dropout,
        )  # fmt: skip
        self.words: nn.EmbeddingBag | None = None
        if words.count:
            self.words = nn.EmbeddingBag(words.count, settings.width, mode="mean")
            nn.init.normal_(self.words.weight, std=0.02)
        self.register_buffer("word_places", torch.from_numpy(words.places))
        # Number 0 is no item, and has no words.
        self.register_buffer("word_ptr", torch.from_numpy(np.concatenate([[0], words.ptr[:-1]])))

    def items(self) -> Tensor:
        """The vectors `[n_items + 1, width]`, of which number 0 is 0."""
        own: Tensor = self.ranker.items.weight
        if self.words is None:
            return own
        told: Tensor = self.words(self.word_places, self.word_ptr)
        return own + told

    def step(self, asked: Tensor) -> tuple[Tensor, Vectors]:
        """What each place of histories `[b, l]` asks, `[b, l, width]`, and the items' vectors."""
        table = self.items()
        return self.ranker.states(asked, table), lambda some: table if some is None else table[some]

    @torch.no_grad()
    def folded(self) -> SequenceRanker:
        """The model with one table of items."""
        ranker = copy.deepcopy(self.ranker)
        ranker.items.weight.copy_(self.items())
        ranker.eval()
        return ranker


class TowerLearner(nn.Module):
    """The article's model: the item's tower reads its number, and its words from the widest on."""

    tokens: Tensor

    def __init__(self, n_items: int, words: Words, settings: SequenceSettings) -> None:
        super().__init__()
        self.ranker = TowerRanker(
            n_items, settings.length, settings.width, settings.dropout,
            product=settings.family != "two-tower-difference",
        )  # fmt: skip
        self.item_tower = Tower(n_items + 1 + words.count, settings.width, settings.dropout)
        self.register_buffer("tokens", torch.from_numpy(_tokens(n_items, words)))

    def step(self, asked: Tensor) -> tuple[Tensor, Vectors]:
        """What each place of histories `[b, l]` asks, `[b, l, width]`, and the items' vectors."""
        return self.ranker.states(asked), self._vectors

    def _vectors(self, some: Tensor | None) -> Tensor:
        vectors: Tensor = self.item_tower(self.tokens if some is None else self.tokens[some])
        return vectors

    @torch.no_grad()
    def folded(self) -> TowerRanker:
        """The model with the item tower's vectors as a table."""
        ranker = copy.deepcopy(self.ranker)
        was = self.training
        self.eval()
        parts = [self.item_tower(part) for part in torch.split(self.tokens, FOLDED)]
        self.train(was)
        ranker.items.weight.copy_(torch.cat(parts))
        ranker.eval()
        return ranker


def _tokens(n_items: int, words: Words) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """`[n_items + 1, T]`: nothing, then an item's words, then its own number."""
    longest = int(np.diff(words.ptr).max(initial=0))
    tokens = np.zeros((n_items + 1, longest + 1), np.int64)
    tokens[:, -1] = np.arange(n_items + 1)
    item = np.repeat(np.arange(n_items), np.diff(words.ptr))
    back = words.ptr[item + 1] - np.arange(len(words.places))
    tokens[item + 1, longest - back] = n_items + 1 + words.places
    return tokens


def learner_of(
    n_items: int, words: Words, settings: SequenceSettings
) -> SequenceLearner | TowerLearner:
    """The family that the settings name."""
    if settings.family == "sasrec":
        return SequenceLearner(n_items, words, settings)
    return TowerLearner(n_items, words, settings)
