"""Training of the repeat-consumption ranker on the lists that the ranker learns from. Reads top to bottom."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.features.types import Float32
from training.checkpoints import Stage
from training.feature_groups import FEATURE_GROUPS, columns_of
from training.loop import Course, Learner, OnEpoch, train_epochs
from training.recanet import READS, RepeatRanker
from training.rows import Lists
from training.settings import SequenceSettings, TrainSettings
from training.train import (
    calibration,
    list_losses,
    mean_loss,
    ndcgs_of_scores,
    rows_of,
    starts_of,
)

Int16 = NDArray[np.int16]
ASKED = 1 << 15
"""Rows at once where nothing is learned."""


@dataclass(frozen=True)
class TrainedRepeats:
    """A repeat-consumption ranker, and how its training went."""

    model: RepeatRanker
    course: Course


@dataclass(frozen=True)
class _Batch:
    """A step's rows `[m]`, which of its lists each belongs to, and how many lists these are."""

    rows: Tensor
    segments: Tensor
    n_lists: int


def train_repeats(
    lists: list[Lists],
    validation: Lists | None,
    n_items: int,
    settings: TrainSettings,
    epochs: int,
    on_epoch: OnEpoch,
    stage: Stage | None = None,
) -> TrainedRepeats:
    """Train for up to `epochs`. With `validation`, keep its best epoch, stop early and calibrate on it.

    Without, train for exactly `epochs`. n_items: of the catalogue. settings: `sequence` must be there.
    on_epoch: told (epoch, validation NDCG@20 or NaN). stage: where checkpoints go, and the device.
    """
    own = settings.sequence
    assert own is not None
    stage = stage or Stage("repeats", settings.seed)
    torch.manual_seed(settings.seed)
    model = _model(lists, n_items, settings, own).to(stage.device)
    features = np.concatenate([part.features for part in lists])
    bought = np.concatenate([part.labels for part in lists])
    gaps = np.concatenate([gaps_of(model, part) for part in lists])
    items = np.concatenate([part.items for part in lists])
    ptr = np.concatenate([starts_of(lists), [len(bought)]])
    n_lists = len(ptr) - 1
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=own.learning_rate, weight_decay=own.weight_decay
    )
    steps = math.ceil(n_lists / settings.lists_per_step)
    # The schedule is that of the longest run, so that a refit repeats the tuned one's steps.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, own.learning_rate, total_steps=own.epochs * steps
    )

    def batches(rng: np.random.Generator) -> Iterator[_Batch]:
        order = rng.permutation(n_lists)
        for step in range(steps):
            chosen = order[step * settings.lists_per_step : (step + 1) * settings.lists_per_step]
            rows, segments = rows_of(ptr, chosen)
            kept = _kept(bought[rows.numpy()], segments, own.unbought, rng)
            yield _Batch(rows[kept], segments[kept], len(chosen))

    def loss(batch: _Batch) -> Tensor:
        rows = batch.rows.numpy()
        parts = (
            features[rows],
            _floats(gaps[rows]),
            items[rows] + 1,
            bought[rows].astype(np.float32),
        )
        told, since, numbers, labels = (torch.from_numpy(part).to(stage.device) for part in parts)
        logits = model.logits(told, since, numbers)
        segments = batch.segments.to(stage.device)
        return mean_loss(*list_losses(logits, labels, segments, batch.n_lists, settings.loss))

    counted = None if validation is None else (validation, gaps_of(model, validation))
    course = train_epochs(
        Learner(model, optimiser, schedule, np.random.default_rng(settings.seed)), batches, loss,
        epochs=epochs, patience=own.patience,
        validate=None if counted is None else lambda: _ndcg(model, *counted),
        on_epoch=on_epoch, stage=stage,
    )  # fmt: skip
    model.cpu()
    if counted is not None:
        scale, offset = calibration(repeat_scores(model, *counted), counted[0].labels)
        model.scale.fill_(scale)
        model.offset.fill_(offset)
    return TrainedRepeats(model, course)


def _model(
    lists: list[Lists], n_items: int, settings: TrainSettings, own: SequenceSettings
) -> RepeatRanker:
    features = np.concatenate([part.features for part in lists])
    mean, deviation = torch.from_numpy(features.mean(0)), torch.from_numpy(features.std(0))
    # What is not read is a constant to the model.
    unread = [group for group in FEATURE_GROUPS if group not in READS]
    deviation[columns_of((*unread, *settings.without))] = 0
    return RepeatRanker(
        mean, deviation, n_items, own.length, min(own.gaps, own.length), own.width, own.dropout
    )


def _kept(
    bought: NDArray[np.bool_], segments: Tensor, most: int, rng: np.random.Generator
) -> Tensor:
    """Which rows a step learns from, rising: all that were bought, and of a list's others about `most`."""
    of = segments.numpy()
    others = np.bincount(of, ~bought)
    share = most / np.maximum(others, 1)
    return torch.from_numpy(np.flatnonzero(bought | (rng.random(len(of)) < share[of])))


def _floats(gaps: Int16) -> Float32:
    return gaps.astype(np.float32)


@torch.no_grad()
def gaps_of(model: RepeatRanker, lists: Lists) -> Int16:
    """The gaps `[R, gaps, 2]` of all rows, as the served graph counts them."""
    out = np.empty((len(lists.labels), model.gaps, 2), np.int16)
    device = model.mean.device
    for place in range(len(lists)):
        part = slice(int(lists.ptr[place]), int(lists.ptr[place + 1]))
        asked = torch.from_numpy(lists.items[part] + 1)[None].to(device)
        recent = torch.from_numpy(lists.recent[place])[None].to(device)
        out[part] = model.gaps_of(recent, asked)[0].cpu().numpy()
    return out


@torch.no_grad()
def repeat_scores(model: RepeatRanker, lists: Lists, gaps: Int16) -> Float32:
    """The logits `[R]` of all rows; gaps: as `gaps_of` counts them."""
    model.eval()
    device = model.mean.device
    out = np.empty(len(lists.labels), np.float32)
    for start in range(0, len(out), ASKED):
        part = slice(start, start + ASKED)
        rows = (lists.features[part], _floats(gaps[part]), lists.items[part] + 1)
        told = model.logits(*(torch.from_numpy(one).to(device) for one in rows))
        out[part] = told.cpu().numpy()
    return out


def _ndcg(model: RepeatRanker, lists: Lists, gaps: Int16) -> float:
    return float(ndcgs_of_scores(repeat_scores(model, lists, gaps), lists).mean())
