"""Two servers under one load, run by turns: candidate and baseline, A/B/A/B.

Owns relative limits of a load. A machine of today is not that of yesterday, nor
of ten minutes ago, so times are compared only within pairs of runs that stand
beside each other, and the pair is the unit: as many log ratios as pairs, a mean
of them with Student's limits. One pair says nothing about the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bench.gate.means import mean_limits, mean_of
from bench.gate.measured import Broken, Measured
from bench.gate.results import Result

SAME = ("machine", "driver", "processes", "deadline_ms", "requests_sha256", "scenario")
"""What the two loads must have in common, but for the scenario's seed and the request file's name."""


def pairs_of(
    candidate: Sequence[Result], baseline: Sequence[Result]
) -> list[tuple[Result, Result]]:
    """(candidate, baseline) runs beside each other, in order of time.

    Raises:
        Broken: not as many runs of both, without times, overlapping, or not by turns.
    """
    if len(candidate) != len(baseline):
        raise Broken(
            f"{len(candidate)} runs of the candidate and {len(baseline)} of the baseline; "
            "interleaved runs come in pairs"
        )
    runs = []
    for side, results in (("candidate", candidate), ("baseline", baseline)):
        for result in results:
            if result.starts_ns is None or not len(result.starts_ns):
                raise Broken(f"{result.source}: no times of requests, so no order of runs")
            runs.append((int(result.starts_ns.min()), int(result.starts_ns.max()), side, result))
    runs.sort(key=lambda run: run[0])
    for earlier, later in pairwise(runs):
        if later[0] < earlier[1]:
            raise Broken(f"{later[3].source} began before {earlier[3].source} had ended")
    pairs = []
    for first, second in zip(runs[::2], runs[1::2], strict=True):
        if first[2] == second[2]:
            raise Broken(
                f"two runs of the {first[2]} in one pair ({first[3].source}, {second[3].source}); "
                "candidate and baseline run by turns"
            )
        ours, theirs = (first, second) if first[2] == "candidate" else (second, first)
        pairs.append((ours[3], theirs[3]))
    return pairs


def not_alike(candidate: Result, baseline: Result) -> str:
    """What two loads differ in that makes their times incomparable; empty if nothing."""
    for key in SAME:
        ours, theirs = (_but_for_seed(run.document.get(key)) for run in (candidate, baseline))
        if ours != theirs:
            return f"{key} differs: {ours!r} and {theirs!r} ({candidate.source}, {baseline.source})"
    return ""


def _but_for_seed(told: Any) -> Any:
    if not isinstance(told, Mapping):
        return told
    asked = told.get("requests")
    if isinstance(asked, Mapping):  # what is in the file counts: requests_sha256
        told = {**told, "requests": {name: asked[name] for name in asked if name != "file"}}
    return {name: value for name, value in told.items() if name != "seed"}


def compare_runs(
    pairs: Sequence[tuple[Result, Result]],
    value_of: Callable[[Result], float],
    *,
    relative: bool,
    min_pairs: int,
    alpha_low: float,
    alpha_high: float,
) -> Measured:
    """Candidate against baseline over pairs; relative: geometric mean of the ratios, minus 1.

    Raises:
        Broken: a pair that is not alike, or a value that has no ratio.
    """
    for ours, theirs in pairs:
        if told := not_alike(ours, theirs):
            raise Broken(f"the runs of a pair are no pair: {told}")
    values = np.array([[value_of(ours), value_of(theirs)] for ours, theirs in pairs], np.float64)
    lacks = _lacks(pairs, min_pairs)
    if not np.isfinite(values).all():
        raise Broken("in one of the runs the value is infinite: a failure decides it")
    if relative and (values <= 0).any():
        raise Broken("a value of 0 has no ratio; give an absolute margin")
    seen = np.log(values[:, 0] / values[:, 1]) if relative else values[:, 0] - values[:, 1]
    mean = mean_of(seen)
    ends = np.array([mean.value, *mean_limits(mean, alpha_low, alpha_high)])
    value, low, high = (np.expm1(ends) if relative else ends).tolist()
    return Measured(
        value, len(pairs), "pairs of runs", low, high, resampled=True, lacks=lacks,
        note="candidate against baseline, run by turns",
    )  # fmt: skip


def _lacks(pairs: Sequence[tuple[Result, Result]], min_pairs: int) -> str:
    if len(pairs) < min_pairs:
        return f"{len(pairs)} pairs of runs, needed: {min_pairs}"
    documents: list[Mapping[str, Any]] = [run.document for pair in pairs for run in pair]
    if any(not document.get("machine") for document in documents):
        return "a load does not say on which machine it ran"
    if any(document["machine"] != documents[0]["machine"] for document in documents):
        return "the pairs ran on different machines"
    return ""
