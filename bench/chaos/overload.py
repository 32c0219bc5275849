"""T4: twice and five times what a server can take, from an open loop.

The peak is the most lists a second that came within their deadline, over steps around what a closed
loop gets. Then the server gets a multiple of that, and after it half: how much good work is still
done, how fast the rest is refused, and how soon all is well again.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.chaos.marks import Mark, at_least, at_most, none_of
from bench.chaos.openloop import Spec
from bench.chaos.samples import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    OK,
    RESOURCE_EXHAUSTED,
    Samples,
    asked,
    generator,
)
from bench.served import Served
from bench.serving.drive import Run, as_arguments

DEADLINE_MS = 100
FALLBACK_POLICY = "provider-tiers-or-fallback"
CALLERS = 32
PENDING = 48
"""`max_pending_calls` of the server: what fits such a deadline."""
STEPS = (0.5, 0.7, 0.85, 1.0, 1.15)
"""Of a closed loop's throughput, where the peak is looked for."""
WINDOW_S = 0.5
GOOD_SHARE = 0.99
REJECT_MS = 10.0
RECOVERY_S = 5.0
LATE_MS = 20.0
"""A caller that sends later than this, in one of a hundred cases, does not offer what it says."""
NAMES = {0: "OK", 1: "CANCELLED", 4: "DEADLINE_EXCEEDED", 8: "RESOURCE_EXHAUSTED",
         14: "UNAVAILABLE", -1: "wrong"}  # fmt: skip


@dataclass(frozen=True)
class Peak:
    """goodput: lists a second within their deadline, at `rate` requests a second."""

    goodput: float
    rate: float


def closed_loop(target: str, bundle: Path, lists: int = 3_000, seed: int = 1) -> float:
    """Lists a second with `CALLERS` in flight."""
    run = Run(target, str(bundle), "unary", CALLERS, lists, seed)
    process = subprocess.Popen(
        as_arguments(run), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    out, _ = process.communicate("\n", timeout=300)
    found = json.loads(out)
    return float(found["lists"] / found["seconds"])


def goodput(samples: Samples, seconds: float) -> float:
    """Answers within their deadline, a second; it runs from when each should have been sent."""
    return float((samples.ok & (samples.took_ms <= DEADLINE_MS)).sum()) / seconds


def find_peak(spec: Spec, around: float, seconds: float, progress: Callable[[float], None]) -> Peak:
    """The best of the steps.

    Raises:
        RuntimeError: none had a good answer.
    """
    best, seen = Peak(0.0, 0.0), ""
    for number, step in enumerate(STEPS, start=1):
        rate = step * around
        samples = asked(replace(spec, rate=rate, seconds=seconds, seed=spec.seed + number))
        got, seen = goodput(samples, seconds), counts(samples)
        if got > best.goodput:
            best = Peak(got, rate)
        progress(number / len(STEPS))
    if not best.goodput:
        raise RuntimeError(f"no answer came within {DEADLINE_MS} ms; calls ended with {seen}")
    return best


def recovered_s(samples: Samples, seconds: float) -> float:
    """When the first window began in which nearly all was good; infinite if none did."""
    for begun_s in np.arange(0, seconds - WINDOW_S, WINDOW_S / 2).tolist():
        part = samples.between(begun_s, begun_s + WINDOW_S)
        if len(part) and part.ok.mean() >= GOOD_SHARE:
            return float(begun_s)
    return float("inf")


def percentile(values: Sequence[float], share: float) -> float:
    """NaN of nothing."""
    return float(np.percentile(values, share)) if len(values) else float("nan")


def counts(samples: Samples) -> str:
    """How many ended with each code."""
    return ", ".join(f"{NAMES.get(code, code)} {n:,}" for code, n in samples.by_code().items())


def marks_of(
    name: str, over: Samples, seconds: float, peak: Peak, after: Samples, *, fallback: bool = False
) -> list[Mark]:
    """The rows of one overload and what came after it. fallback: the policy declares one."""
    # gRPC itself, which refuses what the server has not looked at, has no other status for it.
    refused = (over.codes == RESOURCE_EXHAUSTED) | (over.codes == CANCELLED)
    rejected = over.answered_ms[refused].tolist()
    # Who was not refused and had no answer in time counts as well, or no answer could be late.
    let_in = (over.codes == OK) | (over.codes == DEADLINE_EXCEEDED)
    admitted = over.answered_ms[let_in].tolist()
    late_ms = percentile(over.late_ms.tolist(), 99)
    rows = [
        at_least(
            f"{name}: goodput, of the peak", 100 * goodput(over, seconds) / peak.goodput, 90, " %"
        ),
        at_most(
            f"{name}: answered or too late, 99th percentile",
            percentile(admitted, 99),
            DEADLINE_MS,
            " ms",
        ),
        at_most(f"{name}: refused, 99th percentile", percentile(rejected, 99), REJECT_MS, " ms"),
    ]
    late = late_ms > LATE_MS
    if late:
        rows = [replace(row, void=True, measured="-", missed="") for row in rows]
    rows += [
        at_most(
            f"{name}: all well again after", recovered_s(after, RECOVERY_S * 2), RECOVERY_S, " s", 1
        ),
        none_of(f"{name}: answers that are none", over.wrong + after.wrong),
        Mark(f"{name}: ended with", counts(over)),
    ]
    if fallback:
        share = 100 * over.fallback.sum() / max(1, int(over.ok.sum()))
        none = "" if over.fallback.any() else "there are none"
        rows.append(
            Mark(f"{name}: of the answers, fallback lists", f"{share:.0f} %", "> 0 %", none)
        )
    void = " VOID: it did not keep up, so less was offered than is said" if late else ""
    rows.append(
        Mark(
            f"{name}: the caller",
            f"{late_ms:.1f} ms late (99th percentile), {over.cpu_ns / 1e9 / seconds:.2f} cores{void}",
        )
    )
    return rows


def one_after_the_other(flood: Spec, calm: Spec) -> tuple[Samples, Samples]:
    """What both saw. The second caller is connected before the first begins, and begins at the moment
    at which the first is to have sent all and stops: what the flood leaves behind is his to see."""
    with generator(calm) as next_one, generator(flood) as first:
        began_s = time.monotonic()
        first.begin()
        time.sleep(max(0.0, began_s + flood.seconds - time.monotonic()))
        first.stop()
        next_one.begin()
        return first.samples(), next_one.samples()


def run(
    served: Served,
    bundle: Path,
    *,
    seconds: float,
    factors: Sequence[float] = (2, 5),
    fallback: bool = False,
    service_config: str = "",
    seed: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Mark]:
    """All rows of a server. fallback: ask under a policy that declares one, without candidates of
    the caller's own, for which there is none."""
    closed = closed_loop(served.target, bundle)
    spec = Spec(served.target, str(bundle), 0, 0, seed, "", deadline_ms=DEADLINE_MS)
    if fallback:
        spec = replace(spec, candidates=0, policy=FALLBACK_POLICY)
    parts = 1 + len(factors)
    peak = find_peak(spec, closed, min(8.0, seconds), lambda done: progress(done / parts))
    rows = [
        Mark(f"closed loop, {CALLERS} in flight", f"{closed:,.0f} lists/s"),
        Mark(
            "peak of good answers",
            f"{peak.goodput:,.0f} a second at {peak.rate:,.0f} requests a second",
        ),
    ]
    for number, factor in enumerate(factors, start=1):
        flood = replace(
            spec, rate=factor * peak.rate, seconds=seconds, service_config=service_config,
            seed=seed + 100 * number,
        )  # fmt: skip
        calm = replace(
            spec, rate=peak.rate / 2, seconds=RECOVERY_S * 2, seed=seed + 100 * number + 1
        )
        over, after = one_after_the_other(flood, calm)
        rows += marks_of(
            f"{factor:g} times the peak", over, seconds, peak, after, fallback=fallback
        )
        progress((1 + number) / parts)
    return rows
