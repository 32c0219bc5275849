"""One decision of a line: pass, fail or not enough evidence.

Owns the rules; reads no file, no clock.

- A line passes only on finite evidence of at least min_n. Absent, null, NaN, an empty group, an
  expired line: fail. A group withheld for its few users: not enough evidence.
- decide_on = "interval", and every margin: pass if the whole interval keeps the bound, fail if all
  of it breaks it, else not enough evidence. An interval without width is no evidence for a pass: a
  value that is the same for every user (all zero, say) is what a broken measurement looks like.
- A violation of an invariant is a proof: one decides, whatever min_n says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

from bench.gate.asked import Asked
from bench.gate.facts import facts_of
from bench.gate.intervals import requests_needed
from bench.gate.lines import Line, Status
from bench.gate.measured import Measured, Unusable

# An interval narrows with the root of the evidence; beyond this a forecast is no help.
MAX_GROWTH = 100
# What rounding may leave of an interval whose ends are one value.
NO_WIDTH = 1e-12


@dataclass(frozen=True)
class Decided:
    """status and why; needed: how much evidence would decide, None where no forecast helps."""

    status: Status
    why: str
    needed: int | None = None


def _by_interval(asked: Asked, low: float, high: float) -> Status:
    inside_low = asked.low_bound is None or low >= asked.low_bound
    inside_high = asked.high_bound is None or high <= asked.high_bound
    if inside_low and inside_high:
        return Status.PASS
    beyond_low = asked.low_bound is not None and high < asked.low_bound
    beyond_high = asked.high_bound is not None and low > asked.high_bound
    return Status.FAIL if beyond_low or beyond_high else Status.NOT_ENOUGH


def _open(asked: Asked, seen: Measured) -> Decided:
    """The bound lies inside the interval: how much evidence would pass, if what was seen is the truth."""
    told = f"the bound lies inside the interval{_note(seen)}"
    if not asked.keeps(seen.value):
        more = "the value itself breaks the bound, so more evidence would rather fail it"
        return Decided(Status.NOT_ENOUGH, f"{told}; {more}")
    if seen.late is not None and seen.quantile is not None:
        return _more_requests(asked, seen, told)
    assert seen.low is not None
    assert seen.high is not None
    distance, width = math.inf, 0.0
    if asked.low_bound is not None:
        distance, width = seen.value - asked.low_bound, seen.value - seen.low
    if asked.high_bound is not None and asked.high_bound - seen.value < distance:
        distance, width = asked.high_bound - seen.value, seen.high - seen.value
    if distance * MAX_GROWTH < width:
        more = "the value stands too near the bound to say how much more would decide"
        return Decided(Status.NOT_ENOUGH, f"{told}; {more}")
    n = math.ceil(seen.n * (width / distance) ** 2 - 1e-6)
    more = f"about {n:,} {seen.unit} would decide, if the value stays"
    return Decided(Status.NOT_ENOUGH, f"{told}; {more}", n)


def _more_requests(asked: Asked, seen: Measured, told: str) -> Decided:
    assert seen.late is not None
    assert seen.quantile is not None
    alone = requests_needed(seen.late, seen.n, seen.quantile, asked.alphas[1])
    if alone is None:
        return Decided(Status.NOT_ENOUGH, told)
    # Dependent requests are worth less, so that many more of them are needed.
    n = math.ceil(alone * seen.n / max(seen.effective_n or seen.n, 1.0))
    return Decided(
        Status.NOT_ENOUGH, f"{told}; {n:,} requests with as many late ones would pass", n
    )


def _note(seen: Measured) -> str:
    return f" ({seen.note})" if seen.note else ""


def decide(asked: Asked, seen: Measured | Unusable, today: date, *, same: bool) -> Decided:
    """The decision. same: a baseline that is the candidate is declared, so no difference at all is
    what is to be seen."""
    budget = asked.budget
    if budget.expires is not None and today > budget.expires:
        return Decided(Status.FAIL, f"the line expired on {budget.expires}: decide anew")
    if isinstance(seen, Unusable):
        return Decided(Status.NOT_ENOUGH if seen.withheld else Status.FAIL, seen.why)
    if math.isnan(seen.value) or seen.n == 0:
        return Decided(Status.FAIL, "nothing was measured")
    note, kept = _note(seen), asked.keeps(seen.value)
    if seen.violations and not kept:
        return Decided(Status.FAIL, f"{seen.value:g} violations, each of them a proof")
    if seen.n < budget.min_n and seen.unit != "pairs of runs":
        told = f"{seen.n:,} {seen.unit}, needed: {budget.min_n:,}{note}"
        return Decided(Status.NOT_ENOUGH, told, budget.min_n)
    if budget.decide_on == "value":
        told = "keeps the bound" if kept else "breaks the bound"
        return Decided(Status.PASS if kept else Status.FAIL, f"the value {told}{note}")
    if seen.lacks:
        return Decided(Status.NOT_ENOUGH, f"{seen.lacks}{note}")
    if same and seen.identical:
        return Decided(Status.PASS, f"no difference at all, as declared{note}")
    if seen.low is None or seen.high is None:
        return Decided(Status.NOT_ENOUGH, seen.note or "no interval was measured")
    status = _by_interval(asked, seen.low, seen.high)
    if status is Status.FAIL:
        return Decided(status, f"the whole interval breaks the bound{note}")
    if status is Status.NOT_ENOUGH:
        return _open(asked, seen)
    if seen.no_pass:
        return Decided(Status.NOT_ENOUGH, seen.no_pass)
    if seen.resampled and seen.high - seen.low <= NO_WIDTH:
        told = f"all users have one value, so the interval has no width{note}"
        return Decided(Status.NOT_ENOUGH, told)
    return Decided(status, f"the whole interval keeps the bound{note}")


def line_of(asked: Asked, seen: Measured | Unusable, decided: Decided) -> Line:
    """The decision as a line of the verdict."""
    budget = asked.budget
    told = seen if isinstance(seen, Measured) else None
    facts = facts_of(budget.metric)
    with_interval = told is not None and told.low is not None
    margin = asked.against == "baseline"
    return Line(
        metric=budget.metric,
        status=decided.status,
        bound=budget.margin_text if margin else budget.bound,
        why=decided.why,
        reason=budget.reason,
        value=told.value if told else None,
        low=told.low if told else None,
        high=told.high if told else None,
        n=told.n if told else 0,
        unit=told.unit if told else "",
        owner=budget.owner,
        kind="margin" if margin else "budget",
        low_bound=asked.low_bound,
        high_bound=asked.high_bound,
        relative=margin and asked.relative,
        bound_unit=facts.unit if facts else budget.unit,
        alpha_low=asked.alphas[0] if with_interval else None,
        alpha_high=asked.alphas[1] if with_interval else None,
        needed=decided.needed,
        effective_n=told.effective_n if told else None,
        blocks=told.blocks if told else None,
        cells=told.cells if told else (),
        weaker_because=budget.weaker_because,
    )
