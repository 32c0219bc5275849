"""What a catalogue allows a policy: rules that ask for nothing, demand beside supply, what is broken."""

from __future__ import annotations

import numpy as np
import pytest

from server.fairness import CompiledPolicy, parse_policy
from server.fairness.compile import TableGroups, compile_tables
from server.fairness.feasible import check_on_catalogue
from strategies.fairness import document

# Table t: 6 items of a, 3 of b, 1 of c. Table u: 5 each of x and y.
T = [0] * 6 + [1] * 3 + [2]
U = [0, 1] * 5
TABLES = {
    "t": TableGroups(("a", "b", "c"), np.array([6, 3, 1])),
    "u": TableGroups(("x", "y"), np.array([5, 5])),
}


def made(text: str) -> tuple[CompiledPolicy, np.ndarray[tuple[int, int], np.dtype[np.int32]]]:
    compiled = compile_tables(parse_policy(text, "test"), TABLES, 20)
    own = {"t": T, "u": U}
    rows = [
        np.array(own[table]) + start
        for table, start in zip(compiled.policy.tables, compiled.starts, strict=True)
    ]
    return compiled, np.array(rows, np.int32).reshape(len(rows), len(T))


def idle(text: str, count: int = 10) -> tuple[str, ...]:
    return check_on_catalogue(*made(text), count).idle


def stack(*rules: str) -> str:
    head = 'name = "p"\nversion = "1"\nkind = "stack"\nreason = "Rules together."\n'
    return head + "".join(f"[[stack]]\n{rule}\n" for rule in rules)


FLOOR_T = 'kind = "floors"\ngroup_table = "t"\nfloors = {a = "1/4"}'


@pytest.mark.parametrize(("strength", "asks"), [("0/1", False), ("1/5", True), ("1/1", True)])
def test_exposure_without_strength_adds_nothing(strength: str, asks: bool) -> None:
    body = f'[amortised]\nmethod = "p_mmf"\nstrength = "{strength}"\n'
    told = idle(document("amortised", body))
    assert told == (() if asks else ("amortised.strength: 0 adds nothing to any score",))


@pytest.mark.parametrize(("trade_off", "asks"), [("0/1", False), ("1/5", True), ("9/10", True)])
def test_diversity_without_a_trade_off_is_plain_order(trade_off: str, asks: bool) -> None:
    rule = f'kind = "diverse"\ndiverse = {{method = "mmr", trade_off = "{trade_off}"}}'
    told = idle(stack(rule, FLOOR_T))
    assert told == (() if asks else ("stack.0.diverse.trade_off: 0 is plain score order",))


def test_a_floor_that_is_less_than_one_place_asks_for_nothing() -> None:
    assert idle(document("floors", '[floors]\na = "1/11"\nb = "1/5"\n')) == (
        "floors.a: 1/11 of 10 places is less than one",
    )
    assert idle(document("floors", '[floors]\na = "1/10"\n')) == ()


def test_a_window_always_has_a_ceiling() -> None:
    assert idle(document("window", '[window]\na = "1/20"\n')) == ()


def test_of_fa_ir_chance_alone_may_explain_a_list_without_any() -> None:
    body = '[fa_ir]\nalpha = "1/100"\nwithin_first = 10\n[fa_ir.shares]\nb = "1/10"\n'
    [told] = idle(document("fa_ir", body))
    assert told.startswith("fa_ir.b: chance alone explains a list without any of it")
    asks = '[fa_ir]\nalpha = "1/10"\nwithin_first = 10\n[fa_ir.shares]\na = "1/2"\n'
    assert idle(document("fa_ir", asks)) == ()


@pytest.mark.parametrize(("at_most", "asks"), [(9, True), (10, False), (12, False)])
def test_a_cap_that_no_list_reaches_asks_for_nothing(at_most: int, asks: bool) -> None:
    told = idle(document("cap", f"[cap]\nat_most = {at_most}\nwithin_first = 15\n"))
    assert told == (() if asks else (f"cap: {at_most} is no less than a list of 10 holds",))


def test_rules_of_several_tables_are_read_by_their_own_groups() -> None:
    floor_u = 'kind = "floors"\ngroup_table = "u"\nfloors = {y = "1/30"}'
    assert idle(stack(FLOOR_T, floor_u)) == (
        "stack.1.floors.y: 1/30 of 10 places is less than one",
    )
    small = FLOOR_T.replace("1/4", "1/30")
    assert idle(stack(small, floor_u.replace("1/30", "1/4"))) == (
        "stack.0.floors.a: 1/30 of 10 places is less than one",
    )


def test_rules_after_a_calibrated_one_are_looked_at() -> None:
    own = 'kind = "calibrated"\ngroup_table = "u"\n'
    own += 'calibrated = {at_least = "1/2", at_most = "3/2", smoothing = 10}'
    assert idle(stack(own, FLOOR_T.replace("1/4", "1/30"))) == (
        "stack.1.floors.a: 1/30 of 10 places is less than one",
    )


def test_a_calibrated_rule_is_the_users_and_its_demand_that_of_an_unknown_user() -> None:
    body = '[calibrated]\nat_least = "1/2"\nat_most = "3/2"\nsmoothing = 10\n'
    compiled, rows = made(document("calibrated", body))
    found = check_on_catalogue(compiled, rows, 10)
    unknown = compiled.for_user({})
    assert (found.idle, found.met) == ((), True)
    assert [(one.group, one.items) for one in found.groups] == [("a", 6), ("b", 3), ("c", 1)]
    demands = [one.demands[-1] for one in found.groups]
    assert [one.least for one in demands] == unknown.floors[:, 10].tolist() == [3, 1, 0]
    assert [one.most for one in demands] == unknown.ceilings[:, 10].tolist()


def test_demands_are_told_where_rules_end_and_for_the_whole_list() -> None:
    ends = 'kind = "cap"\ngroup_table = "t"\ncap = {at_most = 2, within_first = '
    found = check_on_catalogue(*made(stack(ends + "4}", ends + "15}")), 10)
    assert [demand.prefix for demand in found.groups[0].demands] == [4, 10]
    fair = '[fa_ir]\nalpha = "1/10"\nwithin_first = 6\n[fa_ir.shares]\na = "1/2"\n'
    found = check_on_catalogue(*made(document("fa_ir", fair)), 10)
    assert [demand.prefix for demand in found.groups[0].demands] == [6, 10]
    assert found.groups[0].demands[1] == (10, 1, 10)


def test_ceilings_that_leave_places_empty_are_told_by_how_many_they_fill() -> None:
    """Of 6, 3 and 1 items at most 4 each make 8."""
    cap = "[cap]\nat_most = 4\nwithin_first = 9\n"
    found = check_on_catalogue(*made(document("cap", cap)), 10)
    assert found.bad is not None
    assert (found.bad.prefix, found.room) == (9, 8)
    assert check_on_catalogue(*made(document("cap", cap)), 8).room is None
    # A floor without supply leaves no place empty.
    found = check_on_catalogue(*made(document("floors", '[floors]\nc = "1/2"\n')), 10)
    assert (found.met, found.room) == (False, None)


@pytest.mark.parametrize("group", ["x", "y"])
def test_ceilings_of_another_table_fill_no_places_of_this(group: str) -> None:
    cap = f'cap = {{at_most = 3, within_first = 9, groups = ["{group}"]}}'
    rule = f'kind = "cap"\ngroup_table = "u"\n{cap}'
    found = check_on_catalogue(*made(stack(FLOOR_T, rule)), 10)
    assert found.bad is not None
    assert (found.bad.group, found.room) == (f"u:{group}", 8)


def test_a_window_of_nothing_shuts_its_group_out() -> None:
    shares = '[window]\na = "0/7"\nb = "1/3"\n'
    assert check_on_catalogue(*made(document("window", shares)), 3).shut_out == ("window.a",)
    floors = '[floors]\na = "0/7"\nb = "1/3"\n'
    assert check_on_catalogue(*made(document("floors", floors)), 3).shut_out == ()


def test_what_the_catalogue_cannot_give_is_told_and_proven_also_of_a_policy_that_refuses() -> None:
    for answer in ("serve", "refuse"):
        found = check_on_catalogue(*made(document("floors", '[floors]\nc = "1/5"\n', answer)), 10)
        assert (found.met, found.proven) == (False, True)
        assert found.bad is not None
        assert (found.bad.prefix, found.bad.group, found.bad.needed) == (10, "c", 2)
