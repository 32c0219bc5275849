"""Fairness under load: is whoever is turned away, or served late, of one group more than of another?

load.groups.ATTRIBUTE.accepted.HOW   the share of requests that were not refused for want of room
load.groups.ATTRIBUTE.answered.HOW   the share that got a right answer
load.groups.ATTRIBUTE.in_time.HOW    the share that got one within the deadline
HOW: worst, worst_ratio, worst_gap; of callers' groups, as the request file has them

The unit is the block of time: what sheds load sheds it for whoever asks in that moment, so requests of
one block are no independent witnesses. Each group's share is taken in every block in which it asked;
groups are compared as if they had not shared their blocks, which is on the safe side, since what they
share goes the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gate.asked import Asked
from bench.gate.blocks import Clock
from bench.gate.cells import How, compared
from bench.gate.measured import Broken, Measured, number
from bench.gate.results import Result

FORM = re.compile(r"groups\.(.+)\.(accepted|answered|in_time)\.(worst|worst_ratio|worst_gap)")
LEAST_BLOCKS = 20
"""In each group; fewer say nothing of how much blocks differ."""


def measure_shedding(runs: Sequence[Result], asked: Asked) -> Measured | None:
    """What the loads say of groups; None where the path is another. Raises Broken."""
    match = FORM.fullmatch(asked.path)
    if match is None:
        return None
    attribute, what, how = match[1], match[2], match[3]
    cells: dict[str, NDArray[np.float64]] = {}
    requests = 0
    labels, values, clock = _rows(runs, attribute, what)
    blocks = clock.blocks(asked.budget.block_s)
    for label in sorted(set(labels.tolist()) - {""} - set(asked.budget.leave_out)):
        members = labels == label
        requests += int(members.sum())
        asked_in, ids = np.unique(blocks[members], return_inverse=True)
        good = np.bincount(ids, weights=values[members], minlength=len(asked_in))
        cells[label] = good / np.bincount(ids, minlength=len(asked_in))
    for label in asked.budget.leave_out:
        if label not in set(labels.tolist()):
            raise Broken(
                f"leave_out names {label!r}; the groups are: {sorted(set(labels.tolist()))}"
            )
    if len(cells) < 2:
        raise Broken(f"{attribute} has {len(cells)} groups to compare, allowed: 2 or more")
    return _told(cells, requests, how, asked)  # type: ignore[arg-type]


def _told(cells: dict[str, NDArray[np.float64]], requests: int, how: How, asked: Asked) -> Measured:
    bound = asked.high_bound if how == "worst_gap" else asked.low_bound
    (value, low, high), found = compared(cells, how, bound, *asked.alphas)
    fewest = min(found, key=lambda cell: cell.n)
    lacks = ""
    if fewest.n < LEAST_BLOCKS:
        lacks = f"group {fewest.label!r} asked in {fewest.n} blocks of time, needed: {LEAST_BLOCKS}"
    pick: Callable[..., Any] = max if how == "worst_gap" else min
    worst = pick(found, key=lambda cell: cell.value)
    return Measured(
        value, requests, "requests", low, high, blocks=fewest.n, lacks=lacks,
        note=f"group {worst.label!r}, {fewest.n} blocks or more of each", cells=found,
    )  # fmt: skip


def _rows(
    runs: Sequence[Result], attribute: str, what: str
) -> tuple[NDArray[np.str_], NDArray[np.float64], Clock]:
    """Of every request its caller's group, whether it went well, and its block."""
    labels, values, starts, numbers = [], [], [], []
    for number_of, run in enumerate(runs):
        if run.latencies_ms is None or run.starts_ns is None or run.refused is None:
            raise Broken(f"{run.source}: no samples, so nothing is known of groups")
        if attribute not in run.groups:
            known = ", ".join(run.groups) or "none"
            raise Broken(f"callers have no groups of {attribute!r}; there are groups of: {known}")
        if what == "accepted":
            good = ~run.refused
        elif what == "answered":
            good = np.isfinite(run.latencies_ms)
        else:
            good = run.latencies_ms <= number(run.document.get("deadline_ms"), "deadline_ms")
        labels.append(run.groups[attribute])
        values.append(good.astype(np.float64))
        starts.append(run.starts_ns)
        numbers.append(np.full(len(good), number_of, np.int64))
    clock = Clock(np.concatenate(starts), np.concatenate(numbers))
    return np.concatenate(labels), np.concatenate(values), clock
