"""Does the gate err as seldom as it says, and see what it says it sees? By simulation.

    python -m bench.gate.selftest --runs 400

Releases are drawn from worlds whose truth is known (`bench.gate.worlds`), as large as `equipoise gate
explain` asks for, and judged by the gate itself:

    at bound    the truth stands on the bound: a line may pass by mistake in 2.5 % of runs, and any
                line at all fail by mistake in 5 %: the sum over lines. Where late requests come
                in stalls, twice as often
    healthy     the truth is the declared effect inside the bound: a line passes in 80 % or more
    damaged     it is as far outside: a line fails in 80 % or more
    A/A         the candidate is as good as the baseline: any line fails in 5 % of runs or fewer

A rate passes if its exact 99 % limit does not contradict the promise. Exit code 1 if one does.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

import click
import numpy as np
from scipy.stats import binomtest

from bench.gate.asked import Asked, Evidence, asked_of
from bench.gate.budgets import Budgets, parse_budgets
from bench.gate.decide import decide
from bench.gate.levels import levels
from bench.gate.lines import Status
from bench.gate.measures import measure
from bench.gate.need import need_of
from bench.gate.verdict import evaluate
from bench.gate.worlds import (
    LEVEL,
    LIMIT_MS,
    METRIC,
    PAIR_SPREAD,
    RATE,
    RUN_SPREAD,
    SPREAD,
    Size,
    World,
    evaluations,
    load,
    turns,
)

TODAY = date(2026, 1, 1)
ALPHA = 0.05
POWER = 0.8
_SURE = 0.99


def _line(metric: str, bounds: str, effect: float, more: str = "") -> str:
    return (
        f'[[budget]]\nmetric = "{metric}"\n{bounds}\neffect = {effect}\npower = {POWER}\n'
        f'decide_on = "interval"\nmin_n = 100\nreason = "to be judged by simulation"\n{more}\n'
    )


BUDGETS = parse_budgets(
    'schema_version = 1\nname = "selftest"\n'
    + _line(f"quality.{METRIC}", 'margin = 0.01\nmargin_is = "absolute"', 0.01,
            f"spread = {PAIR_SPREAD}")
    + _line(f"quality.{METRIC}", 'margin = 0.04\nmargin_is = "relative"', 0.04,
            f"spread = {PAIR_SPREAD}\nexpected = {LEVEL}")
    + _line(f"quality.groups.group.{METRIC}.worst", 'margin = 0.02\nmargin_is = "absolute"', 0.02,
            f"spread = {PAIR_SPREAD}")
    + _line(f"quality.groups.group.{METRIC}.worst_ratio", "at_least = 0.8", 0.1,
            f"spread = {SPREAD}\nexpected = {LEVEL}")
    + _line(f"quality.groups.group.{METRIC}.worst_gap", f"at_most = {0.2 * LEVEL:.4g}", 0.1 * LEVEL,
            f"spread = {SPREAD}")
    + _line("load.latency_ms.p95", f"at_most = {LIMIT_MS}", 0.025)
    + _line("load.error_ratio", "at_most = 0.01", 0.005)
    + _line("load.latency_ms.p50", 'margin = 0.1\nmargin_is = "relative"', 0.1,
            f"spread = {RUN_SPREAD}"),
    "selftest",
)  # fmt: skip
HEALTHY = World()


@dataclass(frozen=True)
class Subject:
    """One line: how its truth looks on the bound, and damaged."""

    name: str
    asked: Asked
    at_bound: World
    damaged: World
    size: Size
    healthy: World = HEALTHY


def subjects(budgets: Budgets) -> list[Subject]:
    """The file's lines with their worlds."""
    rates = levels(budgets)
    asked = [a for line in budgets.budget for a in asked_of(line, rates, budgets.confidence)]
    world = [
        ("quality, margin", replace(HEALTHY, loss=0.01), replace(HEALTHY, loss=0.02)),
        ("quality, relative margin",
         replace(HEALTHY, loss=0.04 * LEVEL * 0.975), replace(HEALTHY, loss=0.08 * LEVEL * 0.975)),
        ("worst group, margin", replace(HEALTHY, group_loss=0.02), replace(HEALTHY, group_loss=0.04)),
        ("worst ratio of groups", replace(HEALTHY, ratio=0.8), replace(HEALTHY, ratio=0.7)),
        ("worst gap of groups", replace(HEALTHY, ratio=0.8), replace(HEALTHY, ratio=0.7)),
        ("p95", replace(HEALTHY, late=0.05), replace(HEALTHY, late=0.075)),
        ("error ratio", replace(HEALTHY, errors=0.01), replace(HEALTHY, errors=0.015)),
        ("p50 against p50, by turns", replace(HEALTHY, slower=1.1), replace(HEALTHY, slower=1.21)),
    ]  # fmt: skip
    found = [
        Subject(name, one, bound, damaged, size_of(one))
        for one, (name, bound, damaged) in zip(asked, world, strict=True)
    ]
    p95 = found[5]
    bound, damaged, healthy = (
        replace(w, stalls=0.2) for w in (p95.at_bound, p95.damaged, p95.healthy)
    )
    # Twice the time: late requests that cluster are fewer witnesses.
    longer = replace(p95.size, seconds=2 * p95.size.seconds)
    return [*found, Subject("p95, in stalls", p95.asked, bound, damaged, longer, healthy)]


def size_of(asked: Asked) -> Size:
    """As large as the line asks for, by `explain`'s own reckoning."""
    # Of another evaluation `explain` learns how many groups are searched.
    ours, theirs = evaluations(HEALTHY, Size(500, 1, 1), np.random.default_rng(0))
    need = need_of(asked, Evidence([ours], [theirs]))
    n = max(need.to_pass or 0, need.to_fail or 0)
    if need.unit == "users":
        return Size(-(-n // 4), 1, 1)
    if need.unit == "users in each group":
        return Size(n, 1, 1)
    if need.unit == "requests":
        return Size(1, max(need.blocks or 0, -(-n // RATE)), 1)
    return Size(1, 1, n)


def told(size: Size) -> str:
    """A size in the unit that matters."""
    if size.users > 1:
        return f"4 x {size.users:,} users"
    return f"{size.seconds:,} s" if size.seconds > 1 else f"{size.pairs} pairs"


def decided(asked: Asked, world: World, size: Size, rng: np.random.Generator) -> Status:
    """The gate's decision on one draw of a world."""
    if asked.kind == "quality":
        ours, theirs = evaluations(world, size, rng)
        evidence = Evidence([ours], [theirs])
    elif asked.against == "baseline":
        evidence = Evidence(*turns(world, size, rng))
    else:
        evidence = Evidence([load(world, size, rng)])
    return decide(asked, measure(evidence, asked), TODAY, same=False).status


@dataclass(frozen=True)
class Rate:
    """How often it was seen in how many runs, and what was promised: `most` or `least`."""

    hits: int
    runs: int
    most: float | None = None
    least: float | None = None

    @property
    def kept(self) -> bool:
        """Whether the runs do not contradict the promise."""
        if self.most is not None:
            return bool(binomtest(self.hits, self.runs, self.most, "greater").pvalue > 1 - _SURE)
        assert self.least is not None
        return bool(binomtest(self.hits, self.runs, self.least, "less").pvalue > 1 - _SURE)

    def __str__(self) -> str:
        return f"{self.hits / self.runs:.1%}{'' if self.kept else ' !'}"


@dataclass(frozen=True)
class Row:
    """One line's rates."""

    name: str
    alarms: Rate
    false_passes: Rate
    passes: Rate | None
    fails: Rate | None


def rates_of(subject: Subject, runs: int, seed: int, of_pass: float, of_fail: float) -> Row:
    """A line's rates over `runs` draws of each of its worlds."""

    def tally(world: World, stream: int) -> list[Status]:
        rng = np.random.default_rng([seed, stream])
        return [decided(subject.asked, world, subject.size, rng) for _ in range(runs)]

    bound = tally(subject.at_bound, 1)
    healthy, damaged = tally(subject.healthy, 2), tally(subject.damaged, 3)
    # Where late requests cluster their variance is itself a guess: power is not promised, and errors
    # are promised at twice the rate.
    clustered = subject.healthy.stalls < 1
    least, times = (None, 2) if clustered else (POWER, 1)
    return Row(
        subject.name,
        Rate(bound.count(Status.FAIL), runs, most=times * of_fail),
        Rate(bound.count(Status.PASS), runs, most=times * of_pass),
        None if least is None else Rate(healthy.count(Status.PASS), runs, least=least),
        None if least is None else Rate(damaged.count(Status.FAIL), runs, least=least),
    )


def alike(runs: int, seed: int, budgets: Budgets) -> Rate:
    """A/A: how often any line at all fails for a candidate as good as its baseline."""
    alarms, size = 0, Size(1000, 240, 8)
    for run in range(runs):
        rng = np.random.default_rng([seed, 4, run])
        ours, theirs = evaluations(HEALTHY, size, rng)
        loads, before = turns(HEALTHY, size, rng)
        one = load(HEALTHY, size, rng)
        # The absolute lines look at one load, the relative ones at the pairs: two files' worth.
        first = evaluate(_only(budgets, lambda a: not _by_turns(a)), [ours, one], today=TODAY,
                         baseline=[theirs])  # fmt: skip
        second = evaluate(_only(budgets, _by_turns), loads, today=TODAY, baseline=before)
        alarms += Status.FAIL in (first.status, second.status)
    return Rate(alarms, runs, most=ALPHA)


def _by_turns(metric_and_margin: tuple[str, bool]) -> bool:
    return metric_and_margin[0].startswith("load.") and metric_and_margin[1]


def _only(budgets: Budgets, keep: Callable[[tuple[str, bool]], bool]) -> Budgets:
    """Some of the lines, at the error rates of the whole file."""
    lines = tuple(b for b in budgets.budget if keep((b.metric, b.margin is not None)))
    share = budgets.family_alpha * len(lines) / len(budgets.budget)
    return budgets.model_copy(update={"budget": lines, "family_alpha": share})


@click.command()
@click.option("--runs", default=400, show_default=True, help="Draws of each world.")
@click.option("--seed", default=1, show_default=True, help="The same seed, the same draws.")
def main(runs: int, seed: int) -> None:
    """Print the gate's error rates and power, line by line; exit code 1 if a promise is broken."""
    ok = selftest(runs, seed, click.echo)
    sys.exit(0 if ok else 1)


def selftest(runs: int, seed: int, say: Callable[[str], None]) -> bool:
    """Whether every promise was kept; `say` gets the table line by line."""
    rates = levels(BUDGETS)
    say(f"{runs} draws of each world, as large as 'equipoise gate explain' asks for")
    say(f"{'':<26}{'':>17}{'alarms':>10}{'wrongly':>10}{'passes':>10}{'fails':>10}")
    say(f"{'line':<26}{'size':>17}{'at bound':>10}{'passed':>10}{'healthy':>10}{'damaged':>10}")
    # Holm's p-values come from statsmodels, which collects garbage at each call.
    gc.freeze()
    try:
        rows = []
        for number, subject in enumerate(subjects(BUDGETS)):
            row = rates_of(subject, runs, seed * 100 + number, rates.of_pass, rates.of_fail)
            rows.append(row)
            cells = [row.alarms, row.false_passes, row.passes or "-", row.fails or "-"]
            say(
                f"{row.name:<26}{told(subject.size):>17}"
                + "".join(f"{cell!s:>10}" for cell in cells)
            )
        together = alike(runs, seed, BUDGETS)
    finally:
        gc.unfreeze()
    family = sum(row.alarms.hits for row in rows[: len(BUDGETS.budget)])
    worst = Rate(family, runs, most=ALPHA)
    say(f"any line fails, truth on every bound at once: {worst} at most (promised: {ALPHA:.0%})")
    say(f"any line fails, A/A: {together} (promised: {ALPHA:.0%} at most)")
    promises = [worst, together]
    for row in rows:
        promises += [rate for rate in (row.alarms, row.false_passes, row.passes, row.fails) if rate]
    broken = sum(not promise.kept for promise in promises)
    say("every promise kept" if not broken else f"{broken} promises broken, marked with !")
    return not broken


if __name__ == "__main__":
    main()
