"""Random instances too large for all lists, against other rules than the kernel's.

Floors against the rule from the last place to the first; ceilings, and both, against a walk over
all counts per group. Half of the bounds are policies', half are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np

from bench.fairness.compiled import compiled, in_threads
from bench.fairness.draw import (
    BOTH,
    CEILINGS,
    FLOORS,
    best_first,
    draw_bounds,
    draw_candidates,
    draw_pool,
)
from bench.fairness.kernel import fair_places
from bench.fairness.lines import Line, Progress
from bench.fairness.oracles import backward, every_count, outside_bounds
from server.fairness.types import Int32, Int64

# Instances and policies that a thread takes at a time.
CHUNK = 10_000
POLICIES = 64
MAX_GROUPS, MAX_COUNT = 16, 60

Found = tuple[int, int, int]
"""(infeasible, mismatches, the instance of a mismatch or -1)"""


@compiled
def floors_against_backward(
    seed: int, instances: int, floors: Int32, ceilings: Int32, sizes: Int64
) -> Found:
    """Sums of every prefix, bounds, and the verdict: feasible iff the supply covers the floors."""
    np.random.seed(seed)
    infeasible, mismatches, example = 0, 0, -1
    for instance in range(instances):
        if instance % 2:
            policy = np.random.randint(0, sizes.shape[0])
            n_groups = sizes[policy]
            size = np.random.randint(1, floors.shape[2])
            low = floors[policy, :n_groups].copy()
        else:
            n_groups = np.random.randint(1, MAX_GROUPS + 1)
            size = np.random.randint(1, MAX_COUNT + 1)
            low, _, _ = draw_bounds(FLOORS, n_groups, size)
        n = np.random.randint(1, 4 * size + 1)
        size = min(size, n)
        values, scores, groups = draw_candidates(n, n_groups)
        free = np.full(low.shape, n, np.int32)
        places, bad = fair_places(scores, groups, low, free, size)
        supply = np.bincount(groups, minlength=n_groups)
        first_bad = 0
        for k in range(size, 0, -1):
            for g in range(n_groups):
                if low[g, k] > supply[g]:
                    first_bad = k
        infeasible += first_bad > 0
        wrong = bad != first_bad or outside_bounds(groups, places, low, free, supply) > 0
        ordered, own = best_first(values, groups)
        expected = backward(ordered, own, low, size)
        for place in range(size):
            # The same scores place by place: then the sums of every prefix are the same.
            wrong |= values[places[place]] != ordered[expected[place]]
        mismatches += wrong
        if wrong and example < 0:
            example = instance
    return infeasible, mismatches, example


@compiled
def _against_every_count(
    seed: int, instances: int, floors: Int32, ceilings: Int32, sizes: Int64, kind: int
) -> Found:
    np.random.seed(seed)
    infeasible, mismatches, example = 0, 0, -1
    best = np.zeros(floors.shape[2] + 1, np.int64)
    for instance in range(instances):
        if instance % 2:
            policy = np.random.randint(0, sizes.shape[0])
            n_groups = sizes[policy]
            size = np.random.randint(1, floors.shape[2])
            low, high = floors[policy, :n_groups].copy(), ceilings[policy, :n_groups].copy()
        else:
            n_groups = np.random.randint(1, floors.shape[1] + 1)
            size = np.random.randint(1, floors.shape[2])
            low, high, _ = draw_bounds(kind, n_groups, size)
        n = np.random.randint(1, 5 * size + 1)
        size = min(size, n)
        values, scores, groups = draw_candidates(n, n_groups)
        places, bad = fair_places(scores, groups, low, high, size)
        ordered, own = best_first(values, groups)
        longest = every_count(ordered, own, low, high, size, best[: size + 1])
        keepable = longest == size
        wrong = bad != (0 if keepable else longest + 1)
        supply = np.bincount(groups, minlength=n_groups)
        if keepable:
            wrong |= outside_bounds(groups, places, low, high, supply + size) > 0
            total = 0
            for k in range(1, size + 1):
                total += values[places[k - 1]]
                wrong |= kind != BOTH and total != best[k]
                wrong |= kind == BOTH and total > best[k]
        else:
            infeasible += 1
            free = np.full(low.shape, n, np.int32)
            wrong |= outside_bounds(groups, places, low, free, supply) > 0
        mismatches += wrong
        if wrong and example < 0:
            example = instance
    return infeasible, mismatches, example


def ceilings_against_every_count(
    seed: int, instances: int, floors: Int32, ceilings: Int32, sizes: Int64
) -> Found:
    """Sums of every prefix, bounds and verdict of caps and of drawn ceilings."""
    return _against_every_count(seed, instances, floors, ceilings, sizes, CEILINGS)


def both_against_every_count(
    seed: int, instances: int, floors: Int32, ceilings: Int32, sizes: Int64
) -> Found:
    """Bounds and verdict of windows and of drawn floors with ceilings; sums: none above the best."""
    return _against_every_count(seed, instances, floors, ceilings, sizes, BOTH)


CHECKS: tuple[tuple[str, Callable[..., Found], tuple[str, ...], int, int], ...] = (
    ("floors, random: all prefix sums, verdict, first bad prefix",
     floors_against_backward, ("floors", "fa_ir"), MAX_GROUPS, MAX_COUNT),
    ("ceilings, random: the same", ceilings_against_every_count, ("cap",), 3, 9),
    ("floors and ceilings, random: bounds, verdict, first bad prefix",
     both_against_every_count, ("window",), 3, 9),
)  # fmt: skip


def random_instances(instances: int, seed: int, progress: Progress) -> Iterator[Line]:
    """A line for each check, each on so many instances."""
    for place, (name, check, kinds, max_groups, max_count) in enumerate(CHECKS):
        line, infeasible = Line(name), 0

        def chunk(
            number: int,
            check: Callable[..., Found] = check,
            kinds: tuple[str, ...] = kinds,
            limits: tuple[int, int] = (max_groups, max_count),
            place: int = place,
        ) -> tuple[int, int, Found]:
            own = int(np.random.SeedSequence([seed, place, number]).generate_state(1)[0])
            pool = draw_pool(random.Random(own), POLICIES, kinds, *limits)
            size = min(CHUNK, instances - number * CHUNK)
            return own, size, check(own, size, pool.floors, pool.ceilings, pool.sizes)

        jobs = ((number,) for number in range(-(-instances // CHUNK)))
        for own, size, (unkept, mismatches, instance) in in_threads(chunk, jobs):
            line.add(size, mismatches, f"seed {own}, instance {instance}")
            infeasible += unkept
            progress((place + line.instances / instances) / len(CHECKS))
        yield line.done(f"{infeasible:,} that no list can keep")
