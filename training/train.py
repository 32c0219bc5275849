"""Training of the ranker: lists in, a calibrated ranker out. Reads top to bottom."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.fairness.discount import discounts
from training.checkpoints import Stage
from training.fair_training import Weighting
from training.feature_groups import columns_of
from training.loop import Course, Learner, OnEpoch, train_epochs
from training.model import PairRanker
from training.rows import Lists
from training.settings import TrainSettings

K = 20


@dataclass(frozen=True)
class Trained:
    """A ranker, and how its training went."""

    model: PairRanker
    course: Course

    @property
    def ndcg_by_epoch(self) -> tuple[float, ...]:
        """Validation NDCG@20; NaN without validation."""
        return self.course.ndcg_by_epoch

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) that was kept."""
        return self.course.best_epoch


def train_ranker(
    lists: list[Lists],
    validation: Lists | None,
    settings: TrainSettings,
    epochs: int,
    on_epoch: OnEpoch,
    stage: Stage | None = None,
    weighting: Weighting | None = None,
) -> Trained:
    """Train for up to `epochs`. With `validation`, keep its best epoch, stop early and calibrate on it.

    Without, train for exactly `epochs` (the number that a tuning run found best).
    on_epoch: told (epoch, validation NDCG@20 or NaN). stage: where checkpoints go, and the device.
    weighting: what each list counts for, in the order of `lists`; None: all alike.
    """
    stage = stage or Stage("training", settings.seed)
    torch.manual_seed(settings.seed)
    features = torch.from_numpy(np.concatenate([part.features for part in lists])).to(stage.device)
    labels = torch.from_numpy(np.concatenate([part.labels for part in lists])).float()
    labels = labels.to(stage.device)
    starts = starts_of(lists)
    ptr = np.concatenate([starts, [len(labels)]])
    deviation = features.std(0)
    # What is off is a constant to the model.
    deviation[columns_of(settings.without)] = 0
    model = PairRanker(features.mean(0), deviation, settings.hidden).to(stage.device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = math.ceil(len(starts) / settings.lists_per_step)
    # The schedule is that of the longest run, so that a refit repeats the tuned one's steps.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * steps
    )
    learner = Learner(model, optimiser, schedule, np.random.default_rng(settings.seed))
    if weighting is not None:
        learner.state = weighting.state

    def batches(rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        order = rng.permutation(len(starts))
        for step in range(steps):
            yield order[step * settings.lists_per_step : (step + 1) * settings.lists_per_step]

    def loss(chosen: NDArray[np.int64]) -> Tensor:
        rows, segments = (part.to(stage.device) for part in rows_of(ptr, chosen))
        losses, used = list_losses(
            model.logits(features[rows]), labels[rows], segments, len(chosen), settings.loss
        )
        return mean_loss(losses if weighting is None else weighting(chosen, losses, used), used)

    course = train_epochs(
        learner, batches, loss, epochs=epochs, patience=settings.patience,
        validate=None if validation is None else lambda: ndcg_at_20(model, validation),
        on_epoch=on_epoch, stage=stage,
    )  # fmt: skip
    model.cpu()
    if validation is not None:
        calibrate(model, validation)
    return Trained(model, course)


def starts_of(lists: list[Lists]) -> NDArray[np.int64]:
    """Where each list begins when the rows of all stand one after the other."""
    offset = 0
    starts = []
    for part in lists:
        starts.append(part.ptr[:-1] + offset)
        offset += int(part.ptr[-1])
    return np.concatenate(starts)


def rows_of(ptr: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The rows of the chosen lists, and which of the chosen each belongs to."""
    lengths = ptr[chosen + 1] - ptr[chosen]
    ends = np.cumsum(lengths)
    rows = np.arange(ends[-1]) + np.repeat(ptr[chosen] - (ends - lengths), lengths)
    return torch.from_numpy(rows), torch.from_numpy(np.repeat(np.arange(len(chosen)), lengths))


def list_losses(
    logits: Tensor, labels: Tensor, segments: Tensor, n_lists: int, kind: str
) -> tuple[Tensor, Tensor]:
    """Each list's loss `[n_lists]`, and which of them teach anything.

    softmax: -log softmax over the list's candidates, the mean over those bought; a list in which
    nothing was bought teaches nothing. bce: the sum over candidates, as a share of a list's usual
    number of them, so that the mean over lists is that over candidates.
    """
    empty = torch.zeros(n_lists, device=logits.device)
    if kind == "bce":
        rows = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels, reduction="none"
        )
        share = n_lists / max(1, len(rows))
        return empty.index_add(0, segments, rows) * share, torch.ones_like(empty, dtype=torch.bool)
    highest = torch.full_like(empty, -math.inf).scatter_reduce(0, segments, logits.detach(), "amax")
    exponentials = empty.index_add(0, segments, torch.exp(logits - highest[segments]))
    log_total = torch.log(exponentials) + highest
    bought = empty.index_add(0, segments, labels)
    score = empty.index_add(0, segments, logits * labels)
    used = bought > 0
    return torch.where(used, log_total - score / bought.clamp_min(1), 0.0), used


def mean_loss(losses: Tensor, used: Tensor) -> Tensor:
    """Of `list_losses`: the mean over the lists that teach anything; 0 where none does."""
    return losses[used].mean() if bool(used.any()) else losses.sum() * 0


def _loss(logits: Tensor, labels: Tensor, segments: Tensor, n_lists: int, kind: str) -> Tensor:
    """The mean over the lists that teach something."""
    return mean_loss(*list_losses(logits, labels, segments, n_lists, kind))


@torch.no_grad()
def predict(model: PairRanker, lists: Lists) -> NDArray[np.float32]:
    """Uncalibrated scores `[R]` of all rows."""
    model.eval()
    parts = torch.split(torch.from_numpy(lists.features), 1 << 17)
    device = model.mean.device
    told = [model.logits(part.to(device)).cpu() for part in parts]
    scores: NDArray[np.float32] = torch.cat(told).numpy()
    return scores


def ndcg_at_20(model: PairRanker, lists: Lists) -> float:
    """Mean NDCG@20 over lists; the ideal puts min(20, targets) targets first."""
    return float(ndcgs_at_20(model, lists).mean())


def ndcgs_at_20(model: PairRanker, lists: Lists) -> NDArray[np.float64]:
    """`[L]`: NDCG@20 of each list."""
    return ndcgs_of_scores(predict(model, lists), lists)


def ndcgs_of_scores(scores: NDArray[np.float32], lists: Lists) -> NDArray[np.float64]:
    """`[L]`: NDCG@20 of each list by the scores `[R]` of all rows."""
    weights = discounts(K)
    ideal = np.concatenate([[0.0], np.cumsum(weights)])
    out = np.empty(len(lists))
    for place in range(len(lists)):
        part = slice(int(lists.ptr[place]), int(lists.ptr[place + 1]))
        best = np.lexsort((lists.items[part], -scores[part]))[:K]
        gains = lists.labels[part][best]
        out[place] = float(gains @ weights[: len(gains)]) / ideal[min(K, lists.n_targets[place])]
    return out


def calibrate(model: PairRanker, lists: Lists) -> None:
    """Fit the scale and offset that make the scores probabilities on these lists; order is kept."""
    scale, offset = calibration(predict(model, lists), lists.labels)
    model.scale.fill_(scale)
    model.offset.fill_(offset)


def calibration(raw_scores: NDArray[np.float32], bought: NDArray[np.bool_]) -> tuple[float, float]:
    """The scale and offset by which a sigmoid of the scores `[R]` is the chance of a purchase (Platt 1999)."""
    scores = torch.from_numpy(raw_scores).double()
    labels = torch.from_numpy(bought).double()
    # exp keeps the scale positive, so no ranking changes.
    log_scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    offset = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([log_scale, offset], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            scores * log_scale.exp() + offset, labels
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(log_scale.detach().exp()), float(offset.detach())
