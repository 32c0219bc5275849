"""Lists of several group tables against an integer program, and of users' own tables against an
assignment, in processes.

No list is exact here by construction, so what must hold is what the receipt says: a list that is
called met keeps every bound, one that is called infeasible has no better, and no list is nearer to
the best than is told. How far it is from the best is counted beside the goal, and is no mismatch.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np

from bench.fairness.compiled import CORES
from bench.fairness.exact import by_assignment
from bench.fairness.lines import Line, Progress
from bench.fairness.overlap_gap import GOAL, OverlapGap, overlap_gap
from bench.fairness.solvers import Sizes, in_sizes, largest_of
from server.fairness import Status, compile_policy, parse_policy, rerank
from server.fairness.invariants import broken_bounds
from server.fairness.metrics import dcg

CHUNK = 25
TOLERANCE = 1e-6
LABELS = tuple("abcdef")

T = TypeVar("T")


def several_tables(
    instances: int, seed: int, progress: Progress, regret: dict[str, Any]
) -> Iterator[Line]:
    """`overlap_gap` on so many instances; fills `regret` with the goal and what was reached."""
    line = Line("several tables: no bound broken in silence, no false proof (integer program)")
    gaps: list[OverlapGap] = []
    for done, gap in _in_processes(overlap_gap, instances, seed):
        gaps.append(gap)
        told = f"seed {seed + len(gaps) - 1}: overlap_gap({gap.instances}, seed)"
        line.add(gap.instances, gap.false_proofs + gap.silent, told)
        progress(done)
    regret |= regret_of(gaps)
    yield line.done(
        "within {goal:.1%} of the optimum: {near:,} of {can_be_kept:,} that can be kept "
        "({near_share:.2%}); the optimum itself: {best_share:.2%}; regret mean {mean:.5%}, worst "
        "{worst:.3%}; not found: {not_found:,}; broken in silence: {silent:,} (goal: 0)".format(
            **regret
        )
    )


def regret_of(gaps: Sequence[OverlapGap]) -> dict[str, Any]:
    """How far lists of several tables are from the best, and the goal. A list that was not found,
    though there is one, is not near it."""
    feasible = sum(gap.feasible for gap in gaps)
    found = [(gap.feasible - gap.missed, gap) for gap in gaps]
    lists, near = sum(own for own, _ in found), sum(gap.near for gap in gaps)
    return {
        "goal": GOAL,
        "instances": sum(gap.instances for gap in gaps),
        "can_be_kept": feasible,
        "not_found": feasible - lists,
        "near": near,
        "near_share": near / max(feasible, 1),
        "best_share": sum(gap.optimal * own for own, gap in found) / max(feasible, 1),
        "mean": sum(gap.mean_gap * own for own, gap in found) / max(lists, 1),
        "worst": max(gap.worst_gap for gap in gaps),
        "silent": sum(gap.silent for gap in gaps),
    }


def own_tables(instances: int, seed: int, progress: Progress) -> Iterator[Line]:
    """Calibrated lists of drawn users."""
    line = Line("calibrated: bounds kept, distance to the best as told (assignment)")
    regrets: list[float] = []
    largest: Sizes = (0, 0, 0)
    for done, (wrong, example, found, sizes) in _in_processes(_calibrated, instances, seed):
        line.add(CHUNK, wrong, example)
        regrets += found
        largest = largest_of(largest, sizes)
        progress(done)
    yield line.done(
        f"{in_sizes(largest)}; {len(regrets):,} met; regret mean {np.mean(regrets):.4%}, worst {max(regrets):.2%}"
    )


def _calibrated(instances: int, seed: int) -> tuple[int, str, list[float], Sizes]:
    rng = np.random.default_rng(seed)
    wrong, example = 0, ""
    regrets: list[float] = []
    largest: Sizes = (0, 0, 0)
    for instance in range(instances):
        groups, count = int(rng.integers(1, len(LABELS) + 1)), int(rng.integers(1, 21))
        low, high = int(rng.integers(0, 5)), int(rng.integers(4, 9))
        document = (
            'name = "drawn"\nversion = "1"\nkind = "calibrated"\nreason = "drawn at random"\n'
            f'group_table = "t"\n[calibrated]\nat_least = "{low}/4"\nat_most = "{high}/4"\n'
            f"smoothing = {rng.integers(0, 6)}\n"
        )
        policy = compile_policy(parse_policy(document, "drawn"), LABELS[:groups], 20)
        own = policy.for_user({"t": rng.integers(0, 9, groups)})
        n = int(rng.integers(1, 121))
        scores = rng.random(n).astype(np.float32)
        rows = rng.integers(0, groups, n).astype(np.int32)
        fair = rerank(scores, rows, count, own)
        largest = largest_of(largest, (n, len(fair.order), groups))
        best = by_assignment(scores, rows, own.floors, own.ceilings, len(fair.order))
        met = fair.receipt.status is Status.MET
        bad = met != (best is not None)
        if met and best is not None:
            listed = rows[fair.order].tolist()
            bad |= bool(broken_bounds(listed, own.floors.tolist(), own.ceilings.tolist()))
            got = dcg(scores[fair.order])
            regrets.append(max(0.0, 1 - got / best))
            bad |= fair.receipt.utility_of_best > got / best + TOLERANCE
        wrong += bad
        if bad and not example:
            example = f"seed {seed}, instance {instance}"
    return wrong, example, regrets, largest


def _in_processes(
    work: Callable[[int, int], T], instances: int, seed: int
) -> Iterator[tuple[float, T]]:
    """(share done, result) of each chunk, in order, whichever process was first."""
    chunks = max(1, instances // CHUNK)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CORES, mp_context=context) as pool:
        for number, found in enumerate(
            pool.map(partial(work, CHUNK), range(seed, seed + chunks)), start=1
        ):
            yield number / chunks, found
