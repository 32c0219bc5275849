"""Fairness under load: is whoever is turned away, or served late, of one group more than of another?

load.groups.ATTRIBUTE.accepted.HOW   the share of requests that were not refused for want of room
load.groups.ATTRIBUTE.answered.HOW   the share that got a right answer
load.groups.ATTRIBUTE.in_time.HOW    the share that got one within the deadline
load.exposure.TABLE.accepted.HOW     (answered, in_time) the share of the exposure that was delivered,
                                     of what the lists would have given each group of items
HOW: worst, worst_ratio, worst_gap; of callers' groups, as the request file has them, or of the groups
of the policy's table, as the quiet server's lists have them

The unit is the block of time: what sheds load sheds it for whoever asks in that moment, so requests of
one block are no independent witnesses. Each group's share is taken in every block in which it asked;
groups are compared as if they had not shared their blocks, which is on the safe side, since what they
share goes the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gate.asked import Asked
from bench.gate.blocks import Clock
from bench.gate.cells import How, compared
from bench.gate.measured import Broken, Measured, number
from bench.gate.results import Result

FORM = re.compile(
    r"(groups|exposure)\.(.+)\.(accepted|answered|in_time)\.(worst|worst_ratio|worst_gap)"
)
LEAST_BLOCKS = 20
"""In each group; fewer say nothing of how much blocks differ."""

Weights = Mapping[str, NDArray[np.float64]]
"""Group -> `[requests]`: how much of it each request asked for; 1 or 0 of callers."""


def measure_shedding(runs: Sequence[Result], asked: Asked) -> Measured | None:
    """What the loads say of groups; None where the path is another. Raises Broken."""
    match = FORM.fullmatch(asked.path)
    if match is None:
        return None
    kind, name, what, how = match[1], match[2], match[3], match[4]
    for run in runs:
        if run.latencies_ms is None or run.starts_ns is None or run.refused is None:
            raise Broken(f"{run.source}: no samples, so nothing is known of groups")
    weigh = _callers if kind == "groups" else _exposure
    weights = _together([weigh(run, name) for run in runs])
    for label in asked.budget.leave_out:
        if label not in weights:
            raise Broken(f"leave_out names {label!r}; the groups are: {sorted(weights)}")
    good = np.concatenate([_good(run, what) for run in runs])
    blocks = _clock(runs).blocks(asked.budget.block_s)
    cells: dict[str, NDArray[np.float64]] = {}
    requests = 0
    for label in sorted(set(weights) - {""} - set(asked.budget.leave_out)):
        own = weights[label]
        members = own > 0
        requests += int(members.sum())
        asked_in, ids = np.unique(blocks[members], return_inverse=True)
        n, own = len(asked_in), own[members]
        got = np.bincount(ids, weights=own * good[members], minlength=n)
        cells[label] = got / np.bincount(ids, weights=own, minlength=n)
    if len(cells) < 2:
        raise Broken(f"{name} has {len(cells)} groups to compare, allowed: 2 or more")
    if kind == "exposure":
        # A list has items of several groups.
        requests = int(np.any([own > 0 for own in weights.values()], axis=0).sum())
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


def _callers(run: Result, attribute: str) -> Weights:
    """1 for the requests of a group's callers."""
    if attribute not in run.groups:
        known = ", ".join(run.groups) or "none"
        raise Broken(f"callers have no groups of {attribute!r}; there are groups of: {known}")
    labels = run.groups[attribute]
    return {label: (labels == label).astype(np.float64) for label in sorted(set(labels.tolist()))}


def _exposure(run: Result, table: str) -> Weights:
    """What each list would have given a group of items; 0 where no quiet list is known."""
    if table not in run.exposure:
        known = ", ".join(run.exposure) or "none; [check] share = 0 asks the quiet server nothing"
        raise Broken(f"lists have no groups of {table!r}; there are groups of: {known}")
    return {group: np.nan_to_num(own) for group, own in run.exposure[table].items()}


def _together(parts: Sequence[Weights]) -> Weights:
    """Of several runs one after the other; 0 in a run where a group did not ask."""
    lengths = [len(next(iter(part.values()), np.zeros(0))) for part in parts]
    labels = sorted({label for part in parts for label in part})
    return {
        label: np.concatenate(
            [part.get(label, np.zeros(n)) for part, n in zip(parts, lengths, strict=True)]
        )
        for label in labels
    }


def _good(run: Result, what: str) -> NDArray[np.bool_]:
    """Of every request whether it went well."""
    assert run.refused is not None
    assert run.latencies_ms is not None
    if what == "accepted":
        return ~run.refused
    if what == "answered":
        return np.isfinite(run.latencies_ms)
    return run.latencies_ms <= number(run.document.get("deadline_ms"), "deadline_ms")


def _clock(runs: Sequence[Result]) -> Clock:
    starts = [run.starts_ns for run in runs if run.starts_ns is not None]
    numbers = [np.full(len(own), place, np.int64) for place, own in enumerate(starts)]
    return Clock(np.concatenate(starts), np.concatenate(numbers))
