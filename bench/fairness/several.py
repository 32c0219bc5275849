"""Lists of several group tables against an integer program, and of users' own tables against an
assignment, in processes.

No list is exact here by construction, so what must hold is what the receipt says: a list that is
called met keeps every bound, one that is called infeasible has no better, and no list is nearer to
the best than is told. How far it is from the best is counted, and is no mismatch.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TypeVar

import numpy as np

from bench.fairness.compiled import CORES
from bench.fairness.exact import by_assignment
from bench.fairness.lines import Line, Progress
from bench.fairness.overlap_gap import OverlapGap, overlap_gap
from server.fairness import Status, compile_policy, parse_policy, rerank
from server.fairness.invariants import broken_bounds
from server.fairness.metrics import dcg

CHUNK = 25
TOLERANCE = 1e-6
LABELS = tuple("abcdef")

T = TypeVar("T")


def several_tables(instances: int, seed: int, progress: Progress) -> Iterator[Line]:
    """`overlap_gap` on so many instances."""
    line = Line("several tables: no false proof, no false bound (integer program)")
    gaps: list[OverlapGap] = []
    for done, gap in _in_processes(overlap_gap, instances, seed):
        gaps.append(gap)
        told = f"seed {seed + len(gaps) - 1}: overlap_gap({gap.instances}, seed)"
        line.add(gap.instances, gap.false_proofs, told)
        progress(done)
    feasible = sum(gap.feasible for gap in gaps)
    optimal = sum(gap.optimal * gap.feasible for gap in gaps) / max(feasible, 1)
    mean = sum(gap.mean_gap * gap.feasible for gap in gaps) / max(feasible, 1)
    yield line.done(
        f"{feasible:,} can be kept, of which {sum(gap.missed for gap in gaps):,} were not found; "
        f"{optimal:.2%} are the best; regret mean {mean:.6%}, "
        f"worst {max(gap.worst_gap for gap in gaps):.4%}"
    )


def own_tables(instances: int, seed: int, progress: Progress) -> Iterator[Line]:
    """Calibrated lists of drawn users."""
    line = Line("calibrated: bounds kept, distance to the best as told (assignment)")
    regrets: list[float] = []
    for done, (wrong, example, found) in _in_processes(_calibrated, instances, seed):
        line.add(CHUNK, wrong, example)
        regrets += found
        progress(done)
    yield line.done(
        f"{len(regrets):,} met; regret mean {np.mean(regrets):.4%}, worst {max(regrets):.2%}"
    )


def _calibrated(instances: int, seed: int) -> tuple[int, str, list[float]]:
    rng = np.random.default_rng(seed)
    wrong, example = 0, ""
    regrets: list[float] = []
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
    return wrong, example, regrets


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
