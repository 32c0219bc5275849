"""Training of the sequence model: from every place of every history, foretell the next item.

Softmax over the whole catalogue, or, where that is large, over items drawn by popularity, with their
logits corrected by how often they are drawn (Bengio and Senecal 2008; Yi et al., RecSys 2019); with
it SASRec stands among the best (Klenitskiy and Vasilev, RecSys 2023). An item's vector is its own and
the mean of its words' vectors, so that one of few purchases is near others of its kind; both are one
table when the model is done. Reads top to bottom.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from server.fairness.discount import discounts
from server.features.types import Float32, Int32, Int64
from training.checkpoints import Stage
from training.content import words_of
from training.data.dataset import Dataset
from training.data.split import Targets
from training.learners import HistoryRanker, Vectors, learner_of
from training.loop import Course, Learner, OnEpoch, train_epochs
from training.settings import SequenceSettings

CLIP = 5.0
EVALUATED = 512
"""Users at once, each against the whole catalogue."""
JUDGES = 5_000
JUDGED = 500_000_000
"""An epoch is judged by all users where those times the items are no more than this; else by so many that
they are, drawn by the seed, but never by fewer than `JUDGES`."""


@dataclass(frozen=True)
class TrainedSequences:
    """A sequence model, and how its training went."""

    model: HistoryRanker
    course: Course

    @property
    def ndcg_by_epoch(self) -> tuple[float, ...]:
        """Validation NDCG; NaN without validation."""
        return self.course.ndcg_by_epoch

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) that was kept."""
        return self.course.best_epoch


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
    learned = learner_of(history.n_items, words_of(history), settings).to(stage.device)
    windows = _windows(history, settings.length)
    optimiser = torch.optim.AdamW(
        learned.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay,
        betas=(0.9, 0.98),
    )  # fmt: skip
    steps = _steps(windows, settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * steps, pct_start=0.1
    )
    drawn = _Drawn(history, settings, rng, stage.device)
    judges = None if validation is None else _judges(validation, history.n_items, seed)

    def batches(rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        order = rng.permutation(windows)
        for step in range(steps):
            yield order[step * settings.windows_per_step : (step + 1) * settings.windows_per_step]

    def loss(chosen: Int64) -> Tensor:
        asked, next_items = (part.to(stage.device) for part in _next_items(history, chosen))
        known = next_items != 0
        states, vectors = learned.step(asked)
        return drawn.loss(states[known], vectors, next_items[known])

    course = train_epochs(
        Learner(learned, optimiser, schedule, rng, clip=CLIP), batches, loss,
        epochs=epochs, patience=settings.patience,
        validate=None if judges is None else lambda: ndcg_of(learned.folded(), history, judges),
        on_epoch=on_epoch, stage=stage,
    )  # fmt: skip
    return TrainedSequences(learned.folded().cpu(), course)


def _judges(validation: Targets, n_items: int, seed: int) -> Targets:
    most = max(JUDGES, JUDGED // n_items)
    if len(validation) <= most:
        return validation
    rng = np.random.default_rng((seed, len(validation)))
    return validation.some(np.sort(rng.choice(len(validation), most, replace=False)))


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
        whole = history.n_events * history.n_items <= settings.whole_softmax
        self._count = 0 if whole else settings.drawn
        bought = np.bincount(history.items, minlength=history.n_items) + 1.0
        chance = bought**settings.popularity
        self._bounds = np.cumsum(chance / chance.sum())
        self._log_chance = torch.from_numpy(np.log(chance / chance.sum())).float().to(device)

    def loss(self, states: Tensor, vectors: Vectors, wanted: Tensor) -> Tensor:
        """Of states `[m, width]` whose next items are `wanted [m]`."""
        if not self._count:
            logits = states @ vectors(None).T
            # No item is not to be foretold.
            return functional.cross_entropy(logits[:, 1:], wanted - 1)
        places = np.searchsorted(self._bounds, self._rng.random(self._count), side="right")
        drawn = torch.from_numpy(np.minimum(places, len(self._bounds) - 1)).to(wanted.device)
        numbers, place = torch.unique(torch.cat([wanted, drawn + 1]), return_inverse=True)
        items = vectors(numbers)
        own = (states * items[place[: len(wanted)]]).sum(-1, keepdim=True)
        others = states @ items[place[len(wanted) :]].T
        others = others - self._log_chance[drawn] - math.log(self._count)
        others = others.masked_fill(drawn + 1 == wanted[:, None], -math.inf)
        return functional.cross_entropy(torch.cat([own, others], 1), torch.zeros_like(wanted))


def _windows(history: Dataset, length: int) -> Int64:
    """`[w, 2]`: where pieces of histories begin and end, of at most `length` + 1 events, from each
    user's last backwards. Every event but a user's first is foretold once."""
    found: list[NDArray[np.int64]] = []
    starts, ends = history.user_ptr[:-1].astype(np.int64), history.user_ptr[1:].astype(np.int64)
    while True:
        left = ends - starts > 1
        if not left.any():
            break
        starts, ends = starts[left], ends[left]
        begin = np.maximum(starts, ends - length - 1)
        found.append(np.stack([begin, ends], axis=1))
        # The item that a piece begins with is foretold by the piece before it.
        ends = begin + 1
    pieces = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return pieces[np.argsort(pieces[:, 0])]


def _steps(windows: Int64, settings: SequenceSettings) -> int:
    """Of an epoch: so many that every piece is taken once, or as many as its bounds allow."""
    if not len(windows):
        return 1
    foretold = float(np.mean(windows[:, 1] - windows[:, 0] - 1)) * settings.windows_per_step
    whole = math.ceil(len(windows) / settings.windows_per_step)
    return max(1, min(settings.steps, whole, math.ceil(settings.places / foretold)))


def _next_items(history: Dataset, windows: Int64) -> tuple[Tensor, Tensor]:
    """Pieces of histories `[b, l]` without their last item, and `[b, l]` what followed each place; 0
    is nothing."""
    longest = int((windows[:, 1] - windows[:, 0]).max()) - 1
    places = windows[:, 1:] - 1 + np.arange(-longest, 1)
    numbers = np.where(places >= windows[:, :1], history.items[np.maximum(places, 0)] + 1, 0)
    following = np.where(numbers[:, :-1] > 0, numbers[:, 1:], 0)
    return tuple(torch.from_numpy(part.astype(np.int64)) for part in (numbers[:, :-1], following))  # type: ignore[return-value]


def recent_items(history: Dataset, users: Int32, length: int) -> Int32:
    """The last items of each user as the served model reads them, `[b, length]`: `i + 1`, 0 for nothing."""
    out = np.zeros((len(users), length), np.int32)
    for row, user in enumerate(users.tolist()):
        part = history.items[history.user_ptr[user] : history.user_ptr[user + 1]][-length:]
        out[row, length - len(part) :] = part + 1
    return out


@torch.no_grad()
def ndcg_of(model: HistoryRanker, history: Dataset, targets: Targets, k: int = 20) -> float:
    """Mean NDCG@k over the users of `targets`, of the whole catalogue."""
    weights = discounts(k)
    ideal = np.concatenate([[0.0], np.cumsum(weights)])
    total = 0.0
    for start in range(0, len(targets), EVALUATED):
        users = targets.users[start : start + EVALUATED]
        recent = torch.from_numpy(recent_items(history, users, model.length))
        scores = model.user(recent.to(model.items.weight.device)) @ model.items.weight[1:].T
        best = torch.topk(scores, min(k, scores.shape[1])).indices.cpu().numpy()
        for row in range(len(users)):
            wanted = targets.of(start + row)
            gains = np.isin(best[row], wanted) @ weights[: best.shape[1]]
            total += float(gains) / ideal[min(k, len(wanted))]
    return total / max(1, len(targets))


@torch.no_grad()
def sequence_scores(
    model: HistoryRanker, recent: Int32, items: Int32, ptr: Int64, block: int = 1024
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
