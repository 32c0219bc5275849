"""Training of the sequence model: from every place of every history, foretell the next item.

Softmax over the whole catalogue, or, where that is large, over items drawn by popularity, with their
logits corrected by how often they are drawn (Bengio and Senecal 2008; Yi et al., RecSys 2019); with
it SASRec stands among the best (Klenitskiy and Vasilev, RecSys 2023). An item's vector is its own and
the mean of its words' vectors, so that one of few purchases is near others of its kind; both are one
table when the model is done. Reads top to bottom.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from server.fairness.discount import discounts
from server.features.types import Float32, Int32, Int64
from training.checkpoints import Stage
from training.content import Words, words_of
from training.data.dataset import Dataset
from training.data.split import Targets
from training.loop import Course, Learner, OnEpoch, train_epochs
from training.sequence_model import SequenceRanker
from training.settings import SequenceSettings

CLIP = 5.0
EVALUATED = 512
"""Users at once, each against the whole catalogue."""


@dataclass(frozen=True)
class TrainedSequences:
    """A sequence model, and how its training went."""

    model: SequenceRanker
    course: Course

    @property
    def ndcg_by_epoch(self) -> tuple[float, ...]:
        """Validation NDCG; NaN without validation."""
        return self.course.ndcg_by_epoch

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) that was kept."""
        return self.course.best_epoch


class _Learner(nn.Module):
    """The model with an item's vector still in parts."""

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

    word_places: Tensor
    word_ptr: Tensor

    def items(self) -> Tensor:
        """The vectors `[n_items + 1, width]`, of which number 0 is 0."""
        own: Tensor = self.ranker.items.weight
        if self.words is None:
            return own
        told: Tensor = self.words(self.word_places, self.word_ptr)
        return own + told

    @torch.no_grad()
    def folded(self) -> SequenceRanker:
        """The model with one table of items."""
        ranker = copy.deepcopy(self.ranker)
        ranker.items.weight.copy_(self.items())
        ranker.eval()
        return ranker


def train_sequences(
    history: Dataset,
    settings: SequenceSettings,
    seed: int,
    epochs: int,
    validation: Targets | None,
    on_epoch: OnEpoch,
    stage: Stage | None = None,
) -> TrainedSequences:
    """Train on what is in `history` for up to `epochs`.

    validation: what its users bought next: keep the best epoch, stop early. Without, train for exactly
    `epochs`. on_epoch: told (epoch, validation NDCG or NaN). stage: where checkpoints go, and the device.
    """
    stage = stage or Stage("sequences", seed)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    learned = _Learner(history.n_items, words_of(history), settings).to(stage.device)
    lengths = np.diff(history.user_ptr)
    users = np.flatnonzero(lengths > 1)
    optimiser = torch.optim.AdamW(
        learned.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay,
        betas=(0.9, 0.98),
    )  # fmt: skip
    steps = max(1, math.ceil(len(users) / settings.users_per_step))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.1
    )
    drawn = _Drawn(history, settings, rng, stage.device)

    def batches(rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        order = rng.permutation(users)
        for step in range(steps):
            yield order[step * settings.users_per_step : (step + 1) * settings.users_per_step]

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        asked, next_items = (
            part.to(stage.device) for part in _next_items(history, chosen, settings.length)
        )
        items = learned.items()
        known = next_items != 0
        return drawn.loss(learned.ranker.states(asked, items)[known], items, next_items[known])

    course = train_epochs(
        Learner(learned, optimiser, schedule, rng, clip=CLIP), batches, loss,
        epochs=epochs, patience=settings.patience,
        validate=(lambda: ndcg_of(learned.folded(), history, validation)) if validation else None,
        on_epoch=on_epoch, stage=stage,
    )  # fmt: skip
    return TrainedSequences(learned.folded().cpu(), course)


class _Drawn:
    """The loss: against all items, or against some drawn by a power of their popularity."""

    def __init__(
        self,
        history: Dataset,
        settings: SequenceSettings,
        rng: np.random.Generator,
        device: torch.device,
    ) -> None:
        self._rng = rng
        self._count = settings.drawn if history.n_items > settings.whole_softmax else 0
        bought = np.bincount(history.items, minlength=history.n_items) + 1.0
        chance = bought**settings.popularity
        self._bounds = np.cumsum(chance / chance.sum())
        self._log_chance = torch.from_numpy(np.log(chance / chance.sum())).float().to(device)

    def loss(self, states: Tensor, items: Tensor, wanted: Tensor) -> Tensor:
        """Of states `[m, width]` whose next items are `wanted [m]`."""
        if not self._count:
            logits = states @ items.T
            # No item is not to be foretold.
            return functional.cross_entropy(logits[:, 1:], wanted - 1)
        places = np.searchsorted(self._bounds, self._rng.random(self._count), side="right")
        drawn = torch.from_numpy(np.minimum(places, len(self._bounds) - 1)).to(wanted.device)
        own = (states * items[wanted]).sum(-1, keepdim=True)
        others = states @ items[drawn + 1].T
        others = others - self._log_chance[drawn] - math.log(self._count)
        others = others.masked_fill(drawn + 1 == wanted[:, None], -math.inf)
        return functional.cross_entropy(torch.cat([own, others], 1), torch.zeros_like(wanted))


def _next_items(history: Dataset, users: NDArray[np.int64], length: int) -> tuple[Tensor, Tensor]:
    """Histories `[b, l]` without their last item, and `[b, l]` what followed each place; 0 is nothing."""
    parts = [
        history.items[max(int(history.user_ptr[u]), int(history.user_ptr[u + 1]) - length - 1) :
                      int(history.user_ptr[u + 1])]
        for u in users.tolist()
    ]  # fmt: skip
    longest = max(len(part) for part in parts) - 1
    asked, following = (np.zeros((len(parts), longest), np.int64) for _ in range(2))
    for row, part in enumerate(parts):
        asked[row, longest - len(part) + 1 :] = part[:-1] + 1
        following[row, longest - len(part) + 1 :] = part[1:] + 1
    return torch.from_numpy(asked), torch.from_numpy(following)


def recent_items(history: Dataset, users: Int32, length: int) -> Int32:
    """The last items of each user as the served model reads them, `[b, length]`: `i + 1`, 0 for nothing."""
    out = np.zeros((len(users), length), np.int32)
    for row, user in enumerate(users.tolist()):
        part = history.items[history.user_ptr[user] : history.user_ptr[user + 1]][-length:]
        out[row, length - len(part) :] = part + 1
    return out


@torch.no_grad()
def ndcg_of(model: SequenceRanker, history: Dataset, targets: Targets, k: int = 20) -> float:
    """Mean NDCG@k over the users of `targets`, of the whole catalogue."""
    weights = discounts(k)
    ideal = np.concatenate([[0.0], np.cumsum(weights)])
    total = 0.0
    for start in range(0, len(targets), EVALUATED):
        users = targets.users[start : start + EVALUATED]
        recent = torch.from_numpy(recent_items(history, users, model.length))
        scores = model.user(recent.to(model.mask.device)) @ model.items.weight[1:].T
        best = torch.topk(scores, min(k, scores.shape[1])).indices.cpu().numpy()
        for row in range(len(users)):
            wanted = targets.of(start + row)
            gains = np.isin(best[row], wanted) @ weights[: best.shape[1]]
            total += float(gains) / ideal[min(k, len(wanted))]
    return total / max(1, len(targets))


@torch.no_grad()
def sequence_scores(
    model: SequenceRanker, recent: Int32, items: Int32, ptr: Int64, block: int = 1024
) -> Float32:
    """The logits `[R]` of lists' candidates: list l's history is recent[l], its items are those from
    ptr[l] to ptr[l + 1]."""
    out = np.empty(len(items), np.float32)
    vectors = model.items.weight.numpy()
    for start in range(0, len(recent), block):
        users = model.user(torch.from_numpy(recent[start : start + block])).numpy()
        for row in range(len(users)):
            part = slice(int(ptr[start + row]), int(ptr[start + row + 1]))
            out[part] = vectors[items[part] + 1] @ users[row]
    return out
