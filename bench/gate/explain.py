"""What each line of a budget file means, in plain words, and what it needs.

Owns the words of `equipoise gate explain`. Decides nothing, and reads no result
but to take spreads from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bench.gate.asked import Asked, Evidence, asked_of
from bench.gate.budgets import Budgets
from bench.gate.facts import facts_of
from bench.gate.levels import Levels, levels
from bench.gate.need import Need, need_of
from bench.gate.seal import digest_of


@dataclass(frozen=True)
class Explained:
    """One decision of a line, in words and numbers."""

    metric: str
    kind: str
    unit: str
    means: str
    passes: str
    fails: str
    evidence: str
    power: float
    need: Need
    reason: str
    owner: str
    expires: str


def explained(budgets: Budgets, pilot: Evidence) -> list[Explained]:
    """Every decision of every line."""
    rates = levels(budgets)
    return [
        _explain(asked, pilot)
        for budget in budgets.budget
        for asked in asked_of(budget, rates, budgets.confidence)
    ]


def _percent(share: float) -> str:
    """A share in per cent, with as many places as it takes to tell it from 100."""
    told = f"{share:.4%}".rstrip("%").rstrip("0").rstrip(".")
    return f"{told} %"


def _explain(asked: Asked, pilot: Evidence) -> Explained:
    budget, facts = asked.budget, facts_of(asked.budget.metric)
    passes, fails = _rules(asked)
    return Explained(
        metric=budget.metric,
        kind="margin" if asked.against == "baseline" else "budget",
        unit=facts.unit if facts else budget.unit or "unknown",
        means=_means(asked),
        passes=passes,
        fails=fails,
        evidence=_evidence(asked),
        power=budget.power,
        need=need_of(asked, pilot),
        reason=budget.reason,
        owner=budget.owner,
        expires=budget.expires.isoformat() if budget.expires else "",
    )


def _means(asked: Asked) -> str:
    budget, how = asked.budget, asked.path.rpartition(".")[2]
    of = {
        "worst": "in the worst group",
        "worst_ratio": "the worst group's value over the best group's",
        "worst_gap": "the best group's value minus the worst group's",
    }.get(how, "")
    told = f"{budget.metric}{f' ({of})' if of else ''}"
    if asked.against == "baseline":
        unit = "pairs of interleaved runs" if asked.kind == "load" else "users, each with itself"
        return f"{told} may be {budget.margin_text}, compared over {unit}"
    return f"{told} must be {budget.bound}"


def _rules(asked: Asked) -> tuple[str, str]:
    if asked.budget.decide_on == "value":
        return "the value keeps the bound", "the value breaks it"
    low, high = asked.low_bound, asked.high_bound
    rates = asked.levels
    if low is not None and high is not None:
        sure = _percent(1 - min(rates.of_pass, rates.of_fail))
        return (
            f"both limits ({sure} sure each) are from {low:g} to {high:g}",
            f"both limits are below {low:g}, or above {high:g}",
        )
    passing, failing = _percent(1 - rates.of_pass), _percent(1 - rates.of_fail)
    difference = "the difference's" if asked.against == "baseline" else "its"
    if low is not None:
        return (
            f"{difference} lower limit ({passing} sure) is at least {low:g}",
            f"{difference} upper limit ({failing} sure) is below {low:g}",
        )
    return (
        f"{difference} upper limit ({passing} sure) is at most {high:g}",
        f"{difference} lower limit ({failing} sure) is above {high:g}",
    )


def _evidence(asked: Asked) -> str:
    budget = asked.budget
    if asked.kind == "load" and asked.against == "baseline":
        return f"at least {budget.min_pairs} pairs of runs by turns on one machine"
    unit = {"load": "requests", "invariants": "checks"}.get(asked.kind, "users")
    grouped = asked.path.startswith("groups.")
    told = f"at least {budget.min_n:,} {unit}{' in each group' if grouped else ''}"
    if grouped:
        told += f", {budget.min_positives} of them with a value above 0"
    if budget.leave_out:
        told += f"; left out: {', '.join(budget.leave_out)}"
    return told


def need_text(one: Explained) -> str:
    """What the line needs, in a sentence."""
    need = one.need
    if need.to_pass is None and need.to_fail is None:
        return need.assumed or "no more than that: it is counted, not estimated"
    passing = "no number of" if need.to_pass is None else f"{need.to_pass:,}"
    failing = "no number" if need.to_fail is None else f"{need.to_fail:,}"
    told = (
        f"{passing} {need.unit} to pass, {failing} to fail, in {one.power:.0%} of the runs, where "
        f"the truth is {need.effect:g} away from the bound ({need.assumed})"
    )
    if need.blocks is not None:
        told += f"; and {need.blocks:,} blocks of time to pass"
    return told


def head_text(budgets: Budgets) -> str:
    """The rules of the whole file."""
    rates: Levels = levels(budgets)
    looks = (
        "one look" if budgets.looks == 1 else f"{budgets.looks} looks, each of which is paid for"
    )
    return (
        f"{budgets.name}: {len(budgets.budget)} lines, {looks}. A line passes by mistake in at most "
        f"{_percent(rates.of_pass)} of runs, any line at all fails by mistake in at most "
        f"{_percent(budgets.family_alpha)}: {_percent(rates.of_fail)} for each."
        + "".join(
            f"\nThe bundle's policy {name} must have the digest {digest[:12]}...: another one is a fail."
            for name, digest in budgets.policies.items()
        )
    )


def as_json(budgets: Budgets, lines: list[Explained]) -> dict[str, Any]:
    """The same as plain data."""
    rates = levels(budgets)
    return {
        "kind": "explanation",
        "schema_version": 1,
        "budgets": budgets.name,
        "budgets_sha256": digest_of(budgets),
        "looks": budgets.looks,
        "alpha_pass": rates.of_pass,
        "alpha_fail": rates.of_fail,
        "coverage": budgets.coverage.model_dump(mode="json"),
        "policies": dict(budgets.policies),
        "lines": [asdict(line) | {"told": need_text(line)} for line in lines],
    }
