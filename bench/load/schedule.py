"""When each request of an open loop is due, and whose it is: all of it before the first is sent.

A pure function of the scenario and its seed, so that every driver, and every process of one, offers
the same load, and a run can be judged by what it should have been.

Arrivals of a stage are made in its cumulative rate L(t), the requests expected up to t: a Poisson
stream of any rate is one of rate 1 there (time change; Cinlar 1975), a constant one has a request at
each half. `expected` turns times back into it, which is how arrivals are tested afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.load.scenario import Asked, Scenario, Stage
from bench.refused import InputRefused

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
COLD = -1
"""In place of a request's number: somebody whom nobody knows."""


@dataclass(frozen=True)
class Schedule:
    """due_ns `[n] int64`, since the start, not falling; stage `[n] int16`; request `[n] int32`, a place
    in the request file or COLD; checked `[n] bool`, whose answer is compared."""

    due_ns: Int64
    stage: NDArray[np.int16]
    request: NDArray[np.int32]
    checked: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.due_ns)


def schedule_of(scenario: Scenario, n_requests: int) -> Schedule:
    """The whole load. n_requests: lines of the request file.

    Raises:
        InputRefused: a trace that cannot be read or whose times fall, or a load without a request.
    """
    arrivals, who, check = (
        np.random.default_rng((scenario.seed, part)) for part in range(3)
    )  # each its own stream: another share of cold users moves no arrival
    times: list[Float64] = []
    stages: list[NDArray[np.int16]] = []
    began_s = 0.0
    for number, stage in enumerate(scenario.stage):
        at_s = times_s(stage, arrivals)
        times.append(began_s + at_s)
        stages.append(np.full(len(at_s), number, np.int16))
        began_s += stage.duration_s
    due_ns = (np.concatenate(times) * 1e9).astype(np.int64)
    if not len(due_ns):
        raise InputRefused(scenario.name, "stage", "no request would be sent: longer, or faster")
    return Schedule(
        due_ns,
        np.concatenate(stages),
        drawn(scenario.requests, n_requests, len(due_ns), who),
        check.random(len(due_ns)) < scenario.check.share,
    )


def drawn(asked: Asked, n_requests: int, n: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Whose each of `n` requests is, `[n]`: places below `n_requests`, or COLD."""
    weights = np.arange(1, n_requests + 1, dtype=np.float64) ** -asked.zipf
    order = rng.permutation(n_requests)
    upto = np.cumsum(weights / weights.sum())
    places = np.minimum(np.searchsorted(upto, rng.random(n), side="right"), n_requests - 1)
    cold = rng.random(n) < asked.cold_share
    return np.where(cold, COLD, order[places]).astype(np.int32)


def expected(stage: Stage, at_s: Float64) -> Float64:
    """L(t): requests expected since the stage began, `[n]`; not of a trace."""
    first, last = _rates(stage)
    return first * at_s + (last - first) * at_s**2 / (2 * stage.duration_s)


def _rates(stage: Stage) -> tuple[float, float]:
    assert stage.rate_rps is not None
    assert stage.to_rps is not None
    return stage.rate_rps, stage.to_rps


def times_s(stage: Stage, rng: np.random.Generator) -> Float64:
    """Since the stage began, `[n]`, below its duration."""
    if stage.kind == "trace":
        return _trace_s(stage)
    first, last = _rates(stage)
    total = (first + last) / 2 * stage.duration_s
    if stage.kind == "bursts":
        at = np.arange(0.0, total, stage.size)
        return np.repeat(at / first, stage.size)
    if stage.kind == "constant":
        return _times_of(stage, np.arange(0.5, total))
    cumulative: Float64 = np.empty(0)
    while not len(cumulative) or cumulative[-1] < total:
        more = rng.exponential(1.0, int(total + 6 * total**0.5) + 16)
        start = cumulative[-1] if len(cumulative) else 0.0
        cumulative = np.concatenate([cumulative, start + more.cumsum()])
    return _times_of(stage, cumulative[cumulative < total])


def _times_of(stage: Stage, cumulative: Float64) -> Float64:
    """The times at which L(t) is so much: the root of a quadratic, without its cancellation."""
    first, last = _rates(stage)
    growth = (last - first) / stage.duration_s
    times: Float64 = 2 * cumulative / (first + np.sqrt(first**2 + 2 * growth * cumulative))
    return times


def _trace_s(stage: Stage) -> Float64:
    assert stage.file is not None
    source = str(stage.file)
    try:
        lines = stage.file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputRefused(source, "", why or str(error)) from error
    try:
        at_s = np.array([float(line) for line in lines], np.float64)
    except ValueError as error:
        raise InputRefused(source, "", f"a time in seconds on each line: {error}") from error
    if not np.isfinite(at_s).all() or (len(at_s) and at_s[0] < 0):
        raise InputRefused(
            source, "", "times are seconds since the trace's start, finite, from 0 on"
        )
    falling = np.flatnonzero(np.diff(at_s) < 0)
    if len(falling):
        line = int(falling[0]) + 2
        raise InputRefused(source, f"line {line}", f"got {at_s[line - 1]:g} after {at_s[line - 2]:g}; "
                           "times must not fall")  # fmt: skip
    at_s = at_s / stage.speed
    found: Float64 = at_s[at_s < stage.duration_s]
    return found
