"""The training loop: lists in, a calibrated ranker out. Reads top to bottom."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.fairness.discount import discounts
from training.model import PairRanker
from training.rows import Lists
from training.settings import TrainSettings

K = 20


@dataclass(frozen=True)
class Trained:
    """A ranker and its validation NDCG@20 by epoch; `best_epoch` (from 1) is the one kept."""

    model: PairRanker
    ndcg_by_epoch: tuple[float, ...]
    best_epoch: int


def train_ranker(
    lists: list[Lists],
    validation: Lists | None,
    settings: TrainSettings,
    epochs: int,
    on_epoch: Callable[[int, float], None],
) -> Trained:
    """Train for up to `epochs`. With `validation`, keep its best epoch, stop early and calibrate on it.

    Without, train for exactly `epochs` (the number that a tuning run found best).
    on_epoch: told (epoch, validation NDCG@20 or NaN).
    """
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    features = torch.from_numpy(np.concatenate([part.features for part in lists]))
    labels = torch.from_numpy(np.concatenate([part.labels for part in lists])).float()
    starts = _starts(lists)
    ptr = np.concatenate([starts, [len(labels)]])
    model = PairRanker(features.mean(0), features.std(0), settings.hidden)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = math.ceil(len(starts) / settings.lists_per_step)
    # The schedule is that of the longest run, so that a refit repeats the tuned one's steps.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * steps
    )
    best, best_epoch, history = copy.deepcopy(model.state_dict()), 0, [-math.inf]
    for epoch in range(1, epochs + 1):
        model.train()
        order = rng.permutation(len(starts))
        for step in range(steps):
            chosen = order[step * settings.lists_per_step : (step + 1) * settings.lists_per_step]
            rows, segments = _rows(ptr, chosen)
            logits = model.logits(features[rows])
            loss = _loss(logits, labels[rows], segments, len(chosen), settings.loss)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        ndcg = ndcg_at_20(model, validation) if validation is not None else math.nan
        on_epoch(epoch, ndcg)
        if validation is None or ndcg > max(history):
            best, best_epoch = copy.deepcopy(model.state_dict()), epoch
        history.append(ndcg)
        if validation is not None and epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best)
    model.eval()
    if validation is not None:
        calibrate(model, validation)
    return Trained(model, tuple(history[1:]), best_epoch)


def _starts(lists: list[Lists]) -> NDArray[np.int64]:
    offset = 0
    starts = []
    for part in lists:
        starts.append(part.ptr[:-1] + offset)
        offset += int(part.ptr[-1])
    return np.concatenate(starts)


def _rows(ptr: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The rows of the chosen lists, and which of the chosen each belongs to."""
    lengths = ptr[chosen + 1] - ptr[chosen]
    ends = np.cumsum(lengths)
    rows = np.arange(ends[-1]) + np.repeat(ptr[chosen] - (ends - lengths), lengths)
    return torch.from_numpy(rows), torch.from_numpy(np.repeat(np.arange(len(chosen)), lengths))


def _loss(logits: Tensor, labels: Tensor, segments: Tensor, n_lists: int, kind: str) -> Tensor:
    """softmax: the mean over lists of -log softmax over the list's candidates, at the bought ones.

    A list in which nothing was bought teaches it nothing.
    """
    if kind == "bce":
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    highest = torch.full((n_lists,), -math.inf).scatter_reduce(0, segments, logits.detach(), "amax")
    exponentials = torch.zeros(n_lists).index_add(
        0, segments, torch.exp(logits - highest[segments])
    )
    log_total = torch.log(exponentials) + highest
    bought = torch.zeros(n_lists).index_add(0, segments, labels)
    score = torch.zeros(n_lists).index_add(0, segments, logits * labels)
    used = bought > 0
    losses = log_total[used] - score[used] / bought[used]
    return losses.mean() if len(losses) else (logits * 0).sum()


@torch.no_grad()
def predict(model: PairRanker, lists: Lists) -> NDArray[np.float32]:
    """Uncalibrated scores `[R]` of all rows."""
    model.eval()
    parts = torch.split(torch.from_numpy(lists.features), 1 << 17)
    scores: NDArray[np.float32] = torch.cat([model.logits(part) for part in parts]).numpy()
    return scores


def ndcg_at_20(model: PairRanker, lists: Lists) -> float:
    """Mean NDCG@20 over lists; the ideal puts min(20, targets) targets first."""
    scores = predict(model, lists)
    weights = discounts(K)
    ideal = np.concatenate([[0.0], np.cumsum(weights)])
    total = 0.0
    for place in range(len(lists)):
        part = slice(int(lists.ptr[place]), int(lists.ptr[place + 1]))
        best = np.lexsort((lists.items[part], -scores[part]))[:K]
        gains = lists.labels[part][best]
        total += float(gains @ weights[: len(gains)]) / ideal[min(K, lists.n_targets[place])]
    return total / len(lists)


def calibrate(model: PairRanker, lists: Lists) -> None:
    """Fit the scale and offset that make the scores probabilities on these lists; order is kept."""
    scores = torch.from_numpy(predict(model, lists)).double()
    labels = torch.from_numpy(lists.labels).double()
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
    model.scale.copy_(log_scale.detach().exp().float())
    model.offset.copy_(offset.detach().float())
