"""The steps of docs/proof.md, each done on random instances.

Items are numbered in score order: item 0 is the best. A list is a list of items.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from server.fairness import rerank
from strategies.fairness import MANY, compiled

Table = list[list[int]]


@dataclass(frozen=True)
class Instance:
    """Groups of the items, scores in order, floors or ceilings `[G][K + 1]`, and chance."""

    groups: list[int]
    scores: list[float]
    bounds: Table
    chance: Random

    @property
    def size(self) -> int:
        return len(self.bounds[0]) - 1

    def counts(self, items: Sequence[int]) -> list[int]:
        own = [self.groups[item] for item in items]
        return [own.count(g) for g in range(len(self.bounds))]

    def sums(self, items: Sequence[int]) -> list[float]:
        return list(itertools.accumulate(self.scores[item] for item in items))

    def keeps(self, items: Sequence[int]) -> bool:
        return all(
            have >= row[k]
            for k in range(self.size + 1)
            for have, row in zip(self.counts(items[:k]), self.bounds, strict=True)
        )


def rows(size: int, highest: int) -> st.SearchStrategy[list[int]]:
    steps = st.lists(st.integers(0, 2) | st.just(0), min_size=size, max_size=size)
    return steps.map(lambda more: [min(c, highest) for c in itertools.accumulate([0, *more])])


@st.composite
def instances(draw: st.DrawFn, sound: bool = True) -> Instance:
    """Sound: some list keeps the floors. Otherwise any floors and any supply."""
    # One in eight of 64 groups, most of them empty; and few items, since some tests try all lists.
    wide = draw(st.integers(0, 7)) == 7
    n_groups, n = 64 if wide else draw(st.integers(1, 3)), draw(st.integers(1, 5 if wide else 9))
    groups = draw(st.lists(st.integers(0, n_groups - 1), min_size=n, max_size=n))
    size = draw(st.integers(1, min(n, 6)))
    chance = Random(draw(st.integers(0, 2**32)))
    # Of any size, and where there are few different ones, equal.
    size_of, steps = (
        draw(st.sampled_from([1.0, 1.0, 3e38, 1e-44])),
        draw(st.sampled_from([0, 1, 9])),
    )
    scores = [chance.uniform(-1, 1) for _ in range(n)]
    scores = [round(score, steps) * size_of for score in scores]
    scores.sort(reverse=True)
    if not sound:
        return Instance(groups, scores, [draw(rows(size, 4)) for _ in range(n_groups)], chance)
    # Below the counts of some list, in rows that lag behind it and rise in steps.
    listed = draw(st.permutations(range(n)))[:size]
    floors = []
    for g in range(n_groups):
        lag, step = draw(st.integers(0, 2)), draw(st.integers(1, 3))
        ends = [max(0, k // step * step - lag) for k in range(size + 1)]
        floors.append([sum(groups[item] == g for item in listed[:end]) for end in ends])
    return Instance(groups, scores, floors, chance)


def owed(instance: Instance, items: Sequence[int], until: int) -> int:
    return sum(
        max(0, row[until] - have)
        for have, row in zip(instance.counts(items), instance.bounds, strict=True)
    )


def can_be_finished(instance: Instance, items: Sequence[int]) -> bool:
    """Step 1 for what is left after these items; by its supply, and prefix by prefix."""
    return all(
        row[instance.size] <= instance.groups.count(g) for g, row in enumerate(instance.bounds)
    ) and all(
        owed(instance, items, k) <= k - len(items) for k in range(len(items), instance.size + 1)
    )


def some_list_keeps(instance: Instance, start: tuple[int, ...] = ()) -> bool:
    """By trying all."""
    left = [item for item in range(len(instance.groups)) if item not in start]
    return any(
        instance.keeps((*start, *rest))
        for rest in itertools.permutations(left, instance.size - len(start))
    )


def any_list(instance: Instance) -> list[int]:
    """A random list that keeps the floors, in no order inside its groups."""
    listed: list[int] = []
    while len(listed) < instance.size:
        left = [item for item in range(len(instance.groups)) if item not in listed]
        listed.append(
            instance.chance.choice([i for i in left if can_be_finished(instance, [*listed, i])])
        )
    return listed


def sorted_inside(instance: Instance, items: Sequence[int]) -> list[int]:
    """Step 2: the heads of each group, best first, where the list has that group."""
    heads = [
        iter([item for item, own in enumerate(instance.groups) if own == g])
        for g in range(len(instance.bounds))
    ]
    return [next(heads[instance.groups[item]]) for item in items]


def best_set(instance: Instance) -> list[int]:
    """S*: what the floors ask for, and the best of the others."""
    seen = [0] * len(instance.bounds)
    heads = []
    for item, g in enumerate(instance.groups):
        if seen[g] < instance.bounds[g][-1]:
            seen[g] += 1
            heads.append(item)
    others = [item for item in range(len(instance.groups)) if item not in heads]
    return sorted(heads + others[: instance.size - len(heads)])


def spared(instance: Instance, left: Sequence[int]) -> list[int]:
    """The items of S, of t items, whose group can spare one for the prefix t - 1."""
    have = instance.counts(left)
    return [
        item
        for item in left
        if have[instance.groups[item]] - 1 >= instance.bounds[instance.groups[item]][len(left) - 1]
    ]


def backward(instance: Instance) -> list[int]:
    left, places = best_set(instance), []
    while left:
        places.append(max(spared(instance, left)))
        left.remove(places[-1])
    return places[::-1]


def no_sum_is_lower(instance: Instance, after: Sequence[int], before: Sequence[int]) -> bool:
    pairs = zip(instance.sums(after), instance.sums(before), strict=True)
    slack = 1e-9 * max(map(abs, instance.scores))
    return all(new >= old - slack for new, old in pairs)


@given(instances(sound=False))
def test_step_1_a_list_exists_exactly_where_prefixes_and_supply_suffice(instance: Instance) -> None:
    prefixes = all(sum(row[k] for row in instance.bounds) <= k for k in range(instance.size + 1))
    supply = all(row[-1] <= instance.groups.count(g) for g, row in enumerate(instance.bounds))
    assert some_list_keeps(instance) == (prefixes and supply)


@given(instances())
def test_step_1_the_order_of_deadlines_is_a_list(instance: Instance) -> None:
    jobs = []
    for g, row in enumerate(instance.bounds):
        own = [item for item, group in enumerate(instance.groups) if group == g][: row[-1]]
        jobs += [
            (next(k for k, floor in enumerate(row) if floor >= j), item)
            for j, item in enumerate(own, start=1)
        ]
    first = [item for _, item in sorted(jobs)]
    others = [item for item in range(len(instance.groups)) if item not in first]
    assert all(due >= place for place, (due, _) in enumerate(sorted(jobs), start=1))
    assert instance.keeps((first + others)[: instance.size])


@given(instances(sound=False))
def test_step_1_floors_lowered_to_the_supply_can_be_kept(instance: Instance) -> None:
    assume(all(sum(row[k] for row in instance.bounds) <= k for k in range(instance.size + 1)))
    lowered = [
        [min(floor, instance.groups.count(g)) for floor in row]
        for g, row in enumerate(instance.bounds)
    ]
    assert some_list_keeps(Instance(instance.groups, instance.scores, lowered, instance.chance))


@given(instances())
def test_step_2_sorting_inside_groups_keeps_counts_and_lowers_no_sum(instance: Instance) -> None:
    before = any_list(instance)
    after = sorted_inside(instance, before)
    assert [instance.groups[i] for i in after] == [instance.groups[i] for i in before]
    assert no_sum_is_lower(instance, after, before)


@given(instances())
def test_step_3_some_group_can_always_spare_one_and_the_floors_are_kept(instance: Instance) -> None:
    left = best_set(instance)
    while left:
        choice = spared(instance, left)
        assert choice
        left.remove(instance.chance.choice(choice))
    assert instance.keeps(backward(instance))


@given(instances())
def test_step_3a_each_exchange_of_the_set_comes_nearer_to_the_best_one(instance: Instance) -> None:
    wanted = set(best_set(instance))
    listed = sorted_inside(instance, any_list(instance))
    while set(listed) != wanted:
        # A group with more than in S* gives its tail, one with fewer gets its first outside.
        b = max(set(listed) - wanted)
        a = min(wanted - set(listed))
        assert a < b
        changed = sorted_inside(instance, [a if item == b else item for item in listed])
        assert instance.keeps(changed)
        assert no_sum_is_lower(instance, changed, listed)
        assert len(wanted - set(changed)) == len(wanted - set(listed)) - 1
        listed = changed


@given(instances())
def test_step_3b_each_swap_agrees_one_place_further_from_the_end(instance: Instance) -> None:
    wanted = backward(instance)
    left, order = best_set(instance), []
    while left:
        order.append(instance.chance.choice(spared(instance, left)))
        left.remove(order[-1])
    listed = sorted_inside(instance, order[::-1])
    while listed != wanted:
        t = max(k for k in range(instance.size) if listed[k] != wanted[k])
        x, y = wanted[t], listed[t]
        s = listed.index(x)
        assert y < x
        assert s < t
        assert all(instance.groups[i] != instance.groups[x] for i in listed[s + 1 : t + 1])
        swapped = list(listed)
        swapped[s], swapped[t] = y, x
        changed = sorted_inside(instance, swapped)
        assert instance.keeps(changed)
        assert no_sum_is_lower(instance, changed, listed)
        assert changed[t:] == wanted[t:]
        listed = changed


@given(instances())
def test_the_theorem_no_list_has_a_larger_sum_in_any_prefix(instance: Instance) -> None:
    best = backward(instance)
    assert instance.keeps(best)
    assert no_sum_is_lower(instance, best, any_list(instance))


@given(instances())
def test_step_4_the_forward_rule_gives_the_same_list(instance: Instance) -> None:
    listed: list[int] = []
    while len(listed) < instance.size:
        left = [item for item in range(len(instance.groups)) if item not in listed]
        listed.append(next(i for i in left if can_be_finished(instance, [*listed, i])))
    assert listed == backward(instance)


@given(instances())
def test_step_4_until_the_first_tight_prefix_is_the_test_of_finishing(instance: Instance) -> None:
    listed = any_list(instance)[: instance.chance.randrange(instance.size)]
    t, have = len(listed) + 1, instance.counts(listed)
    never = instance.size + 1
    tight = next((k for k in range(t, never) if owed(instance, listed, k) == k - t + 1), never)
    for item, g in enumerate(instance.groups):
        if item in listed:
            continue
        row = instance.bounds[g]
        due = next((k for k in range(t, never) if row[k] > have[g]), never)
        assert (due <= tight) == can_be_finished(instance, [*listed, item])
        assert (due <= tight) == some_list_keeps(instance, (*listed, item))


@given(instances())
def test_the_kernel_gives_the_list_of_the_backward_rule(instance: Instance) -> None:
    policy = compiled("floors", '[floors]\ng00 = "1/2"\n', MANY[: len(instance.bounds)])
    policy.floors[:] = 0
    policy.floors[:, : instance.size + 1] = instance.bounds
    scores = np.arange(len(instance.groups), 0, -1).astype(np.float32)
    fair = rerank(scores, np.array(instance.groups, np.int32), instance.size, policy)
    assert fair.order.tolist() == backward(instance)


def _below(instance: Instance) -> Callable[[Sequence[int]], list[int]]:
    """Step 5: the items that may follow a list, of groups below their ceilings."""

    def follow(listed: Sequence[int]) -> list[int]:
        have = instance.counts(listed)
        return [
            item
            for item, g in enumerate(instance.groups)
            if item not in listed and have[g] < instance.bounds[g][len(listed) + 1]
        ]

    return follow


def _make_room(instance: Instance) -> None:
    """Raise ceilings, of groups in turn, until every prefix can be filled."""
    supply = [instance.groups.count(g) for g in range(len(instance.bounds))]
    for k in range(instance.size + 1):
        for g, row in enumerate(instance.bounds):
            free = sum(min(own[k], have) for own, have in zip(instance.bounds, supply, strict=True))
            lift = min(max(0, k - free), max(0, supply[g] - row[k]))
            row[k:] = [most + lift for most in row[k:]]


@given(instances(sound=False))
def test_step_5_with_ceilings_each_swap_agrees_one_place_further(instance: Instance) -> None:
    _make_room(instance)
    follow = _below(instance)
    wanted: list[int] = []
    order: list[int] = []
    while len(wanted) < instance.size:
        wanted.append(min(follow(wanted)))
        order.append(instance.chance.choice(follow(order)))
    listed = sorted_inside(instance, order)
    assert no_sum_is_lower(instance, listed, order)
    while listed != wanted:
        t = next(k for k in range(instance.size) if listed[k] != wanted[k])
        x, y = wanted[t], listed[t]
        assert x < y
        swapped = [{x: y, y: x}.get(item, item) for item in listed]
        changed = sorted_inside(instance, swapped)
        assert all(changed[k] in follow(changed[:k]) for k in range(instance.size))
        assert no_sum_is_lower(instance, changed, listed)
        assert changed[: t + 1] == wanted[: t + 1]
        listed = changed
