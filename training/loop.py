"""The loop that every family trains in: epochs of steps, the best one kept, a checkpoint after each.

Owns the order of things: early stopping, what stops a run, and what a checkpoint must hold for a run that
was killed to end as if it had not been. Must not know models, losses or files.

    learner = Learner(model, optimiser, schedule, rng)
    course = train_epochs(
        learner, batches, loss, epochs=12, patience=4, validate=None, on_epoch=on_epoch, stage=stage
    )

batches(rng) yields an epoch's batches, loss(batch) is one step's. Everything random in them comes from
`learner.rng` or torch's own generator, both of which are saved. The model ends with its best weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from server.errors import Refused
from training.checkpoints import Saved, Stage

Batch = TypeVar("Batch")
OnEpoch = Callable[[int, float], None]
"""Told an epoch (from 1) and its validation NDCG, or NaN; of a resumed stage the old ones too."""


class TrainingStopped(Refused):
    """A loss or a weight that is no number: to go on would only spoil what was learned."""

    def __init__(self, stage: Stage, what: str, epoch: int, step: int | None) -> None:
        self.stage, self.epoch, self.step, self.seed = stage.name, epoch, step, stage.seed
        where = f"epoch {epoch}" if step is None else f"epoch {epoch}, step {step}"
        kept = (
            "nothing was learned yet"
            if epoch == 1
            else f"the checkpoint of epoch {epoch - 1} is kept"
            if stage.path is not None
            else f"epoch {epoch - 1} was the last good one"
        )
        super().__init__(
            f"{stage.name}: {what} at {where}, seed {stage.seed}; {kept}. Look for features that are "
            "no numbers, or lower learning_rate (--settings)"
        )


@dataclass
class Learner:
    """All that changes while something is learned, and so all that a checkpoint holds.

    rng: what batches are drawn by. state: tensors besides the model's that steps change in place.
    clip: the largest norm of the gradient; None leaves it as it is.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: np.random.Generator
    state: dict[str, Tensor] = field(default_factory=dict)
    clip: float | None = None


@dataclass(frozen=True)
class Course:
    """How a stage went, by epoch from 1. ndcg: NaN without validation. loss: the mean over steps."""

    ndcg_by_epoch: tuple[float, ...]
    loss_by_epoch: tuple[float, ...]
    best_epoch: int

    @property
    def best_ndcg(self) -> float:
        """That of the best epoch."""
        return self.ndcg_by_epoch[self.best_epoch - 1]

    def curve(self) -> dict[str, list[Any]]:
        """The learning curve as JSON; null where there was no validation."""
        return {
            "epochs": list(range(1, len(self.loss_by_epoch) + 1)),
            "validation_ndcg_at_20": [
                None if math.isnan(value) else round(value, 5) for value in self.ndcg_by_epoch
            ],
            "training_loss": [round(value, 5) for value in self.loss_by_epoch],
        }


@dataclass
class _Progress:
    ndcgs: list[float]
    losses: list[float]
    best: dict[str, Tensor]
    best_epoch: int
    done: bool = False


def train_epochs(
    learner: Learner,
    batches: Callable[[np.random.Generator], Iterable[Batch]],
    loss: Callable[[Batch], Tensor],
    *,
    epochs: int,
    patience: int,
    validate: Callable[[], float] | None,
    on_epoch: OnEpoch,
    stage: Stage,
) -> Course:
    """Train for up to `epochs`, or go on where `stage` was saved.

    validate: the measure of the model as it is; the best epoch is kept, and after `patience` epochs
    without a better one training stops. None: all epochs are run, and the last one is kept.

    Raises:
        TrainingStopped: a loss or a weight that is NaN or infinite.
    """
    progress = _restored(learner, stage)
    if progress.losses:
        stage.on_restored(len(progress.losses))
    for number, ndcg in enumerate(progress.ndcgs, 1):
        on_epoch(number, ndcg)
    while not progress.done and len(progress.losses) < epochs:
        epoch = len(progress.losses) + 1
        progress.losses.append(_epoch(learner, batches, loss, stage, epoch))
        ndcg = validate() if validate is not None else math.nan
        if validate is None or ndcg > max(progress.ndcgs, default=-math.inf):
            progress.best, progress.best_epoch = copy.deepcopy(learner.model.state_dict()), epoch
        progress.ndcgs.append(ndcg)
        waited = validate is not None and epoch - progress.best_epoch >= patience
        progress.done = waited or epoch == epochs
        stage.save(_saved(learner, stage, progress))
        on_epoch(epoch, ndcg)
    learner.model.load_state_dict(progress.best)
    learner.model.eval()
    return Course(tuple(progress.ndcgs), tuple(progress.losses), progress.best_epoch)


def _epoch(
    learner: Learner,
    batches: Callable[[np.random.Generator], Iterable[Batch]],
    loss: Callable[[Batch], Tensor],
    stage: Stage,
    epoch: int,
) -> float:
    """One pass; the mean of its losses."""
    learner.model.train()
    losses = []
    for step, batch in enumerate(batches(learner.rng), 1):
        value = loss(batch)
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            raise TrainingStopped(stage, f"the loss is {losses[-1]}", epoch, step)
        learner.optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        if learner.clip is not None:
            nn.utils.clip_grad_norm_(learner.model.parameters(), learner.clip)
        learner.optimiser.step()
        learner.schedule.step()
    for name, weight in learner.model.named_parameters():
        # Of the last step's gradient no later loss tells.
        if not torch.isfinite(weight).all():
            raise TrainingStopped(stage, f"the weight {name} is no number", epoch, None)
    return sum(losses) / max(1, len(losses))


def _saved(learner: Learner, stage: Stage, progress: _Progress) -> Saved:
    moments = learner.optimiser.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in learner.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in progress.best.items()}
    tensors |= {f"state.{name}": tensor for name, tensor in learner.state.items()}
    plain: dict[str, dict[str, Any]] = {}
    for place, values in moments["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"moment.{place}.{name}"] = value
            else:
                plain.setdefault(str(place), {})[name] = value
    tensors["random.cpu"] = torch.get_rng_state()
    if stage.device.type == "cuda":
        tensors["random.cuda"] = torch.cuda.get_rng_state(stage.device)
    facts = {
        "groups": moments["param_groups"],
        "plain_moments": plain,
        "schedule": learner.schedule.state_dict(),
        "numpy": learner.rng.bit_generator.state,
        "ndcgs": [None if math.isnan(value) else value for value in progress.ndcgs],
        "losses": progress.losses,
        "best_epoch": progress.best_epoch,
        "told": {"epochs": len(progress.losses), "best_epoch": progress.best_epoch},
    }
    return Saved(tensors, facts, progress.done)


def _restored(learner: Learner, stage: Stage) -> _Progress:
    """The learner and the generators as they were saved; as they are where nothing was."""
    saved = stage.load()
    if saved is None:
        return _Progress([], [], copy.deepcopy(learner.model.state_dict()), 0)
    facts = saved.facts

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor.to(stage.device)
            for name, tensor in saved.tensors.items()
            if name.startswith(prefix)
        }

    try:
        learner.model.load_state_dict(part("model."))
        for name, tensor in part("state.").items():
            learner.state[name].copy_(tensor)
        moments: dict[int, dict[str, Any]] = {
            int(place): dict(values) for place, values in facts["plain_moments"].items()
        }
        for name, tensor in saved.tensors.items():
            if name.startswith("moment."):
                _, place, what = name.split(".", 2)
                moments.setdefault(int(place), {})[what] = tensor
        learner.optimiser.load_state_dict({"state": moments, "param_groups": facts["groups"]})
        learner.schedule.load_state_dict(facts["schedule"])
        learner.rng.bit_generator.state = facts["numpy"]
        torch.set_rng_state(saved.tensors["random.cpu"])
        if "random.cuda" in saved.tensors:
            torch.cuda.set_rng_state(saved.tensors["random.cuda"], stage.device)
        ndcgs = [math.nan if value is None else float(value) for value in facts["ndcgs"]]
        return _Progress(
            ndcgs, list(facts["losses"]), part("best."), int(facts["best_epoch"]), saved.done
        )
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise Refused(
            f"the checkpoint {stage.path} is of another model ({error}): start without --resume"
        ) from error
