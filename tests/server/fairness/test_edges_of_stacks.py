"""The edges of rules together: which clash and how that is told, targets of exposure, tables' rows."""

from __future__ import annotations

import inspect
from fractions import Fraction

import numpy as np
import pytest

from server.errors import PolicyRefused
from server.fairness import CompiledPolicy, parse_policy
from server.fairness.compile import TableGroups, compile_tables
from server.fairness.tables import clash
from strategies.fairness import LABELS, compiled, document

HEAD = 'name = "p"\nversion = "1"\nkind = "stack"\nreason = "Rules together."\n'


def stacked(*rules: str, max_count: int = 12) -> CompiledPolicy:
    """Rules of the tables t (groups a, b, c) and u (x, y), by kind, table and section."""
    text = HEAD + "".join(f"[[stack]]\n{rule}\n" for rule in rules)
    tables = {"t": TableGroups.of(["a", "b", "c"]), "u": TableGroups.of(["x", "y"])}
    return compile_tables(parse_policy(text, "test"), tables, max_count)


def floors(shares: str, table: str = "t") -> str:
    return f'kind = "floors"\ngroup_table = "{table}"\nfloors = {{{shares}}}'


def cap(at_most: int, within: int, table: str = "t") -> str:
    section = f"{{at_most = {at_most}, within_first = {within}}}"
    return f'kind = "cap"\ngroup_table = "{table}"\ncap = {section}'


def table(*rows: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    return np.array(rows, np.int32)


def test_items_that_must_stand_in_too_few_places_are_counted_where_it_is_narrowest() -> None:
    """Also beside a group that may stand anywhere, and only those that must come are named."""
    low = table([0, 0, 0, 1, 3], [0, 0, 0, 1, 2], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0])
    high = table([0, 0, 1, 2, 3], [0, 1, 1, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    assert clash(low, high, ["a", "b", "c", "d"]) == (
        "the bounds of a, b leave 2 items for the 1 places after 3 and until 4"
    )


def test_of_floors_above_their_ceilings_the_first_is_told() -> None:
    low = table([0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 2], [0, 0, 0, 2])
    high = table([0, 1, 1, 1], [0, 1, 2, 3], [0, 1, 1, 1], [0, 1, 1, 1])
    assert clash(low, high, ["a", "b", "c", "d"]) == (
        "the first 3 places need 2 of group 'c' and may have 1"
    )


def test_bounds_that_leave_room_do_not_clash() -> None:
    assert clash(table([0, 0, 1], [0, 1, 1]), table([0, 1, 1], [0, 1, 1]), ["a", "b"]) == ""


def test_each_of_three_rules_is_held_against_each_before_it() -> None:
    with pytest.raises(PolicyRefused, match=r"stack\.2\.cap: clashes with stack\.0\.floors: "):
        stacked(floors('a = "1/2"'), floors('b = "1/9"'), cap(1, 10))


def test_three_rules_that_only_together_cannot_be_kept_are_told_together() -> None:
    three = [
        floors(f'{group} = "{share}"')
        for group, share in zip("abc", ["1/3", "1/3", "1/2"], strict=True)
    ]
    for one in range(3):
        stacked(*three[:one], *three[one + 1 :])
    with pytest.raises(
        PolicyRefused,
        match=r"stack\.0\.floors, stack\.1\.floors, stack\.2\.floors cannot be kept together: ",
    ):
        stacked(*three)


def test_rows_of_several_tables_follow_each_other_and_those_of_none_are_none() -> None:
    both = stacked(floors('a = "1/4"'), cap(3, 6, "u"))
    assert both.labels == ("t:a", "t:b", "t:c", "u:x", "u:y")
    assert (both.starts, both.blocks) == ((0, 3), [(0, 3), (3, 5)])
    assert stacked(floors('a = "1/4"'), cap(3, 6)).labels == ("a", "b", "c")
    none = compiled("none", "")
    assert (none.starts, none.blocks, none.one_table) == ((0,), [(0, 0)], False)


def test_tables_are_made_for_200_places_unless_told() -> None:
    policy = parse_policy(document("none", ""), "test")
    assert compile_tables(policy, {}).max_count == 200
    assert inspect.signature(compile_tables).parameters["max_count"].default == 200


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("equal", [Fraction(1, 3)] * 3),
        ("catalogue", [Fraction(6, 10), Fraction(3, 10), Fraction(1, 10)]),
    ],
)
def test_targets_of_exposure_are_equal_or_the_catalogues_and_none_for_an_empty_group(
    targets: str, expected: list[Fraction]
) -> None:
    body = f'[amortised]\nmethod = "p_mmf"\nstrength = "1/5"\ntargets = "{targets}"\n'
    policy = parse_policy(document("amortised", body), "test")
    groups = TableGroups(tuple(LABELS[:4]), np.array([6, 3, 0, 1]))
    evened = compile_tables(policy, {"t": groups}).amortisation
    assert evened is not None
    assert (evened.group_table, evened.labels) == ("t", tuple(LABELS[:4]))
    np.testing.assert_allclose(evened.targets[[0, 1, 3]], [float(one) for one in expected])
    assert evened.targets[2] == 0
    assert evened.targets.sum() == pytest.approx(1)


def test_a_group_table_that_the_data_lacks_is_told_by_its_key() -> None:
    policy = parse_policy(
        document("amortised", '[amortised]\nmethod = "p_mmf"\nstrength = "1/5"\n'), "test"
    )
    with pytest.raises(PolicyRefused) as refused:
        compile_tables(policy, {"other": TableGroups.of(["a"])})
    assert "group_table: got 't'; the data has other" in str(refused.value)
    with pytest.raises(PolicyRefused, match=r"stack\.1\.group_table: got 'v'; the data has t, u"):
        stacked(floors('a = "1/4"'), floors('a = "1/4"', "v"))
