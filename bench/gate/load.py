"""Load metrics: exact limits over blocks of time, and pairs of interleaved runs.

load.latency_ms.pNN, pNN.N  from the raw samples of all runs; a failed request is +inf
load.error_ratio            with its exact interval
load.receipts.STATUS, load.errors   summed over the runs
load.groups...              who is turned away: `bench.gate.shedding`
load.PATH                   any other number of the one run
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from bench.gate.asked import Asked, Evidence
from bench.gate.blocks import (
    Clock,
    Dependence,
    Latencies,
    blocks_without_a_stall,
    dependence,
)
from bench.gate.interleaved import compare_runs, not_alike, pairs_of
from bench.gate.intervals import percentile, percentile_limits, share_limits
from bench.gate.measured import Broken, Measured, Void, count, look_up, number
from bench.gate.results import Result
from bench.gate.shedding import measure_shedding

_PERCENTILE = re.compile(r"latency_ms\.p(\d{1,2}(?:\.\d+)?)")
_TIME = re.compile(r"(latency|latency_ok|service)_ms\..+|(rows|groups)\..+\.(p\d+|mean|max)")
LEAST_BLOCKS = 20
"""Below this the dependence between requests is not known at all."""
_SUMMED = re.compile(r"receipts\..+|errors")


def quantile_of(path: str) -> float | None:
    """The quantile that a path names; None for another path. Raises Broken."""
    match = _PERCENTILE.fullmatch(path)
    if match is None:
        return None
    quantile = float(match[1]) / 100
    if not 0 < quantile < 1:
        raise Broken(f"{path}: a percentile stands between 0 and 100")
    return quantile


def measure_load(evidence: Evidence, asked: Asked) -> Measured:
    """What the loads say. Raises Broken."""
    runs = evidence.of("load")
    every = (*runs, *(evidence.before("load") if asked.against == "baseline" else ()))
    for run in every:
        _valid(run)
    quantile = quantile_of(asked.path)
    if _TIME.fullmatch(asked.path):
        _refuse_closed(every)
    if asked.against == "baseline":
        return _against(evidence, asked, quantile)
    for run in runs[1:]:
        if told := not_alike(run, runs[0]):
            raise Broken(f"the loads are no single sample: {told}")
    by_group = measure_shedding(runs, asked)
    if by_group is not None:
        return by_group
    n = sum(count(run.document.get("requests"), "requests") for run in runs)
    if quantile is not None:
        return _percentile(runs, asked, quantile, n)
    if asked.path == "error_ratio" and n > 0:
        return _errors(runs, asked, n)
    values = [number(look_up(run.document, "load", asked.path), asked.path) for run in runs]
    if len(runs) == 1:
        return Measured(values[0], n, "requests")
    if _SUMMED.fullmatch(asked.path) is None:
        raise Broken(f"{asked.path} of {len(runs)} runs is no single number; give one load")
    return Measured(sum(values), n, "requests")


def _valid(run: Result) -> None:
    """A run that says that it did not do what it was to do says nothing of the server."""
    valid, name = run.document.get("valid"), run.source or "the load"
    if valid is False:
        raise Void(f"{name} is void: {run.document.get('void_because') or 'no reason is told'}")
    if valid is not True:
        raise Broken(f"{name} does not say whether the run was valid")


def _refuse_closed(runs: Sequence[Result]) -> None:
    """A closed loop asks a server that stalls no more until it answers: what would have waited is absent
    from its percentiles. Such a run decides on no latency. Raises Void."""
    for run in runs:
        scenario = run.document.get("scenario")
        if isinstance(scenario, Mapping) and scenario.get("loop") == "closed":
            raise Void(
                f"{run.source or 'the load'} is a closed loop, whose users wait for the server: its "
                "percentiles leave out who would have come; give an open loop (--rate)"
            )


def _samples(runs: Sequence[Result]) -> tuple[Latencies, Clock | None] | None:
    """All requests of all runs, and when they were sent; None where a run has no samples."""
    parts = [run.latencies_ms for run in runs if run.latencies_ms is not None]
    if len(parts) < len(runs):
        return None
    latencies = np.concatenate(parts)
    if np.isnan(latencies).any():
        raise Broken("a latency among the samples is not a number")
    starts = [run.starts_ns for run in runs if run.starts_ns is not None]
    if len(starts) < len(runs) or not len(latencies):
        return latencies, None
    numbers = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return latencies, Clock(np.concatenate(starts), numbers.astype(np.int64))


def _worth(seen: Dependence, asked: Asked) -> tuple[int, int]:
    low, high = asked.alphas
    return seen.effective_n(low), seen.effective_n(high)


def least_blocks(asked: Asked, quantile: float | None) -> int:
    """How many blocks a pass needs."""
    if asked.budget.min_blocks is not None:
        return asked.budget.min_blocks
    if quantile is None or asked.high_bound is None:
        return LEAST_BLOCKS
    return max(LEAST_BLOCKS, blocks_without_a_stall(quantile, asked.alphas[1]))


def _short(seen: Dependence, least: int, needed: int | None = None) -> str:
    """What is said of fewer blocks than `least`; needed: how many the reader should come back with."""
    if seen.blocks >= least:
        return ""
    joined = " (joined, since neighbours go together)" if seen.joined else ""
    return f"{seen.blocks} blocks of {seen.block_s:g} s{joined}, needed: {needed or least}"


def _percentile(runs: Sequence[Result], asked: Asked, quantile: float, n: int) -> Measured:
    if n == 0:
        raise Broken("no request was made")
    samples = _samples(runs)
    if samples is None:
        if len(runs) > 1:
            raise Broken("a run has no samples, so the runs are no single sample")
        value = number(look_up(runs[0].document, "load", asked.path), asked.path)
        return Measured(value, n, "requests", note="no samples, so no interval")
    latencies, clock = samples
    value = percentile(latencies, quantile)
    if clock is None:
        return Measured(value, n, "requests", note="no times of requests, so no blocks")
    seen = dependence(latencies > value, clock, asked.budget.block_s)
    worth = _worth(seen, asked)
    least = least_blocks(asked, quantile)
    low, high = percentile_limits(latencies, quantile, *asked.alphas, worth)
    limit = asked.high_bound
    # Who measures again shall not come back with as many as a failure takes, and lack those of a pass.
    needed = least if limit is not None and value <= limit else min(least, LEAST_BLOCKS)
    return Measured(
        value, n, "requests", low, high, quantile=quantile,
        lacks=_short(seen, min(least, LEAST_BLOCKS), needed), no_pass=_short(seen, least),
        late=None if limit is None else int(np.count_nonzero(latencies > limit)),
        effective_n=min(worth), blocks=seen.blocks, note=_told(seen),
    )  # fmt: skip


def _told(seen: Dependence) -> str:
    if seen.design_effect <= 1.05:
        return f"{seen.blocks} blocks of {seen.block_s:g} s"
    return (
        f"{seen.blocks} blocks of {seen.block_s:g} s, in which late requests cluster: each counts "
        f"for {1 / seen.design_effect:.2g}"
    )


def _errors(runs: Sequence[Result], asked: Asked, n: int) -> Measured:
    errors = 0
    for run in runs:
        mine = count(run.document.get("requests"), "requests")
        failed = count(run.document.get("errors"), "errors")
        value = number(look_up(run.document, "load", "error_ratio"), "error_ratio")
        if failed > mine or not math.isclose(value, failed / max(mine, 1), abs_tol=1e-9):
            raise Broken(f"error_ratio is {value:g}, but {failed} of {mine} requests failed")
        errors += failed
    latencies, clock = _samples(runs) or (None, None)
    if latencies is None or clock is None:
        return Measured(errors / n, n, "requests", note="no samples with times, so no interval")
    failures = np.isinf(latencies)
    if int(failures.sum()) != errors:
        raise Broken(f"{errors} errors are told, {int(failures.sum())} are among the samples")
    seen = dependence(failures, clock, asked.budget.block_s)
    least = least_blocks(asked, None)
    low, high = share_limits(errors / n, *asked.alphas, _worth(seen, asked))
    return Measured(
        errors / n, n, "requests", low, high, lacks=_short(seen, min(least, LEAST_BLOCKS)), no_pass=_short(seen, least),
        effective_n=min(_worth(seen, asked)), blocks=seen.blocks, note=_told(seen),
    )  # fmt: skip


def _against(evidence: Evidence, asked: Asked, quantile: float | None) -> Measured:
    before = evidence.before("load")
    if not before:
        raise Broken("no load of a baseline was given; --baseline names its files")
    pairs = pairs_of(evidence.of("load"), before)

    def value_of(run: Result) -> float:
        if quantile is None:
            return number(look_up(run.document, "load", asked.path), asked.path)
        if run.latencies_ms is None or not len(run.latencies_ms):
            raise Broken(f"{run.source}: no samples")
        if np.isnan(run.latencies_ms).any():
            raise Broken("a latency among the samples is not a number")
        return percentile(run.latencies_ms, quantile)

    low, high = asked.alphas
    return compare_runs(
        pairs, value_of, relative=asked.relative, min_pairs=asked.budget.min_pairs,
        alpha_low=low, alpha_high=high,
    )  # fmt: skip
