"""Fair training: lists of some groups of users count for more in the loss, as much as validation allows.

Owns the groups, the weights and the choice of their strength. An attribute of users is read here and
nowhere else in training: it weighs losses, and is no feature, so nothing of it is in the model's inputs.

Two methods. `reweight`: each list counts by the inverse of its group's frequency, mixed with 1 by the
strength (0: all lists alike; 1: all groups alike). `group-dro` (Sagawa et al., ICLR 2020, algorithm 1):
the groups' weights q grow by exp(strength * loss) at each step, so that the worst-off group counts most.
Departures from the paper, for lists drawn at random rather than by group: q starts at the groups'
shares, so that strength 0 is plain training; a list counts for q / share; the loss by which q grows is a
running mean, since a step does not see each group, plus their adjustment for noise C / sqrt(lists).

A group with fewer than `min_users` users, and those of whom nothing is known, keep the weight 1 and take
no part in the choice: so few say nothing of how their like are served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.errors import Refused, listed
from server.features.types import Float64, Int32
from training.data.dataset import Dataset
from training.data.schema import UNKNOWN
from training.intervals import Estimate, Resampler
from training.rows import Lists
from training.user_groups import MAX_LABELS, MIN_USERS

Method = Literal["reweight", "group-dro"]
STRENGTHS: dict[Method, tuple[float, ...]] = {
    "reweight": (0.0, 0.25, 0.5, 1.0),
    "group-dro": (0.0, 0.0003, 0.001, 0.003, 0.01),
}
"""Tried in this order, from the weakest."""
TIE = 1e-4
"""NDCG that is nearer is the same."""
REMEMBERED = 0.9
"""Of a group's running loss, at each step that sees the group."""
ADJUSTMENT = 1.0
"""C, in nats: what a group of one list has added to its loss."""
NO_GROUP = -1


@dataclass(frozen=True)
class FairSettings:
    """What is asked for. most_lost: the share of overall validation NDCG@20 that may be given up."""

    attribute: str
    method: Method = "reweight"
    most_lost: float = 0.01
    min_users: int = MIN_USERS

    @property
    def strengths(self) -> tuple[float, ...]:
        """Those that are tried, 0 first."""
        return STRENGTHS[self.method]


@dataclass(frozen=True)
class FairGroups:
    """codes: `[U] int32`, each user's place in `labels`, NO_GROUP for the rest."""

    labels: tuple[str, ...]
    codes: Int32
    left_out: tuple[str, ...]

    def of(self, lists: Sequence[Lists]) -> Int32:
        """The code of each list."""
        codes: Int32 = self.codes[np.concatenate([part.users for part in lists])]
        return codes


def check_attribute(data: Dataset, attribute: str) -> None:
    """Refuse what cannot make groups, before anything is trained.

    Raises:
        Refused: users have no such attribute, or it has too many values or only one.
    """
    known = {name: sorted(set(values) - {UNKNOWN}) for name, values in data.user_attributes.items()}
    if attribute not in known:
        there = f"there are: {listed(known)}" if known else "none is told (--users)"
        raise Refused(f"--fair-by: users have no attribute {attribute!r}; {there}")
    if not 2 <= len(known[attribute]) <= MAX_LABELS:
        raise Refused(
            f"--fair-by: {attribute!r} has {len(known[attribute])} different values, allowed: "
            f"2 to {MAX_LABELS}"
        )


def fair_groups(
    data: Dataset, settings: FairSettings, lists: Sequence[Lists], validation: Lists
) -> FairGroups:
    """The groups with enough users both to learn from and to validate on.

    Raises:
        Refused: fewer than two.
    """
    values = np.array(data.user_attributes[settings.attribute])
    trained = values[np.unique(np.concatenate([part.users for part in lists]))]
    validated = values[np.unique(validation.users)]
    all_labels = sorted(set(values.tolist()))
    labels = tuple(
        label
        for label in all_labels
        if label != UNKNOWN
        and min((trained == label).sum(), (validated == label).sum()) >= settings.min_users
    )
    if len(labels) < 2:
        raise Refused(
            f"--fair-by: of the groups of {settings.attribute!r} {listed(labels) or 'none'} "
            f"{'has' if len(labels) == 1 else 'have'} {settings.min_users} users or more who bought in "
            "the validation window and before: with fewer than two there is nothing to compare"
        )
    codes = np.full(len(values), NO_GROUP, np.int32)
    for code, label in enumerate(labels):
        codes[values == label] = code
    left_out = tuple(label for label in all_labels if label not in labels)
    return FairGroups(labels, codes, left_out)


class Weighting(Protocol):
    """What lists count for. state: tensors that calls change in place, for checkpoints."""

    state: dict[str, Tensor]

    def __call__(self, chosen: NDArray[np.int64], losses: Tensor, used: Tensor) -> Tensor:
        """The losses `[n]` of the chosen lists, weighed; used: those that teach something."""
        ...


class Reweight:
    """Each list by its group's inverse frequency; over all lists of the groups the mean weight is 1."""

    def __init__(self, codes: Int32, n_groups: int, strength: float) -> None:
        inverse = 1 / (n_groups * _shares(codes, n_groups))
        own = np.where(codes == NO_GROUP, 1.0, inverse[codes])
        self.weights = torch.from_numpy(1 + strength * (own - 1)).float()
        self.state: dict[str, Tensor] = {}

    def __call__(self, chosen: NDArray[np.int64], losses: Tensor, used: Tensor) -> Tensor:
        return losses * self.weights[torch.from_numpy(chosen)].to(losses.device)


class GroupDro:
    """The groups' weights q, which follow the losses; see the module."""

    def __init__(self, codes: Int32, n_groups: int, strength: float) -> None:
        shares = _shares(codes, n_groups)
        self._codes = torch.from_numpy(codes).long()
        self._shares = torch.from_numpy(shares)
        lists = shares * np.count_nonzero(codes != NO_GROUP)
        self._noise = torch.from_numpy(ADJUSTMENT / np.sqrt(lists))
        self._strength = strength
        self.state = {
            "log_q": torch.from_numpy(np.log(shares)),
            "running": torch.full((n_groups,), torch.nan, dtype=torch.float64),
        }

    @property
    def q(self) -> Tensor:
        """`[G]`, of sum 1."""
        return self.state["log_q"].exp()

    def __call__(self, chosen: NDArray[np.int64], losses: Tensor, used: Tensor) -> Tensor:
        codes = self._codes[torch.from_numpy(chosen)]
        self._follow(codes, losses.detach().cpu().double(), used.cpu())
        own = (self.q / self._shares)[codes.clamp_min(0)]
        weights = torch.where(codes == NO_GROUP, 1.0, own)
        return losses * weights.to(losses)

    def _follow(self, codes: Tensor, losses: Tensor, used: Tensor) -> None:
        running, log_q = self.state["running"], self.state["log_q"]
        for code in range(len(running)):
            seen = losses[(codes == code) & used]
            if len(seen):
                before = running[code]
                running[code] = (
                    seen.mean()
                    if before.isnan()
                    else REMEMBERED * before + (1 - REMEMBERED) * seen.mean()
                )
        if running.isnan().all():
            return
        # Of a group that no step has seen yet nothing is known.
        known = torch.where(running.isnan(), running.nanmean(), running)
        log_q += self._strength * (known + self._noise)
        log_q -= torch.logsumexp(log_q, 0)


def weighting_of(
    settings: FairSettings, groups: FairGroups, lists: Sequence[Lists], strength: float
) -> Weighting | None:
    """What the lists count for; None where all are alike."""
    if strength == 0:
        return None
    codes, n_groups = groups.of(lists), len(groups.labels)
    if settings.method == "reweight":
        return Reweight(codes, n_groups, strength)
    return GroupDro(codes, n_groups, strength)


def _shares(codes: Int32, n_groups: int) -> Float64:
    # A group that a refit's lists do not hold has no list to weigh: any share will do.
    counts = np.maximum(1, np.bincount(codes[codes != NO_GROUP], minlength=n_groups))
    shares: Float64 = counts / counts.sum()
    return shares


@dataclass(frozen=True)
class Tried:
    """What a strength came to on validation.

    gain: of the group that is worst at strength 0, against strength 0, paired over its users.
    """

    strength: float
    ndcg: float
    by_group: dict[str, float]
    best_epoch: int
    gain: Estimate

    @property
    def worst(self) -> str:
        """The group with the lowest NDCG."""
        return min(self.by_group, key=lambda label: self.by_group[label])

    @property
    def worst_ndcg(self) -> float:
        """Its NDCG."""
        return self.by_group[self.worst]

    @property
    def is_gain(self) -> bool:
        """Whether the gain is more than chance would make of nothing."""
        return self.gain.low is not None and self.gain.low > 0

    def as_json(self) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "validation_ndcg_at_20": round(self.ndcg, 5),
            "worst_group": self.worst,
            "worst_group_ndcg_at_20": round(self.worst_ndcg, 5),
            "gain_of_worst_at_0": self.gain.as_json(),
            "by_group": {label: round(value, 5) for label, value in self.by_group.items()},
            "best_epoch": self.best_epoch,
        }


def rule(most_lost: float) -> str:
    """How `choose` chooses, in words."""
    return (
        "the highest validation NDCG@20 of the worst group, of those strengths whose overall NDCG@20 "
        f"loses at most {most_lost:.1%} against strength 0; ties to the weaker: NDCG within {TIE}, and, "
        "with strength 0, a gain of its worst group whose 95 % interval (paired over users) holds 0"
    )


def choose(candidates: Sequence[Tried], most_lost: float) -> Tried:
    """By `rule`; one of the candidates has strength 0."""
    plain = next(one for one in candidates if one.strength == 0)
    floor = plain.ndcg * (1 - most_lost)
    allowed = [plain, *(one for one in candidates if one.ndcg >= floor and one.is_gain)]
    best = max(one.worst_ndcg for one in allowed)
    return min(
        (one for one in allowed if one.worst_ndcg >= best - TIE), key=lambda one: one.strength
    )


@dataclass(frozen=True)
class FairChoice:
    """The strength that was chosen, for whom, and what each came to."""

    settings: FairSettings
    groups: FairGroups
    candidates: tuple[Tried, ...]
    chosen: Tried

    def as_json(self) -> dict[str, Any]:
        """For the manifest: counts and means of groups of at least `min_users` only."""
        return {
            "attribute": self.settings.attribute,
            "method": self.settings.method,
            "strength": self.chosen.strength,
            "rule": rule(self.settings.most_lost),
            "protected_features": [],
            "groups": list(self.groups.labels),
            "left_without_weight": list(self.groups.left_out),
            "min_users": self.settings.min_users,
            "tried": [one.as_json() for one in self.candidates],
        }


def choose_strength(
    settings: FairSettings,
    groups: FairGroups,
    validation: Lists,
    measured: Callable[[float], tuple[Float64, int]],
    tell: Callable[[str], None],
) -> FairChoice:
    """Try each strength, 0 first. measured: the NDCG of each validation list, and the best epoch."""
    codes = groups.of([validation])
    candidates: list[Tried] = []
    plain: Float64 | None = None
    for strength in settings.strengths:
        ndcgs, best_epoch = measured(strength)
        by_group = {
            label: float(ndcgs[codes == code].mean()) for code, label in enumerate(groups.labels)
        }
        plain = ndcgs if plain is None else plain
        at_start = candidates[0].by_group if candidates else by_group
        members = codes == groups.labels.index(min(at_start, key=lambda label: at_start[label]))
        gain = Resampler(int(members.sum())).mean((ndcgs - plain)[members])
        one = Tried(strength, float(ndcgs.mean()), by_group, best_epoch, gain)
        candidates.append(one)
        tell(
            f"fair by {settings.attribute}, {settings.method} {strength:g}: validation NDCG@20 "
            f"{one.ndcg:.4f}, worst group {one.worst} {one.worst_ndcg:.4f}"
            + (f" (gain {gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}])" if strength else "")
        )
    chosen = choose(candidates, settings.most_lost)
    tell(f"fair by {settings.attribute}: strength {chosen.strength:g} is taken")
    return FairChoice(settings, groups, tuple(candidates), chosen)
