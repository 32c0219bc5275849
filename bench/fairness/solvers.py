"""The fair stage's own lists against the best DCG that solvers find, in processes.

Floors alone and ceilings alone must reach it. With both, a fast list may fall short: by how much
is told as regret, 1 - DCG / best DCG, and is no mismatch.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.fairness.compiled import CORES
from bench.fairness.draw import draw_policy
from bench.fairness.exact import by_assignment, by_program
from bench.fairness.lines import Line, Progress
from server.fairness import Status, rerank
from server.fairness.metrics import dcg

CHUNK = 250
# Solvers work in floats: a DCG that is nearer to the best one than this is the best one.
TOLERANCE = 1e-6

Solver = Callable[..., float | None]
Sizes = tuple[int, int, int]
"""(candidates, places, groups)"""
Found = tuple[int, int, str, list[float], Sizes]
"""(infeasible, mismatches, an example, regrets of feasible lists, the largest of each size)"""


def against(check: Check, seed: int, instances: int) -> Found:
    """Lists of `rerank` under drawn policies: met iff the solver finds one, and none is better."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    infeasible, mismatches, example = 0, 0, ""
    regrets: list[float] = []
    largest: Sizes = (0, 0, 0)
    for instance in range(instances):
        n_groups, count = rng.randint(1, check.max_groups), rng.randint(1, check.max_count)
        policy = draw_policy(
            rng, check.kinds[instance % len(check.kinds)], n_groups, check.max_count
        )
        n = rng.randint(1, check.max_n)
        scores = (numbers.integers(0, 10 ** rng.randint(1, 6), n) / 1024).astype(np.float32)
        groups = (n_groups * numbers.random(n) ** rng.randint(1, 3)).astype(np.int32)
        size = min(count, n)
        largest = largest_of(largest, (n, size, n_groups))
        fair = rerank(scores, groups, count, policy)
        best = check.solver(scores, groups, policy.floors, policy.ceilings, size)
        met = fair.receipt.status is Status.MET
        wrong = met != (best is not None)
        if best is None:
            infeasible += 1
        elif met:
            got = dcg(scores[fair.order])
            wrong |= got > best + TOLERANCE * max(best, 1.0)
            regrets.append(max(0.0, 1 - got / best) if best > 0 else 0.0)
            wrong |= policy.policy.kind != "window" and regrets[-1] > TOLERANCE
        mismatches += wrong
        if wrong and not example:
            example = f"seed {seed}, instance {instance}, kind {policy.policy.kind}"
    return infeasible, mismatches, example, regrets, largest


def largest_of(one: Sizes, other: Sizes) -> Sizes:
    """The larger of each."""
    return max(one[0], other[0]), max(one[1], other[1]), max(one[2], other[2])


def in_sizes(sizes: Sizes) -> str:
    """For the note of a line."""
    return "up to {} candidates, {} places, {} groups".format(*sizes)


@dataclass(frozen=True)
class Check:
    """A solver and what it is asked about. part: of the instances.

    Sizes are drawn evenly up to the largest: small ones have the odd cases, large ones are like
    those that are served.
    """

    name: str
    solver: Solver
    kinds: tuple[str, ...]
    max_groups: int
    max_n: int
    max_count: int
    part: float


EXACT = ("floors", "fa_ir", "cap")
CHECKS = (
    Check("windows: none better than the assignment, which knows when to be met",
          by_assignment, ("window",), 32, 500, 100, 1.0),
    Check("floors, FA*IR and caps: the best DCG by assignment",
          by_assignment, EXACT, 32, 500, 100, 0.5),
    Check("floors, FA*IR and caps: the best DCG by HiGHS", by_program, EXACT, 10, 60, 20, 0.5),
    Check("windows: none better than by HiGHS, which knows when to be met",
          by_program, ("window",), 10, 60, 20, 0.5),
)  # fmt: skip


def told(regrets: list[float]) -> dict[str, float]:
    """The distribution of regret."""
    values = np.array(regrets or [0.0])
    return {
        "above_0": float((values > TOLERANCE).mean()),
        "mean": float(values.mean()),
        "p99": float(np.quantile(values, 0.99)),
        "highest": float(values.max()),
    }


def solver_instances(
    instances: int, seed: int, progress: Progress, regret: dict[str, Any]
) -> Iterator[Line]:
    """A line for each check, on so many instances or half of them; fills `regret` by check."""
    context = multiprocessing.get_context("spawn")
    whole = sum(check.part for check in CHECKS)
    before = 0.0
    with ProcessPoolExecutor(CORES, mp_context=context) as pool:
        for place, check in enumerate(CHECKS):
            line, infeasible = Line(check.name), 0
            regrets: list[float] = []
            largest: Sizes = (0, 0, 0)
            number = max(1, int(instances * check.part))
            tasks = []
            for at in range(0, number, CHUNK):
                own = int(np.random.SeedSequence([seed, 100 + place, at]).generate_state(1)[0])
                size = min(CHUNK, number - at)
                tasks.append((size, pool.submit(against, check, own, size)))
            for size, task in tasks:
                unkept, mismatches, example, more, sizes = task.result()
                line.add(size, mismatches, example)
                infeasible += unkept
                regrets += more
                largest = largest_of(largest, sizes)
                progress((before + check.part * line.instances / number) / whole)
            before += check.part
            note = f"{in_sizes(largest)}; {infeasible:,} that no list can keep"
            if "window" in check.kinds:
                regret[check.name] = told(regrets)
                note += "; regret above 0 in {above_0:.1%}, mean {mean:.4%}, highest {highest:.2%}"
                note = note.format(**regret[check.name])
            yield line.done(note)
