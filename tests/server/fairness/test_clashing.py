"""Which rules are named where a catalogue cannot keep a policy: against every list of tiny ones, and
where a search proves nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from server.fairness import (
    CompiledPolicy,
    PrefixViolation,
    TableGroups,
    compile_tables,
    parse_policy,
)
from server.fairness import clashing as module
from server.fairness.clashing import Clash, clashing_rules
from server.fairness.feasible import CatalogueCheck, check_on_catalogue
from strategies.fairness import document

SIZE = 4
TABLES = {name: TableGroups.of([f"{name}0", f"{name}1"]) for name in "tuvw"}


def at(table: str) -> PrefixViolation:
    return PrefixViolation(2, f"{table}:{table}0", 1, 0)


def stack(rules: Iterable[tuple[str, str]], on_infeasible: str = "serve") -> CompiledPolicy:
    """Rules as (table, share of its group 0)."""
    body = "".join(
        f'[[stack]]\nkind = "floors"\ngroup_table = "{table}"\nfloors = {{{table}0 = "{share}"}}\n'
        for table, share in rules
    )
    text = document("stack", body, on_infeasible).replace('group_table = "t"\n', "", 1)
    return compile_tables(parse_policy(text, "test"), TABLES, SIZE)


def paths(*numbers: int) -> tuple[str, ...]:
    return tuple(f"stack.{number}.floors" for number in numbers)


def kept(shares: list[int], members: NDArray[np.int32]) -> bool:
    """Whether any list keeps floors of `shares` quarters of group 0 of each table, by trying all."""
    wanted = np.arange(1, SIZE + 1) * np.array(shares)[:, np.newaxis] // 4
    return any(
        (np.cumsum(members[:, places] == 0, axis=1) >= wanted).all()
        for places in map(list, itertools.permutations(range(members.shape[1]), SIZE))
    )


def by_hand(shares: list[int], members: NDArray[np.int32]) -> tuple[int, ...] | None:
    """The rule, or the first pair, or the three that no list keeps; None where one keeps all."""
    rules = range(len(shares))
    pairs = [(first, second) for second in rules for first in range(second)]
    for chosen in [*((rule,) for rule in rules), *pairs, tuple(rules)]:
        if not kept([shares[rule] for rule in chosen], members[list(chosen)]):
            return chosen
    return None


def test_the_rules_named_are_those_that_trying_every_list_names() -> None:
    seen = []
    rng = np.random.default_rng(5)
    for _ in range(150):
        members = rng.integers(0, 2, (3, 6)).astype(np.int32)
        shares = rng.integers(1, 4, 3).tolist()
        compiled = stack(zip("tuv", (f"{share}/4" for share in shares), strict=True))
        rows = members + np.array(compiled.starts, np.int32)[:, np.newaxis]
        whole = check_on_catalogue(compiled, rows, SIZE)
        found = clashing_rules(compiled, TABLES, rows, SIZE, whole)
        wanted = by_hand(shares, members)
        assert (found and found.rules) == (wanted and paths(*wanted))
        if found:
            assert found.unproven_pairs == ()
            assert found.bad is not None
            assert found.bad.group in compiled.labels
        seen.append(wanted and len(wanted))
    assert {None, 1, 2, 3} == set(seen)


def test_rules_of_one_table_that_its_supply_sets_against_each_other() -> None:
    text = document(
        "stack",
        '[[stack]]\nkind = "cap"\ngroup_table = "t"\ncap = {at_most = 1, within_first = 4, groups = ["t0"]}\n'
        '[[stack]]\nkind = "floors"\ngroup_table = "u"\nfloors = {u0 = "1/4"}\n'
        '[[stack]]\nkind = "cap"\ngroup_table = "t"\ncap = {at_most = 2, within_first = 4, groups = ["t1"]}\n',
        "refuse",
    ).replace('group_table = "t"\n', "", 1)  # fmt: skip
    compiled = compile_tables(parse_policy(text, "test"), TABLES, SIZE)
    rows = np.array([[0, 0, 0, 1, 1, 1], [2, 3, 2, 3, 2, 3]], np.int32)
    whole = check_on_catalogue(compiled, rows, SIZE)
    assert clashing_rules(compiled, TABLES, rows, SIZE, whole) == Clash(
        ("stack.0.cap", "stack.2.cap"), PrefixViolation(4, "t:t0", 1, 2), room=3
    )


def searched(
    monkeypatch: pytest.MonkeyPatch,
    whole: str,
    verdicts: dict[tuple[int, ...], str],
    tables: str = "tuv",
) -> Clash | None:
    """What is named where the search is told what to find for some of the rules, else a list."""

    def check(verdict: str, compiled: CompiledPolicy) -> CatalogueCheck:
        bad = None if verdict == "met" else PrefixViolation(2, compiled.labels[0], 1, 0)
        return CatalogueCheck(bad, verdict == "proven", (), ())

    def search(compiled: CompiledPolicy, rows: NDArray[np.int32], count: int) -> CatalogueCheck:
        own = tuple(rule.path for rule in compiled.policy.rules)
        return check(next((v for k, v in verdicts.items() if paths(*k) == own), "met"), compiled)

    monkeypatch.setattr(module, "check_on_catalogue", search)
    compiled = stack((table, "1/4") for table in tables)
    rows = np.zeros((len(tables), SIZE), np.int32)
    return clashing_rules(compiled, TABLES, rows, SIZE, check(whole, compiled))


@pytest.mark.parametrize(
    ("whole", "verdicts", "named"),
    [
        ("met", {(0, 1): "proven"}, None),
        ("not found", {}, Clash((), None)),
        ("not found", {(0, 2): "not found"}, Clash((), None, (paths(0, 2),))),
        # A proof for two of the rules is one for all.
        ("not found", {(0, 1): "not found", (1, 2): "proven"}, Clash(paths(1, 2), at("u"))),
        ("proven", {(0, 1): "not found"}, Clash(paths(0, 1, 2), at("t"), (paths(0, 1),))),
        ("proven", {(0, 2): "proven", (1, 2): "proven"}, Clash(paths(0, 2), at("t"))),
        ("proven", {(2,): "proven", (0, 1): "proven"}, Clash(paths(2), at("v"))),
    ],
)
def test_what_is_not_proven_is_not_named(
    monkeypatch: pytest.MonkeyPatch,
    whole: str,
    verdicts: dict[tuple[int, ...], str],
    named: Clash | None,
) -> None:
    assert searched(monkeypatch, whole, verdicts) == named


@pytest.mark.parametrize("whole", ["proven", "not found"])
def test_a_rule_that_three_others_do_not_need_is_left_out(
    monkeypatch: pytest.MonkeyPatch, whole: str
) -> None:
    verdicts = {(0, 1, 3): "proven", (0, 3): "not found", (2, 3): "not found"}
    assert searched(monkeypatch, whole, verdicts, "tuvw") == Clash(
        paths(0, 1, 3), at("t"), (paths(0, 3),)
    )


def test_two_rules_are_named_in_the_order_in_which_the_stack_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verdicts = {(0, 3): "proven", (1, 2): "proven"}
    assert searched(monkeypatch, "proven", verdicts, "tuvw") == Clash(paths(1, 2), at("u"))


def named(compiled: CompiledPolicy, members: list[list[int]]) -> Clash | None:
    """What is named for items of these groups, a row for each table."""
    rows = np.array(members, np.int32) + np.array(compiled.starts, np.int32)[:, np.newaxis]
    return clashing_rules(compiled, TABLES, rows, SIZE, check_on_catalogue(compiled, rows, SIZE))


def test_one_rule_clashes_with_no_other_and_two_with_each_other() -> None:
    alone = parse_policy(document("floors", '[floors]\nt0 = "1/1"\n'), "test")
    assert named(compile_tables(alone, TABLES, SIZE), [[0, 1, 1, 1, 1, 1]]) is None
    both = stack([("t", "1/1"), ("u", "1/4")])
    found = named(both, [[0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0]])
    assert found is not None
    assert found.rules == paths(0, 1)


def test_the_group_told_is_that_of_its_own_table() -> None:
    """Of the first and the last table of three, which only together cannot be kept."""
    three = stack([("t", "1/1"), ("u", "1/4"), ("v", "1/1")])
    found = named(three, [[0, 0, 0, 0, 1, 1], [0] * 6, [1, 1, 0, 0, 0, 0]])
    assert found is not None
    assert found.bad is not None
    assert found.rules == paths(0, 2)
    assert found.bad.group in ("t:t0", "v:v0")


def test_the_group_told_is_not_only_the_first_of_its_table() -> None:
    text = document(
        "stack",
        '[[stack]]\nkind = "floors"\ngroup_table = "t"\nfloors = {t0 = "1/4"}\n'
        '[[stack]]\nkind = "floors"\ngroup_table = "u"\nfloors = {u1 = "1/2"}\n',
    ).replace('group_table = "t"\n', "", 1)
    compiled = compile_tables(parse_policy(text, "test"), TABLES, SIZE)
    assert named(compiled, [[0, 1] * 3, [0] * 6]) == Clash(
        ("stack.1.floors",), PrefixViolation(2, "u:u1", 1, 0)
    )
