"""What a verdict is made of: plain data, for whoever shows it or keeps it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from bench.gate.measured import Cell


class Status(StrEnum):
    """What a line or a whole verdict says."""

    PASS = "pass"
    FAIL = "fail"
    NOT_ENOUGH = "not enough evidence"


EXIT_CODES = {Status.PASS: 0, Status.FAIL: 1, Status.NOT_ENOUGH: 3}

Kind = Literal["bundle", "baseline", "seal", "weaker", "coverage", "policy", "budget", "margin"]


@dataclass(frozen=True)
class Line:
    """The decision on one budget: what was seen, against which bound, and why.

    kind: "budget" is a bound, "margin" a difference from the baseline, the others are lines that
    every verdict of such input has. value, low, high: None where there was none; of a margin, of
    the difference (relative: as a share). low_bound, high_bound: what the interval must keep. n: how
    many `unit` it rests on. alpha_low, alpha_high: one-sided error rates of the interval's ends.
    needed: how many would decide if the value stays. effective_n, blocks: of a load. cells: of
    groups. bound_unit: what value and bounds are in.
    """

    metric: str
    status: Status
    bound: str
    why: str
    reason: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = ""
    owner: str = ""
    kind: Kind = "budget"
    low_bound: float | None = None
    high_bound: float | None = None
    relative: bool = False
    bound_unit: str = ""
    alpha_low: float | None = None
    alpha_high: float | None = None
    needed: int | None = None
    effective_n: float | None = None
    blocks: int | None = None
    cells: tuple[Cell, ...] = ()
    weaker_because: str = ""


@dataclass(frozen=True)
class Verdict:
    """All lines and what follows from them.

    budgets_sha256: the seal of the budgets. look, looks: which of how many declared. baseline: its
    bundle, None without one.
    """

    status: Status
    lines: tuple[Line, ...]
    budgets: str
    bundle_id: str
    budgets_sha256: str = ""
    baseline: str | None = None
    look: int = 1
    looks: int = 1

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 3 not enough evidence."""
        return EXIT_CODES[self.status]

    def count(self, status: Status) -> int:
        """How many lines have this status."""
        return sum(line.status is status for line in self.lines)


def overall(statuses: Sequence[Status]) -> Status:
    """The worst of them; no line at all is no evidence.

    >>> overall([Status.PASS, Status.NOT_ENOUGH]).value
    'not enough evidence'
    """
    if Status.FAIL in statuses:
        return Status.FAIL
    if Status.NOT_ENOUGH in statuses or not statuses:
        return Status.NOT_ENOUGH
    return Status.PASS


def plain(number: float | None) -> float | str | None:
    """A number as JSON can hold it: infinity as text."""
    if number is None or math.isfinite(number):
        return number
    return str(number)
