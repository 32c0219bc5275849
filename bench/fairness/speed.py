"""`speed`: what the fair stage costs, as ratios to what any list costs: sorting its scores.

A ratio is one entry of RATIOS, a kind's growth one of GROWING, anything else one of SECTIONS. A goal
that is missed is shown as missed; timings decide nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.fairness.draw import document
from bench.fairness.inputs import VARIED, Given, given
from bench.fairness.kernel import fair_batch
from bench.fairness.lines import Progress
from bench.fairness.start import starts
from bench.fairness.timing import Call, Row, in_turns_us
from server.fairness import compile_policy, parse_policy, rerank


@dataclass(frozen=True)
class Ratio:
    """Ours to theirs, a list each, on inputs of one shape. goal: the ratio should be at most that."""

    name: str
    ours: Call
    theirs: Call
    shape: tuple[str, int, int, int]
    goal: float | None = None


def one_list(case: Given) -> object:
    """The whole stage, with its receipt."""
    return rerank(case.scores, case.groups, case.count, case.policy)


def stable_argsort(case: Given) -> object:
    """The order of the scores, as plain ranking needs it."""
    return np.argsort(case.scores, kind="stable")


def partition(case: Given) -> object:
    """The best `count` in order: the cheapest plain ranking."""
    best = np.argpartition(case.scores, -case.count)[-case.count :]
    return best[np.argsort(case.scores[best])]


SMALL = ("floors", 1000, 50, 4)
LARGE = ("floors", 1000, 100, 10)
RATIOS = [
    Ratio("floors, 1,000 to 50, 4 groups : stable argsort", one_list, stable_argsort, SMALL, 0.5),
    Ratio("the same : argpartition and sort of 50", one_list, partition, SMALL),
    Ratio("floors, 1,000 to 100, 10 groups : stable argsort", one_list, stable_argsort, LARGE, 1.0),
]

GROWING = ("floors", "fa_ir", "window", "cap")
SIZES = (1000, 2500, 5000, 10_000)
# Sorting is n log n: between these sizes its own slope is 1.1.
LINEAR = 1.15


def ratios(rounds: int, progress: Progress) -> Iterator[Row]:
    """A row for each of RATIOS."""
    for done, ratio in enumerate(RATIOS):
        cases = given(*ratio.shape)
        ours, theirs = in_turns_us([ratio.ours, ratio.theirs], cases, rounds)
        note = f"{ours:.1f} us : {theirs:.1f} us"
        yield Row(ratio.name, ours / theirs, "ratio", ratio.goal, note)
        progress((done + 1) / len(RATIOS))


def batch(rounds: int, progress: Progress) -> Iterator[Row]:
    """A batch of lists in one call, per list, against sorting each."""
    cases = given(*SMALL)
    scores = np.stack([case.scores for case in cases])
    groups = np.stack([case.groups for case in cases])
    policy, count = cases[0].policy, cases[0].count

    def ours(_: object) -> object:
        return fair_batch(scores, groups, policy.floors, policy.ceilings, count)

    def theirs(_: object) -> object:
        return [np.argsort(row, kind="stable") for row in scores]

    per_call = in_turns_us([ours, theirs], [None], rounds)
    ours_us, theirs_us = (took / VARIED for took in per_call)
    note = f"{ours_us:.1f} us : {theirs_us:.1f} us; a loop over the kernels, no receipts"
    yield Row(
        f"floors, {VARIED} such lists at once : stable argsort",
        ours_us / theirs_us,
        "ratio",
        0.3,
        note,
    )
    progress(1.0)


def fa_ir_tables(rounds: int, progress: Progress) -> Iterator[Row]:
    """The longest FA*IR table that a policy can ask for, the median over proportions."""
    policies = []
    for part in range(1, 20):
        head = f'[fa_ir]\nalpha = "{part}/100"\nwithin_first = 400\n[fa_ir.shares]\n'
        text = document("fa_ir", f'{head}g0 = "{part}/20"\n')
        policies.append(parse_policy(text, "timing"))
    [took_us] = in_turns_us([lambda policy: compile_policy(policy, ["g0"], 400)], policies, 3)
    yield Row("FA*IR's table of 400 places", took_us / 1e3, "ms", 50.0)
    progress(1.0)


def growth(rounds: int, progress: Progress) -> Iterator[Row]:
    """Every kind at 64 groups and lists of 100: the slope of log time over log candidates."""
    for done, kind in enumerate(GROWING):
        cases = [given(kind, n, 100, 64) for n in SIZES]
        times: list[float] = []
        for size in cases:
            # A round of the larger ones is as long as several of the smaller.
            times += in_turns_us([one_list], size, max(3, rounds // 3))
            progress((done + len(times) / len(SIZES)) / len(GROWING))
        slope = float(np.polyfit(np.log(SIZES), np.log(times), 1)[0])
        note = ", ".join(f"{n:,}: {took:.0f} us" for n, took in zip(SIZES, times, strict=True))
        yield Row(f"{kind}, 64 groups, slope in candidates", slope, "log/log", LINEAR, note)


def ready(rounds: int, progress: Progress) -> Iterator[Row]:
    """Starting anew."""
    yield from starts(max(1, min(7, rounds // 5)))
    progress(1.0)


SECTIONS: list[tuple[float, Callable[[int, Progress], Iterator[Row]]]] = [
    (0.2, ratios),
    (0.1, batch),
    (0.1, fa_ir_tables),
    (0.3, growth),
    (0.3, ready),
]
"""(share of the time, what is measured)"""


def speed(rounds: int, progress: Progress) -> tuple[list[Row], dict[str, Any]]:
    """Measure everything; the rows, and the same as plain data."""
    rows: list[Row] = []
    before = 0.0
    for share, section in SECTIONS:

        def on(done: float, before: float = before, share: float = share) -> None:
            progress(before + share * done)

        rows += section(rounds, on)
        before += share
    return rows, {
        "kind": "fairness_speed",
        "schema_version": 1,
        "rounds": rounds,
        "missed": sum(row.met is False for row in rows),
        "rows": [{**asdict(row), "met": row.met} for row in rows],
    }
