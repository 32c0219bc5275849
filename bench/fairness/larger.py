"""Random instances too large for all lists, against other rules than the kernel's.

Floors against the rule from the last place to the first; ceilings, and both, against a walk over
all counts per group. Half of the bounds are policies', half are drawn. Every list is made as the server
makes it, about a third of them of a part of the order, and must be the one that the whole order gives; of one in a
hundred the compiled call is held against `rerank` itself.
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
    Pool,
    best_first,
    draw_bounds,
    draw_candidates,
    draw_pool,
    draw_ties,
)
from bench.fairness.exhaustive import any_policy
from bench.fairness.kernel import (
    fair_places,
    same_as_rerank,
    served_places,
    two_sided,
    with_tables,
)
from bench.fairness.lines import Line, Progress
from bench.fairness.oracles import backward, every_count, out_of_order, outside_bounds
from server.fairness.discount import discounts
from server.fairness.types import Float32, Float64, Int32, Int64

# Instances and policies that a thread takes at a time.
CHUNK = 10_000
POLICIES = 64
MAX_GROUPS, MAX_COUNT = 16, 60

# Candidates for each place, at most: few, so that supply is short, or so many that the server sorts a
# part of them alone.
FEW_EACH, MANY_EACH = 4, 20
# Of the instances, one in so many goes through `rerank` beside the compiled call.
ITSELF = 100

Found = tuple[int, int, int, int, int]
"""(infeasible, mismatches, the instance of a mismatch or -1, lists made of a part of the order, those
of them that were made again)"""


@compiled
def candidates_each(instance: int) -> int:
    """How many there are for each place, at most: in turn, for policies as for drawn bounds."""
    return FEW_EACH if instance // 2 % 2 else MANY_EACH


@compiled
def _served(
    scores: Float32, groups: Int32, low: Int32, high: Int32, size: int, worth: Float64
) -> tuple[Int32, int, bool, int, bool]:
    """(the list, its first bad prefix, whether it is wrong in itself, whether a part of the order was
    sorted, whether that was too little)."""
    ties = draw_ties(scores.shape[0])
    both = two_sided(low, high)
    places, bad, depth, again = served_places(
        scores, groups, ties, low, high, both, worth[:size], 0
    )
    whole, same_bad = fair_places(scores, groups, ties, low, high, size)
    wrong = bad != same_bad or not np.array_equal(places, whole)
    if places.shape[0] == size:
        wrong |= out_of_order(scores, groups, ties, places, low.shape[0])
    else:
        places = np.zeros(size, np.int32)
    return places, bad, wrong, depth < scores.shape[0], again


@compiled
def floors_against_backward(
    seed: int, instances: int, floors: Int32, ceilings: Int32, sizes: Int64, worth: Float64
) -> Found:
    """Sums of every prefix, bounds, and the verdict: feasible iff the supply covers the floors."""
    np.random.seed(seed)
    infeasible, mismatches, example, partly, retried = 0, 0, -1, 0, 0
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
        n = np.random.randint(1, candidates_each(instance) * size + 1)
        size = min(size, n)
        values, scores, groups = draw_candidates(n, n_groups)
        free = np.full(low.shape, n, np.int32)
        places, bad, wrong, part, again = _served(scores, groups, low, free, size, worth)
        partly += part
        retried += again
        supply = np.bincount(groups, minlength=n_groups)
        first_bad = 0
        for k in range(size, 0, -1):
            for g in range(n_groups):
                if low[g, k] > supply[g]:
                    first_bad = k
        infeasible += first_bad > 0
        wrong |= bad != first_bad or outside_bounds(groups, places, low, free, supply) > 0
        ordered, own = best_first(values, groups)
        expected = backward(ordered, own, low, size)
        for place in range(size):
            # The same scores place by place: then the sums of every prefix are the same.
            wrong |= values[places[place]] != ordered[expected[place]]
        mismatches += wrong
        if wrong and example < 0:
            example = instance
    return infeasible, mismatches, example, partly, retried


@compiled
def _against_every_count(
    seed: int,
    instances: int,
    floors: Int32,
    ceilings: Int32,
    sizes: Int64,
    worth: Float64,
    kind: int,
) -> Found:
    np.random.seed(seed)
    infeasible, mismatches, example, partly, retried = 0, 0, -1, 0, 0
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
        n = np.random.randint(1, candidates_each(instance) * size + 1)
        size = min(size, n)
        values, scores, groups = draw_candidates(n, n_groups)
        places, bad, wrong, part, again = _served(scores, groups, low, high, size, worth)
        partly += part
        retried += again
        ordered, own = best_first(values, groups)
        longest = every_count(ordered, own, low, high, size, best[: size + 1])
        keepable = longest == size
        wrong |= bad != (0 if keepable else longest + 1)
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
    return infeasible, mismatches, example, partly, retried


def ceilings_against_every_count(
    seed: int, instances: int, floors: Int32, ceilings: Int32, sizes: Int64, worth: Float64
) -> Found:
    """Sums of every prefix, bounds and verdict of caps and of drawn ceilings."""
    return _against_every_count(seed, instances, floors, ceilings, sizes, worth, CEILINGS)


def both_against_every_count(
    seed: int, instances: int, floors: Int32, ceilings: Int32, sizes: Int64, worth: Float64
) -> Found:
    """Bounds and verdict of windows and of drawn floors with ceilings; sums: none above the best."""
    return _against_every_count(seed, instances, floors, ceilings, sizes, worth, BOTH)


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
        line, infeasible, partly, retried, itself = Line(name), 0, 0, 0, 0
        worth = discounts(max_count)

        def chunk(
            number: int,
            check: Callable[..., Found] = check,
            kinds: tuple[str, ...] = kinds,
            limits: tuple[int, int] = (max_groups, max_count),
            place: int = place,
            worth: Float64 = worth,
        ) -> tuple[int, int, Found, int]:
            own = int(np.random.SeedSequence([seed, place, number]).generate_state(1)[0])
            pool = draw_pool(random.Random(own), POLICIES, kinds, *limits)
            size = min(CHUNK, instances - number * CHUNK)
            found = check(own, size, pool.floors, pool.ceilings, pool.sizes, worth)
            return own, size, found, unlike_rerank(own, size // ITSELF, pool)

        jobs = ((number,) for number in range(-(-instances // CHUNK)))
        for own, size, found, unlike in in_threads(chunk, jobs):
            line.add(size, found[1], f"seed {own}, instance {found[2]}")
            line.add(0, unlike, f"seed {own}: not what rerank makes")
            infeasible += found[0]
            partly += found[3]
            retried += found[4]
            itself += size // ITSELF
            progress((place + line.instances / instances) / len(CHECKS))
        yield line.done(
            f"{infeasible:,} that no list can keep; {partly:,} made of a part of the order, "
            f"{retried:,} of them again of the whole; {itself:,} more through rerank itself"
        )


def unlike_rerank(seed: int, lists: int, pool: Pool) -> int:
    """How many of so many lists of these policies the compiled call does not make as `rerank` does."""
    draws, unlike = np.random.default_rng(seed), 0
    most = pool.floors.shape[2] - 1
    standing = any_policy(most)
    for _ in range(lists):
        policy = draws.integers(len(pool.sizes))
        rows = int(pool.sizes[policy])
        made = with_tables(standing, pool.floors[policy, :rows], pool.ceilings[policy, :rows])
        n, count = int(draws.integers(1, 12 * most)), int(draws.integers(1, most + 1))
        # Ties common or rare; the lean of the groups makes some lists need more than was sorted.
        scores = draws.integers(0, 10 ** draws.integers(1, 7), n).astype(np.float32)
        groups = (rows * draws.random(n) ** draws.integers(1, 4)).astype(np.int32)
        ties = draws.permutation(n) if draws.integers(2) else None
        unlike += not same_as_rerank(scores, groups, count, made, ties)
    return unlike
