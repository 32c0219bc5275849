"""What the fair stage takes and gives: frozen, arrays only.

A policy compiles to integer tables: among the first k places at least
`floors[g, k]` and at most `ceilings[g, k]` items belong to group g.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.fairness.policy_sections import Discount

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Int8 = NDArray[np.int8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


T = TypeVar("T")


class ReasonCode(IntEnum):
    """Why an item stands where it stands; values as in `equipoise.v1.ReasonCode`."""

    SCORE = 1
    RAISED_FOR_FLOOR = 2
    LOWERED_FOR_FLOOR = 3
    RAISED_FOR_CEILING = 4
    LOWERED_FOR_CEILING = 5
    RAISED_FOR_EXPOSURE = 6
    LOWERED_FOR_EXPOSURE = 7
    RAISED_FOR_DIVERSITY = 8
    LOWERED_FOR_DIVERSITY = 9
    SHOWN_BEFORE = 10


class Status(IntEnum):
    """The fair stage's verdict; values as in `equipoise.v1.ReceiptStatus`."""

    MET = 1
    INFEASIBLE = 2
    SKIPPED = 3
    NOT_FOUND = 4


class Skip(IntEnum):
    """Why it had nothing to do; values as in `equipoise.v1.SkipReason`."""

    NOT_SKIPPED = 0
    POLICY_NONE = 1
    EMPTY_LIST = 2


@dataclass(frozen=True)
class PrefixViolation:
    """The first prefix (from 1) at which the policy cannot be met, and the group that breaks it.

    needed: what the floor asks for, or what the ceiling allows.
    available: what there can be (floor) or must be (ceiling) with these candidates.
    """

    prefix: int
    group: str
    needed: int
    available: int


class GroupExposure(NamedTuple):
    """One group's items in the list and its share of exposure under the policy's discount."""

    group: str
    items: int
    exposure_share: float


@dataclass(frozen=True)
class CalibrationGap:
    """How far a list is from its user's own shares of one table's groups: KL before and after the
    fair stage (Steck 2018)."""

    group_table: str
    before: float
    after: float


@dataclass(frozen=True)
class Receipt:
    """What the fair stage did to one list.

    utility_kept: DCG over that of plain score order. utility_of_best: DCG over the largest that a
    list which keeps the bounds can have, or less: 1 where it is that list; 0 unless status is MET.
    """

    policy: str
    policy_version: str
    policy_digest: str
    group_table: str
    status: Status
    skip_reason: Skip
    first_bad_prefix: PrefixViolation | None
    utility_kept: float
    places_moved: int
    exposure: tuple[GroupExposure, ...]
    utility_of_best: float = 0.0
    discount: Discount = "log2"
    calibration: tuple[CalibrationGap, ...] = ()


@dataclass(frozen=True)
class FairList:
    """A fair list over n candidates.

    order: `[k] int32`, positions of the chosen candidates in the input, best place first.
    rank_by_score: `[k] int32`, each item's rank by (score descending, tie-break ascending), from 1.
    reasons: `[k] int8`, `ReasonCode` values.
    """

    order: Int32
    rank_by_score: Int32
    reasons: Int8
    receipt: Receipt


def quickly(kind: type[T], fields: dict[str, Any]) -> T:
    """A frozen dataclass of all its fields. Its own `__init__` sets each through a call, and takes
    several times as long: as long as the kernels need for a short list."""
    made = object.__new__(kind)
    object.__setattr__(made, "__dict__", fields)
    return made
