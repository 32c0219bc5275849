"""Budgets and results -> pass, fail or not enough evidence: a pure function.

Owns the rules of the decision; reads no file, no clock.

- A line passes only on finite evidence of at least min_n. Absent, null, NaN, an empty group, an
  expired line, results of different bundles: fail. A group withheld for its few users: not
  enough evidence.
- decide_on = "interval": pass if the whole interval keeps the bound, fail if all of it breaks it,
  else not enough evidence. A bootstrap interval without width is no evidence for a pass: a value
  that is the same for every user (all zero, say) is what a broken measurement looks like.
- A violation of an invariant is a proof: one decides, whatever min_n says.
- Overall: any fail is a fail; else any "not enough evidence" is that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from bench.gate.budgets import Budget, Budgets
from bench.gate.intervals import requests_needed
from bench.gate.measures import Measured, Unusable, measure
from bench.gate.results import Result, check_kinds

Latencies = NDArray[np.float64]


class Status(StrEnum):
    """What a line or a whole verdict says."""

    PASS = "pass"
    FAIL = "fail"
    NOT_ENOUGH = "not enough evidence"


EXIT_CODES = {Status.PASS: 0, Status.FAIL: 1, Status.NOT_ENOUGH: 3}
BUNDLE_LINE = "bundle_id"
# An interval narrows with the root of the evidence; beyond this a forecast is no help.
MAX_GROWTH = 100
# What rounding may leave of an interval whose ends are one value.
NO_WIDTH = 1e-12


@dataclass(frozen=True)
class Line:
    """The decision on one budget: what was seen, against which bound, and why.

    value, low, high: None where there was none. n: how many `unit` it rests on.
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


@dataclass(frozen=True)
class Verdict:
    """All lines and what follows from them."""

    status: Status
    lines: tuple[Line, ...]
    budgets: str
    bundle_id: str

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


def _keeps(budget: Budget, value: float) -> bool:
    return (budget.at_least is None or value >= budget.at_least) and (
        budget.at_most is None or value <= budget.at_most
    )


def _by_interval(budget: Budget, low: float, high: float) -> Status:
    inside_low = budget.at_least is None or low >= budget.at_least
    inside_high = budget.at_most is None or high <= budget.at_most
    if inside_low and inside_high:
        return Status.PASS
    beyond_low = budget.at_least is not None and high < budget.at_least
    beyond_high = budget.at_most is not None and low > budget.at_most
    return Status.FAIL if beyond_low or beyond_high else Status.NOT_ENOUGH


def _more_needed(
    budget: Budget, seen: Measured, latencies: Latencies | None, confidence: float
) -> str:
    """How much evidence would pass, if what was seen is the truth."""
    if not _keeps(budget, seen.value):
        return "; the value itself breaks the bound, so more evidence would rather fail it"
    if seen.quantile is not None and latencies is not None and budget.at_most is not None:
        late = int(np.count_nonzero(latencies > budget.at_most))
        n = requests_needed(late, seen.n, seen.quantile, confidence)
        return "" if n is None else f"; {n:,} requests with as many late ones would pass"
    assert seen.low is not None
    assert seen.high is not None
    distance, width = math.inf, 0.0
    if budget.at_least is not None:
        distance, width = seen.value - budget.at_least, seen.value - seen.low
    if budget.at_most is not None and budget.at_most - seen.value < distance:
        distance, width = budget.at_most - seen.value, seen.high - seen.value
    if distance * MAX_GROWTH < width:
        return "; the value stands too near the bound to say how much more would decide"
    n = math.ceil(seen.n * (width / distance) ** 2)
    return f"; about {n:,} {seen.unit} would decide, if the value stays"


def _decide(
    budget: Budget,
    seen: Measured | Unusable,
    latencies: Latencies | None,
    confidence: float,
    today: date,
) -> tuple[Status, str]:
    if budget.expires is not None and today > budget.expires:
        return Status.FAIL, f"the line expired on {budget.expires}: decide anew"
    if isinstance(seen, Unusable):
        return (Status.NOT_ENOUGH if seen.withheld else Status.FAIL), seen.why
    if math.isnan(seen.value) or seen.n == 0:
        return Status.FAIL, "nothing was measured"
    note = f" ({seen.note})" if seen.note else ""
    kept = _keeps(budget, seen.value)
    if seen.violations and not kept:
        return Status.FAIL, f"{seen.value:g} violations, each of them a proof"
    if seen.n < budget.min_n:
        return Status.NOT_ENOUGH, f"{seen.n:,} {seen.unit}, needed: {budget.min_n:,}{note}"
    if budget.decide_on == "value":
        told = "keeps the bound" if kept else "breaks the bound"
        return (Status.PASS if kept else Status.FAIL), f"the value {told}{note}"
    if seen.low is None or seen.high is None:
        return Status.NOT_ENOUGH, seen.note or "no interval was measured"
    status = _by_interval(budget, seen.low, seen.high)
    if status is Status.FAIL:
        return status, f"the whole interval breaks the bound{note}"
    if status is Status.NOT_ENOUGH:
        more = _more_needed(budget, seen, latencies, confidence)
        return status, f"the interval holds the bound{note}{more}"
    if seen.resampled and seen.high - seen.low <= NO_WIDTH:
        return Status.NOT_ENOUGH, f"all users have one value, so the interval has no width{note}"
    return status, f"the whole interval keeps the bound{note}"


def _line(budget: Budget, budgets: Budgets, results: Sequence[Result], today: date) -> Line:
    confidence = budgets.confidence
    seen = measure(results, budget.metric, budget.leave_out, confidence)
    load = next((r for r in results if r.kind == "load"), None)
    latencies = None if load is None else load.latencies_ms
    status, why = _decide(budget, seen, latencies, confidence, today)
    told = seen if isinstance(seen, Measured) else None
    return Line(
        metric=budget.metric,
        status=status,
        bound=budget.bound,
        why=why,
        reason=budget.reason,
        value=told.value if told else None,
        low=told.low if told else None,
        high=told.high if told else None,
        n=told.n if told else 0,
        unit=told.unit if told else "",
        owner=budget.owner,
    )


def _same_bundle(results: Sequence[Result], bundle_id: str | None) -> Line:
    """The line that every verdict has: all results speak of one bundle, and of the right one."""
    bundles = sorted({result.bundle_id for result in results})
    models = sorted({result.model_digest for result in results if result.model_digest})
    told = ", ".join(f"{result.kind}: {result.bundle_id}" for result in results)
    status, why = Status.PASS, f"every result is of {bundles[0]}"
    if len(bundles) > 1:
        status, why = Status.FAIL, f"the results are of different bundles: {told}"
    elif bundle_id is not None and bundles != [bundle_id]:
        status, why = Status.FAIL, f"the results are of {bundles[0]}"
    elif len(models) > 1:
        status, why = Status.FAIL, f"the results name different models: {', '.join(models)}"
    return Line(
        BUNDLE_LINE,
        status,
        bound=f"= {bundle_id}" if bundle_id else "one bundle",
        why=why,
        reason="A verdict on one bundle must not rest on what was measured of another.",
        n=len(results),
        unit="results",
    )


def evaluate(
    budgets: Budgets, results: Sequence[Result], *, today: date, bundle_id: str | None = None
) -> Verdict:
    """The verdict on `results`.

    today: against which lines expire. bundle_id: the bundle that is to be released; when None,
    all results must still be of one.

    Raises:
        InputRefused: no result, or two of one kind.
    """
    check_kinds(results)
    lines = (
        _same_bundle(results, bundle_id),
        *(_line(budget, budgets, results, today) for budget in budgets.budget),
    )
    return Verdict(
        status=overall([line.status for line in lines]),
        lines=lines,
        budgets=budgets.name,
        bundle_id=bundle_id or results[0].bundle_id,
    )


def plain(number: float | None) -> float | str | None:
    """A number as JSON can hold it: infinity as text."""
    if number is None or math.isfinite(number):
        return number
    return str(number)
