"""`speed`: what the fair stage costs, as ratios to what any list costs: sorting its scores.

A ratio is one entry of RATIOS, a kind's growth one of GROWING, anything else one of SECTIONS. A goal
that is missed is shown as missed; timings decide nothing here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.fairness.draw import document
from bench.fairness.dual import Dual
from bench.fairness.inputs import VARIED, Given, amortised, calibrated, diverse, given, intersection
from bench.fairness.kernel import fair_batch
from bench.fairness.lines import Progress
from bench.fairness.served import served
from bench.fairness.start import starts
from bench.fairness.timing import Call, Row, in_turns_us
from server.fairness import FairList, Status, compile_policy, parse_policy, rerank
from server.fairness.amortise import p_mmf_boost


@dataclass(frozen=True)
class Ratio:
    """Ours to theirs, a list each, on inputs of one shape. goal: the ratio should be at most that."""

    name: str
    ours: Call
    theirs: Call
    shape: tuple[str, int, int, int]
    goal: float | None = None


def one_list(case: Given) -> FairList:
    """The whole stage, with its receipt."""
    return rerank(case.scores, case.groups, case.count, case.policy)


def with_shaping(case: Given) -> object:
    """The same, with what the policy needs besides scores and groups: the user's own tables, boosts
    from the exposure so far."""
    policy, boost = case.policy.for_user(case.bought), None
    if policy.amortisation is not None and case.exposure is not None:
        gained = p_mmf_boost(case.exposure, policy.amortisation.targets, 0.1, 1e-4)
        boost = gained[case.groups].astype(np.float32)
    return rerank(case.scores, case.groups, case.count, policy, boost=boost, vectors=case.vectors)


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


@dataclass(frozen=True)
class Kind:
    """A kind that is timed by itself. made: (candidates, count) -> inputs; few: of a slow one, so
    many inputs are enough."""

    name: str
    made: Callable[[int, int], list[Given]]
    groups: str
    few: int = VARIED


TABLES = (3, 4, 2)
SHAPED = (
    Kind("calibrated", lambda n, count: calibrated(n, count, 64), "64 groups"),
    Kind("amortised", lambda n, count: amortised(n, count, 64), "64 groups"),
    Kind("diverse, mmr", lambda n, count: diverse("mmr", n, count), "64 dimensions", 4),
    Kind("diverse, dpp", lambda n, count: diverse("dpp", n, count), "64 dimensions", 4),
    Kind("intersection", lambda n, count: intersection(n, count, TABLES), "3 x 4 x 2 groups", 8),
)
INTERSECTION_MS = 1.0
BEYOND = ((1000, 50, (8, 8, 8)), (1000, 100, (8, 8, 8, 8)), (2000, 100, (64, 64)))
FEW = 4
STEP_US = 5.0
PROVIDERS = 1000
# A general solver's time grows with the cube of these.
SOLVED = (43, 200, PROVIDERS)
STEP_RATIO = 1e-5


def ratios(rounds: int, progress: Progress) -> Iterator[Row]:
    """A row for each of RATIOS."""
    for done, ratio in enumerate(RATIOS):
        cases = given(*ratio.shape)
        ours, theirs = in_turns_us([ratio.ours, ratio.theirs], cases, rounds)
        note = f"{ours:.1f} us : {theirs:.1f} us"
        yield Row(ratio.name, ours / theirs, "ratio", ratio.goal, note)
        progress((done + 1) / len(RATIOS))


def batch(rounds: int, progress: Progress) -> Iterator[Row]:
    """Lists of a batch, per list, against sorting each: as the server makes them, one after the other
    with the tie-break it always has, and by a loop over the kernels alone, which no server calls."""
    cases = given(*SMALL)
    rng = np.random.default_rng(2)
    ties = [rng.permutation(len(case.scores)) for case in cases]
    scores = np.stack([case.scores for case in cases])
    groups = np.stack([case.groups for case in cases])
    policy, count = cases[0].policy, cases[0].count

    def as_served(_: object) -> object:
        return [
            rerank(case.scores, case.groups, case.count, case.policy, own)
            for case, own in zip(cases, ties, strict=True)
        ]

    def alone(_: object) -> object:
        return fair_batch(scores, groups, policy.floors, policy.ceilings, count)

    def theirs(_: object) -> object:
        return [np.argsort(row, kind="stable") for row in scores]

    per_call = in_turns_us([as_served, alone, theirs], [None], rounds)
    served_us, alone_us, theirs_us = (took / VARIED for took in per_call)
    yield Row(
        f"floors, {VARIED} such lists as the server makes them, with receipts, per list "
        ": stable argsort",
        served_us / theirs_us,
        "ratio",
        0.3,
        f"{served_us:.1f} us : {theirs_us:.1f} us; one after the other, with tie-breaks",
    )
    yield Row(
        f"kernel alone, not served: floors, {VARIED} such lists in one call, per list "
        ": stable argsort",
        alone_us / theirs_us,
        "ratio",
        note=f"{alone_us:.1f} us : {theirs_us:.1f} us; no receipts, and no code of the server calls it",
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


def slope(name: str, cases: Sequence[list[Given]], call: Call, rounds: int) -> Row:
    """How time grows with candidates, one list of inputs for each of SIZES."""
    # A round of the larger ones is as long as several of the smaller.
    times = [in_turns_us([call], size, max(3, rounds // 3))[0] for size in cases]
    grown = float(np.polyfit(np.log(SIZES), np.log(times), 1)[0])
    note = ", ".join(f"{n:,}: {took:,.0f} us" for n, took in zip(SIZES, times, strict=True))
    return Row(f"{name}, slope in candidates", grown, "log/log", LINEAR, note)


def growth(rounds: int, progress: Progress) -> Iterator[Row]:
    """Every kind at lists of 100 (an intersection's: 20): the slope of log time over log candidates."""
    whole = len(GROWING) + len(SHAPED)
    for done, kind in enumerate(GROWING, start=1):
        cases = [given(kind, n, 100, 64) for n in SIZES]
        yield slope(f"{kind}, 64 groups", cases, one_list, rounds)
        progress(done / whole)
    for done, own in enumerate(SHAPED, start=len(GROWING) + 1):
        count = 20 if own.name == "intersection" else 100
        cases = [own.made(n, count)[: own.few] for n in SIZES]
        shown = rounds if own.few == VARIED else rounds // 3
        yield slope(f"{own.name}, {own.groups}", cases, with_shaping, shown)
        progress(done / whole)


def shaped(rounds: int, progress: Progress) -> Iterator[Row]:
    """The kinds that do more than keep the bounds of one table, whole lists."""
    for done, kind in enumerate(SHAPED, start=1):
        goal = None
        n, count = 1000, 50
        if kind.name == "intersection":
            n, count, goal = 600, 20, INTERSECTION_MS
        [took_us] = in_turns_us(
            [with_shaping], kind.made(n, count)[: kind.few], max(3, rounds // 3)
        )
        name = f"{kind.name}, {n:,} to {count}, {kind.groups}"
        yield Row(name, took_us / 1e3, "ms", goal)
        progress(done / len(SHAPED))


def larger(rounds: int, progress: Progress) -> Iterator[Row]:
    """Intersections beyond the shape that has a goal, where the search ends with its budget: time,
    verdicts, and how near to the best the lists are, as their receipts tell."""
    whole = len(BEYOND) * 2
    for done, (n, count, tables) in enumerate(BEYOND):
        for full in (False, True):
            cases = intersection(n, count, tables, full=full)[:FEW]
            receipts = [one_list(case).receipt for case in cases]
            met = [own.utility_of_best for own in receipts if own.status is Status.MET]
            note = f"{len(met)} of {len(cases)} lists MET"
            if met:
                note += f", utility_of_best {min(met):.3f} to {max(met):.3f}"
            others = Counter(own.status.name for own in receipts if own.status is not Status.MET)
            note += "".join(f"; {times} {status}" for status, times in others.items())
            [took_us] = in_turns_us([one_list], cases, max(1, rounds // 20))
            groups = " x ".join(str(number) for number in tables)
            asked = "floors for all places" if full else "floors for half of the places"
            name = f"intersection, {n:,} to {count}, {groups} groups, {asked}"
            yield Row(name, took_us / 1e3, "ms", note=note)
            progress((2 * done + full + 1) / whole)


def amortised_step(rounds: int, progress: Progress) -> Iterator[Row]:
    """One step of P-MMF: the boosts of all providers from their exposure; and what a general solver
    needs for the same projection."""
    rng = np.random.default_rng(1)
    targets = rng.dirichlet(np.full(PROVIDERS, 2.0))
    exposures = [1e4 * rng.dirichlet(np.full(PROVIDERS, 3.0)) for _ in range(VARIED)]
    [step_us] = in_turns_us(
        [lambda exposure: p_mmf_boost(exposure, targets, 0.1, 1e-5)], exposures, rounds
    )
    yield Row(f"P-MMF's step, {PROVIDERS:,} providers", step_us, "us", STEP_US)
    for done, n in enumerate(SOLVED, start=1):
        duals = [Dual.drawn(rng, n) for _ in range(VARIED)]
        [ours] = in_turns_us([Dual.ours], duals, rounds)
        # Ten thousands of times as long: one is enough.
        started_ns = time.thread_time_ns()
        solved = duals[0].by_slsqp()
        theirs = (time.thread_time_ns() - started_ns) / 1e3
        apart = float(np.abs(duals[0].ours() - solved).max())
        note = f"{ours:.1f} us : {theirs / 1e3:,.1f} ms; at most {apart:.0e} apart"
        name = f"P-MMF's projection, {n:,} providers : the quadratic programme by SLSQP"
        yield Row(name, ours / theirs, "ratio", STEP_RATIO if n == PROVIDERS else None, note)
        progress(done / len(SOLVED))


def ready(rounds: int, progress: Progress) -> Iterator[Row]:
    """Starting anew."""
    yield from starts(max(1, min(7, rounds // 5)))
    progress(1.0)


SECTIONS: list[tuple[float, Callable[[int, Progress], Iterator[Row]]]] = [
    (0.1, ratios),
    (0.05, batch),
    (0.05, fa_ir_tables),
    (0.05, shaped),
    (0.05, larger),
    (0.1, amortised_step),
    (0.3, growth),
    (0.1, ready),
    (0.2, served),
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
