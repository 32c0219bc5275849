"""Did the load do what it says? Asked before anything is said of the server; a void run decides nothing.

    all sent       every request of the schedule went out
    punctual       those sent more than `LATE_MS` after they were due are few
    arrivals       the gaps between sends are those of the schedule (Anderson and Darling 1952, against
                   the exponential law of a Poisson stage in its cumulative rate)
    generator      each of its processes had processor time to spare
    clock          the two clocks of a process agree on how long it was
    steady         the server was in one state: the medians of short blocks of time do not drift (KPSS:
                   Kwiatkowski, Phillips, Schmidt and Shin 1992), or by less than `DRIFT`
    answers        enough of them were compared with those of a quiet server
    omitted        of a closed loop: requests that were not made while all users waited

The first six void a run, if they fail; what they cannot tell, for too little data, is said. What a closed loop
omitted is told, and its percentiles stay what they are. Neighbours'
dependence (Spearman, lag 1) voids nothing: it says that requests are no independent evidence, so that
whoever judges counts blocks of time. After Lancet (Kogias et al., USENIX ATC 2019). A pure function.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.load.samples import Samples
from bench.load.scenario import Scenario
from bench.load.schedule import expected
from bench.load.work import Facts

Float64 = NDArray[np.float64]

LATE_MS = 10.0
LATE_SHARE = 0.01
STALL_S = 0.1
STALLED = 20
"""So many times as long as usual."""
OMITTED = 0.001
BUSY = 0.9
"""Of one core: a process that has no more to spare sends late, or soon will."""
CLOCK_MS = 50.0
MIN_GAP_MS = 20.0
"""Gaps are tested over so many arrivals that they are this long: timers have a millisecond."""
MOST_GAPS = 500
"""A test of more would find the timers, whatever their size."""
ALPHA = 0.001
"""Of one honest run in a thousand a test says that it is void."""
STEADY_ALPHA = 0.01
DRIFT = 1.25
BLOCKS = 40
FEWEST_BLOCKS = 20
FEWEST_IN_BLOCK = 5
RESAMPLES = 4_999
TINY = 1e-12
"""Of a chance, whose logarithm is taken."""


@dataclass(frozen=True)
class Checked:
    """One check. ok: None where it could not tell. value: what was seen, in `unit`; limit: what is allowed."""

    name: str
    ok: bool | None
    told: str
    value: float | None = None
    limit: float | None = None
    voids: bool = True


@dataclass(frozen=True)
class Validity:
    """All checks; `valid` unless one that voids has failed."""

    checks: tuple[Checked, ...]

    @property
    def valid(self) -> bool:
        """Whether the run may be judged."""
        return not any(one.voids and one.ok is False for one in self.checks)

    def and_also(self, check: Checked) -> Validity:
        """With one check more."""
        return Validity((*self.checks, check))

    @property
    def why(self) -> str:
        """What voids it, in one line; "" where nothing does."""
        return "; ".join(one.told for one in self.checks if one.voids and one.ok is False)

    def as_json(self) -> dict[str, Any]:
        """For load.json."""
        return {
            "valid": self.valid,
            "void_because": self.why,
            "checks": [asdict(one) for one in self.checks],
        }


def judged(samples: Samples, scenario: Scenario, facts: Sequence[Facts], compared: int) -> Validity:
    """compared: requests whose answers were known beforehand."""
    checks = []
    if scenario.loop == "open":
        checks += [
            _all_sent(samples, facts), _punctual(samples), _arrivals(samples, scenario),
            _generator(facts),
        ]  # fmt: skip
    else:
        checks.append(_omitted(samples))
    checks += [_clock(facts), _steady(samples, scenario), _dependence(samples)]
    checks.append(_answers(samples, scenario, compared))
    return Validity(tuple(checks))


def _all_sent(samples: Samples, facts: Sequence[Facts]) -> Checked:
    due = sum(one.due for one in facts)
    told = f"{len(samples):,} of {due:,} requests went out"
    return Checked("all sent", len(samples) == due, told, len(samples), due)


def _punctual(samples: Samples) -> Checked:
    late_ms = (samples.numbers("sent_ns") - samples.numbers("due_ns")) / 1e6
    share = float((late_ms > LATE_MS).mean()) if len(late_ms) else 0.0
    told = (
        f"{share:.2%} of the requests went out more than {LATE_MS:g} ms late (99 % within "
        f"{np.quantile(late_ms, 0.99):.2f} ms)" if len(late_ms) else "nothing was sent"
    )  # fmt: skip
    if share > LATE_SHARE:
        told += ": the generator cannot keep up; fewer requests a second, or more processes"
    return Checked("punctual", share <= LATE_SHARE, told, share, LATE_SHARE)


def _arrivals(samples: Samples, scenario: Scenario) -> Checked:
    """Over k arrivals the cumulative rate grows by a Gamma(k) amount, whatever the rate does."""
    chances: list[Float64] = []
    stage_of, sent_s = samples.numbers("stage"), samples.numbers("sent_ns") / 1e9
    began_s = 0.0
    for number, stage in enumerate(scenario.stage):
        if stage.kind == "poisson" and stage.rate_rps is not None and stage.to_rps is not None:
            rate = (stage.rate_rps + stage.to_rps) / 2
            thin = max(1, round(MIN_GAP_MS / 1e3 * rate))
            grown = expected(stage, np.sort(sent_s[stage_of == number]) - began_s)
            chances.append(stats.gamma.cdf(np.diff(grown[::thin]), thin))
        began_s += stage.duration_s
    found = np.concatenate(chances) if chances else np.empty(0)
    if len(found) < FEWEST_BLOCKS:
        return Checked("arrivals", None, f"{len(found)} gaps are too few to test, or not random")
    found = found[np.linspace(0, len(found) - 1, min(len(found), MOST_GAPS)).astype(int)]
    found = np.clip(found, TINY, 1 - TINY)
    test = stats.goodness_of_fit(
        stats.uniform, found, known_params={"loc": 0.0, "scale": 1.0}, statistic="ad",
        n_mc_samples=RESAMPLES, rng=np.random.default_rng(0),
    )  # fmt: skip
    p = float(test.pvalue)
    told = f"gaps between requests are those of the schedule with p = {p:.4f} (Anderson-Darling)"
    if p < ALPHA:
        told = (
            f"gaps between requests are not those of the schedule: p = {p:.4f} (Anderson-Darling)"
        )
    return Checked("arrivals", p >= ALPHA, told, p, ALPHA)


def _omitted(samples: Samples) -> Checked:
    """Of a closed loop: while all wait for a server that stalls, nobody asks it (coordinated omission)."""
    sent_s = np.sort(samples.numbers("sent_ns")) / 1e9
    gaps = np.diff(sent_s)
    if len(gaps) < FEWEST_BLOCKS:
        return Checked("omitted", None, f"{len(sent_s)} requests are too few to tell", voids=False)
    usual = float(np.median(gaps))
    stalls = gaps[gaps > max(STALL_S, STALLED * usual)]
    rate = (len(gaps) - len(stalls)) / max(float(gaps.sum() - stalls.sum()), 1e-9)
    missing = float(stalls.sum()) * rate
    share = missing / (missing + len(sent_s))
    told = "nobody waited so long that requests were left out"
    if share > OMITTED:
        told = (
            f"while all users waited, {stalls.sum():.2f} s in all, some {missing:,.0f} requests were not "
            f"made ({share:.1%} of the load) that an open loop would have: percentiles are too good"
        )
    return Checked("omitted", share <= OMITTED, told, share, OMITTED, voids=False)


def _generator(facts: Sequence[Facts]) -> Checked:
    busy = max(
        (one.cpu_s / max((one.end_ns - one.start_ns) / 1e9, 1e-9) for one in facts), default=0.0
    )
    told = f"the busiest generator process used {busy:.0%} of a core"
    return Checked("generator", busy <= BUSY, told, busy, BUSY)


def _clock(facts: Sequence[Facts]) -> Checked:
    off_ms = max(
        (
            abs((one.end_unix_ns - one.start_unix_ns) - (one.end_ns - one.start_ns)) / 1e6
            for one in facts
        ),
        default=0.0,
    )
    told = f"the wall clock moved by {off_ms:.1f} ms against the monotonic one"
    return Checked("clock", off_ms <= CLOCK_MS, told, off_ms, CLOCK_MS)


def _blocks(samples: Samples) -> Float64:
    """The log medians of latency over equal stretches of the run that hold enough right answers."""
    right = samples.succeeded()
    at, taken = samples.numbers("due_ns")[right], samples.latencies_ms()[right]
    if not len(at):
        return np.empty(0)
    edges = np.linspace(at[0], at[-1] + 1, BLOCKS + 1)
    places = np.searchsorted(at, edges)
    return np.array(
        [
            np.log(max(float(np.median(taken[start:end])), 1e-3))
            for start, end in pairwise(places)
            if end - start >= FEWEST_IN_BLOCK
        ]
    )


def _steady(samples: Samples, scenario: Scenario) -> Checked:
    if not scenario.steady or len(scenario.stage) > 1:
        return Checked("steady", None, "the scenario does not ask for one state")
    medians = _blocks(samples)
    if len(medians) < FEWEST_BLOCKS:
        return Checked("steady", None, f"{len(medians)} blocks of time are too few to test")
    third = len(medians) // 3
    drift = float(np.exp(np.median(medians[-third:]) - np.median(medians[:third])))
    p = _kpss(medians)
    told = f"latency of the last third is {drift:.2f} times that of the first; p = {p:.2f} (KPSS)"
    if p <= STEADY_ALPHA and not 1 / DRIFT <= drift <= DRIFT:
        told = f"latency drifts: the last third has {drift:.2f} times that of the first, p = {p:.2f} (KPSS)"
        return Checked("steady", False, told, drift, DRIFT)
    return Checked("steady", True, told, drift, DRIFT)


def _kpss(values: Float64) -> float:
    """That values move about one level; its table ends at 0.01 and 0.1."""
    if np.ptp(values) < 1e-9:
        return 0.1
    from statsmodels.tsa.stattools import kpss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the table's ends
        return float(kpss(values, regression="c", nlags="auto")[1])


def _dependence(samples: Samples) -> Checked:
    taken = samples.service_ms()
    known = np.isfinite(taken[1:]) & np.isfinite(taken[:-1])
    if known.sum() < 100:
        return Checked("independent", None, "too few neighbours to test", voids=False)
    rho, p = stats.spearmanr(taken[1:][known], taken[:-1][known])
    linked = bool(p < ALPHA)
    told = f"latencies of neighbours are linked by {float(rho):+.2f} (Spearman, lag 1)"
    if linked:
        told += ": count blocks of time, not requests"
    return Checked("independent", not linked, told, float(rho), voids=False)


def _answers(samples: Samples, scenario: Scenario, compared: int) -> Checked:
    checked = int(samples.frame["checked"].sum())
    if not scenario.check.share:
        return Checked("answers", None, "no answer was to be compared", 0, voids=False)
    told = (
        f"{checked:,} answers were compared with those of the quiet server ({compared:,} requests)"
    )
    return Checked("answers", checked > 0, told, checked, 1, voids=False)
