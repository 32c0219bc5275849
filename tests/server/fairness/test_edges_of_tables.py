"""The edges of compiled tables: which bounds bind, what a supply lacks, alpha among groups, refusals."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import PolicyRefused
from server.fairness import CompiledPolicy, shortage
from server.fairness.fair_ir import fair_ir_floors
from strategies.fairness import LABELS, compiled, policies


def can_fill(policy: CompiledPolicy, supply: list[int], count: int) -> bool:
    """Word for word: the supply covers each floor, and each prefix has items for its places."""
    floors, ceilings = policy.floors.tolist(), policy.ceilings.tolist()
    covered = all(row[count] <= have for row, have in zip(floors, supply, strict=True))
    filled = all(
        sum(min(row[k], have) for row, have in zip(ceilings, supply, strict=True)) >= k
        for k in range(count + 1)
    )
    return covered and filled


@given(
    policy=policies(), supply=st.lists(st.integers(0, 12), min_size=4, max_size=4), data=st.data()
)
def test_a_supply_lacks_nothing_exactly_where_it_suffices(
    policy: CompiledPolicy, supply: list[int], data: st.DataObject
) -> None:
    own, count = supply[: len(policy.labels)], data.draw(st.integers(1, 12))
    # With fewer candidates than places the list is shorter.
    count = min(count, max(sum(own), 1))
    lacks = shortage(policy, np.array(own, np.int64), count)
    # More of what its ceiling forbids would not help.
    assert (np.array(own) + lacks <= np.maximum(policy.ceilings[:, count], own)).all()
    if sum(own) >= count and can_fill(policy, own, count):
        assert lacks.tolist() == [0] * len(own)
    elif sum(own) >= count and can_fill(policy, [count] * len(own), count):
        assert lacks.any()
        assert can_fill(policy, (np.array(own) + lacks).tolist(), count)


def test_what_floors_and_what_ceilings_lack_is_counted() -> None:
    floors = compiled("floors", '[floors]\na = "1/2"\nb = "1/4"\n', LABELS[:3])
    assert shortage(floors, np.array([1, 5, 0]), 8).tolist() == [3, 0, 0]
    assert shortage(floors, np.array([4, 2, 0]), 8).tolist() == [0, 0, 0]
    cap = compiled("cap", "[cap]\nat_most = 2\nwithin_first = 6\n", LABELS[:3])
    assert shortage(cap, np.array([9, 2, 1]), 6).tolist() == [0, 0, 1]
    assert shortage(cap, np.array([9, 0, 1]), 5).tolist() == [0, 2, 1]
    assert shortage(cap, np.array([9, 2, 1]), 5).tolist() == [0, 0, 0]
    halves = compiled("window", '[window]\na = "1/2"\nb = "1/2"\n', LABELS[:2])
    assert shortage(halves, np.array([9, 3]), 10).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("within", "at_most", "binds"), [(3, 2, True), (3, 3, False), (12, 11, True), (12, 12, False)]
)
def test_ceilings_bind_where_one_is_below_its_prefix(
    within: int, at_most: int, binds: bool
) -> None:
    body = f"[cap]\nat_most = {at_most}\nwithin_first = {within}\n"
    assert compiled("cap", body, LABELS[:2], 12).has_ceilings is binds


def test_kind_none_has_a_column_for_each_prefix_and_no_group() -> None:
    none = compiled("none", "", LABELS, 12)
    assert (none.labels, none.floors.shape, none.ceilings.shape) == ((), (0, 13), (0, 13))
    assert none.max_count == 12
    assert not none.has_ceilings


def fa_ir(alpha: str, within: int, shares: str, max_count: int = 20) -> CompiledPolicy:
    body = f'[fa_ir]\nalpha = "{alpha}"\nwithin_first = {within}\n[fa_ir.shares]\n{shares}'
    return compiled("fa_ir", body, LABELS[:3], max_count)


def test_each_of_several_groups_gets_its_part_of_alpha() -> None:
    one = fa_ir("1/5", 20, 'a = "1/2"\n').floors[0].tolist()
    two = fa_ir("1/5", 20, 'a = "1/2"\nb = "2/5"\n').floors
    assert one == fair_ir_floors(20, Fraction(1, 2), Fraction(1, 5)).tolist()
    assert two[0].tolist() == fair_ir_floors(20, Fraction(1, 2), Fraction(1, 10)).tolist()
    assert two[1].tolist() == fair_ir_floors(20, Fraction(2, 5), Fraction(1, 10)).tolist()
    assert one != two[0].tolist()


def test_after_its_places_a_fa_ir_floor_stays() -> None:
    """With a prefix at which the floor rises as the last one, so that one place off is seen."""
    whole = fair_ir_floors(9, Fraction(1, 2), Fraction(1, 5)).tolist()
    rises = [k for k in range(2, 10) if whole[k] > whole[k - 1]]
    for within in {rises[-1], rises[-1] - 1}:
        own = fair_ir_floors(within, Fraction(1, 2), Fraction(1, 5)).tolist()
        assert fa_ir("1/5", within, 'a = "1/2"\n').floors[0].tolist() == own + [own[-1]] * (
            20 - within
        )
        shorter = fa_ir("1/5", within, 'a = "1/2"\n', within - 2).floors[0].tolist()
        assert shorter == own[: within - 1]


def test_unnamed_groups_of_a_whole_window_have_ceiling_0() -> None:
    policy = compiled("window", '[window]\na = "1/2"\nc = "1/2"\n', LABELS[:3], 6)
    assert policy.ceilings.tolist() == [[0, 1, 1, 2, 2, 3, 3], [0] * 7, [0, 1, 1, 2, 2, 3, 3]]


def test_the_nearest_group_is_offered_for_a_misspelt_one() -> None:
    with pytest.raises(PolicyRefused, match=r"did you mean 'smaller'\?; it has"):
        compiled("floors", '[floors]\nsmallr = "1/2"\n', ["small", "smaller", "large"])
