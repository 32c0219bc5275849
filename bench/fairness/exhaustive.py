"""Small worlds, all of them: every score order, every group of every item, every sound table.

What symmetry leaves out, and why that loses nothing: items are numbered by score, since the fair
stage sees positions only through the score order (`order_of_input` tries all orders of the input).
Groups are not reduced: every assignment is tried. A score order may have ties: all 2^(n-1) ways in
which neighbours can be equal. Tables with ceilings and floors together are those that are sound.

Every list is made as the server makes it. In a small world its guess is mostly to sort all items, so
each list is made once more of an order that ends early, the next time one item later, as far as the
list needs: it must be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np

from bench.fairness.compiled import compiled, in_threads
from bench.fairness.kernel import (
    NO_TIE_BREAK,
    same_as_rerank,
    served_places,
    two_sided,
    with_tables,
)
from bench.fairness.lines import Line, Progress
from bench.fairness.oracles import NOTHING, every_list, out_of_order, outside_bounds
from server.fairness import CompiledPolicy, compile_policy, parse_policy, rerank
from server.fairness.discount import discounts
from server.fairness.invariants import broken_tables
from server.fairness.types import Float64, Int32

# Tables a thread takes at a time.
CHUNK = 400


@dataclass(frozen=True)
class World:
    """All instances of n items in G groups, lists of up to K places. bounds: which tables."""

    n: int
    K: int
    G: int
    bounds: str = "floors"
    ties: bool = False


FULL = (
    *(World(n, K, G) for n in range(1, 7) for K in range(1, 6) for G in range(1, 4)),
    *(World(n, K, 2, ties=True) for n in range(2, 7) for K in range(1, 6)),
    *(World(n, K, 3, ties=True) for n in range(2, 6) for K in range(1, 5)),
    *(World(n, K, 2, "ceilings") for n in range(1, 7) for K in range(1, 6)),
    *(World(n, K, 3, "ceilings") for n in range(1, 6) for K in range(1, 4)),
    *(World(n, K, 2, "both") for n in range(1, 6) for K in range(1, 5)),
    *(World(n, K, 3, "both") for n in range(1, 5) for K in range(1, 3)),
)
SHORT = (
    World(4, 3, 3),
    World(5, 4, 2, ties=True),
    World(4, 3, 2, "ceilings"),
    World(4, 3, 2, "both"),
)


def rows(K: int) -> list[tuple[int, ...]]:
    """Every row a table can have: from 0, non-decreasing, at most k at k. Catalan(K + 1) of them.

    >>> rows(2)
    [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 1), (0, 1, 2)]
    """
    found: list[tuple[int, ...]] = [(0,)]
    for k in range(1, K + 1):
        found = [(*row, high) for row in found for high in range(row[-1], k + 1)]
    return found


def floor_tables(K: int, G: int) -> Int32:
    """Every sound table of floors, `[T, G, K + 1]`: what they ask for together fits each prefix.

    >>> [len(floor_tables(K, 3)) for K in (1, 2, 3, 4, 5)]
    [4, 22, 140, 969, 7084]
    """
    found: list[tuple[tuple[int, ...], ...]] = [()]
    for _ in range(G):
        found = [
            (*table, row)
            for table in found
            for row in rows(K)
            if all(sum(column) <= k for k, column in enumerate(zip(*table, row, strict=True)))
        ]
    return np.array(found, np.int32)


def tables(world: World) -> tuple[Int32, Int32]:
    """(floors, ceilings), both `[T, G, K + 1]`."""
    free = np.tile(np.arange(world.K + 1, dtype=np.int32), (world.G, 1))
    if world.bounds == "floors":
        floors = floor_tables(world.K, world.G)
        return floors, np.broadcast_to(free, floors.shape).copy()
    ceilings = np.array(list(product(rows(world.K), repeat=world.G)), np.int32)
    if world.bounds == "ceilings":
        return np.zeros_like(ceilings), ceilings
    pairs = [
        (low, high)
        for low in floor_tables(world.K, world.G)
        for high in ceilings
        if (low <= high).all() and not broken_tables(low.tolist(), high.tolist())
    ]
    low, high = zip(*pairs, strict=True)
    return np.array(low, np.int32), np.array(high, np.int32)


@compiled
def _try_all(
    floors: Int32, ceilings: Int32, n: int, ties: bool, sums: bool, worth: Float64
) -> tuple[int, int, int, int]:
    """(instances, of them infeasible, mismatches, a table that is wrong or -1).

    sums: whether the list must have the largest sum in every prefix. worth: of the places `[>= K]`.
    """
    n_tables, n_groups, width = floors.shape
    size = min(width - 1, n)
    groups = np.zeros(n, np.int32)
    values = np.zeros(n, np.int64)
    scores = np.zeros(n, np.float32)
    best = np.zeros(size + 1, np.int64)
    supply = np.zeros(n_groups, np.int64)
    endless = np.full(n_groups, n + width, np.int64)
    free = np.full((n_groups, width), width, np.int32)
    # Of equal scores the last comes first, or, in every other instance, none is told to.
    last_first, in_order = np.arange(n, 0, -1), np.arange(n)
    instances, infeasible, mismatches, example = 0, 0, 0, -1
    for table in range(n_tables):
        low, high = floors[table], ceilings[table]
        both = two_sided(low, high)
        for assignment in range(n_groups**n):
            rest = assignment
            supply[:] = 0
            for item in range(n):
                groups[item] = rest % n_groups
                supply[groups[item]] += 1
                rest //= n_groups
            for equals in range(2 ** (n - 1) if ties else 1):
                # Steps of different sizes, so that no two sets of items have one sum by accident.
                value = 3**n
                for item in range(n):
                    if item > 0 and not equals >> (item - 1) & 1:
                        value -= 3 ** (n - item)
                    values[item] = value
                    scores[item] = value
                tie_break = last_first if instances % 2 else NO_TIE_BREAK
                places, bad, _, _ = served_places(
                    scores, groups, tie_break, low, high, both, worth[:size], 0
                )
                if places.shape[0] != size:
                    places = np.zeros(size, np.int32)  # no list: it stands wrong below
                longest = every_list(values, groups, low, high, size, best)
                keepable = longest == size
                wrong = bad != (0 if keepable else longest + 1)
                wrong |= out_of_order(
                    scores, groups, last_first if instances % 2 else in_order, places, n_groups
                )
                if size < n:
                    first = size + instances // 2 % (n - size)
                    short, same_bad, _, _ = served_places(
                        scores, groups, tie_break, low, high, both, worth[:size], first
                    )
                    wrong |= same_bad != bad or not np.array_equal(short, places)
                if keepable:
                    wrong |= outside_bounds(groups, places, low, high, endless) > 0
                else:
                    # Floors are lowered to the supply and hold; ceilings may yield.
                    infeasible += 1
                    wrong |= outside_bounds(groups, places, low, free, supply) > 0
                    if sums:
                        lowered = np.zeros((n_groups, width), np.int32)
                        for g in range(n_groups):
                            lowered[g] = np.minimum(low[g], supply[g])
                        every_list(values, groups, lowered, high, size, best)
                total = 0
                for k in range(1, size + 1):
                    total += values[places[k - 1]]
                    # Ceilings that leave places empty: no list is the best.
                    wrong |= sums and best[size] != NOTHING and total != best[k]
                instances += 1
                mismatches += wrong
                if wrong and example < 0:
                    example = table
    return instances, infeasible, mismatches, example


NAMES = {
    "floors": "floors, every world: all prefix sums, verdict, first bad prefix",
    "ties": "floors, every world with equal scores: the same",
    "ceilings": "ceilings, every world: the same",
    "both": "floors and ceilings, every world: bounds, verdict, first bad prefix",
}


def exhaustive(worlds: Sequence[World], progress: Progress) -> Iterator[Line]:
    """A line for each kind of worlds, against brute force over every list."""
    work = {world: world.G**world.n * (2**world.n if world.ties else 1) for world in worlds}
    whole, done = 0.0, 0.0
    made = {world: tables(world) for world in worlds}
    whole = sum(len(made[world][0]) * work[world] for world in worlds)
    for kind, name in NAMES.items():
        line, infeasible = Line(name), 0
        jobs = [
            (floors[at : at + CHUNK], ceilings[at : at + CHUNK], world.n, world.ties,
             world.bounds != "both", world)
            for world in worlds if kind == ("ties" if world.ties else world.bounds)
            for floors, ceilings in [made[world]] for at in range(0, len(floors), CHUNK)
        ]  # fmt: skip
        for (*_, world), (low, high), found in in_threads(_chunk, ((job,) for job in jobs)):
            count, unkept, mismatches, table = found
            shown = f"{world}, floors {low[table].tolist()}, ceilings {high[table].tolist()}"
            line.add(count, mismatches, shown)
            infeasible += unkept
            done += len(low) * work[world]
            progress(done / whole)
        yield line.done(f"{infeasible:,} that no list can keep")


def _chunk(job: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Int32, Int32], tuple[int, ...]]:
    floors, ceilings, n, ties, sums, world = job
    worth = discounts(world.K)
    return job, (floors, ceilings), _try_all(floors, ceilings, n, ties, sums, worth)


_POLICY = """
name = "small-world"
version = "1"
kind = "floors"
group_table = "t"
reason = "Stands for tables that no document can ask for."
floors = {g0 = "1/2"}
"""


def any_policy(max_count: int) -> CompiledPolicy:
    """A policy whose tables are to be replaced."""
    return compile_policy(parse_policy(_POLICY, "a small world"), ["g0"], max_count)


def order_of_input(n: int, K: int, G: int, progress: Progress) -> Line:
    """All orders of the input through `rerank`: the list moves along, and the kernel is its own."""
    line = Line(f"order of the input, all {n} items' permutations: the same list")
    scores = np.arange(n, 0, -1).astype(np.float32)
    policy = any_policy(K)
    every = floor_tables(K, G)
    free = np.tile(np.arange(K + 1, dtype=np.int32), (G, 1))
    for at, floors in enumerate(every):
        made = with_tables(policy, floors, free)
        for assignment in product(range(G), repeat=n):
            groups = np.array(assignment, np.int32)
            first = rerank(scores, groups, K, made).order.tolist()
            wrong = not same_as_rerank(scores, groups, K, made)
            for order in permutations(range(n)):
                turned = list(order)
                other = rerank(scores[turned], groups[turned], K, made).order
                wrong |= [turned[p] for p in other] != first
                line.add(1, 0)
            line.add(0, int(wrong), f"groups {assignment}, floors {floors.tolist()}")
        progress((at + 1) / len(every))
    return line.done()
