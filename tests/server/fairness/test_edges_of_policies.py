"""Where a policy document stops being sense: each refusal with its path, and its nearest sense."""

from __future__ import annotations

import pytest

from server.errors import PolicyRefused
from server.fairness import Policy, parse_policy
from server.fairness.policy_sections import MAX_DENOMINATOR, MAX_GROUPS, MAX_RULES, MAX_TABLES

HEAD = 'name = "p"\nversion = "1"\nreason = "made for a test"\n'
CAP = "cap = {at_most = 2, within_first = 4}"
CALIBRATED = 'calibrated = {at_least = "1/2", at_most = "3/2"}'
EVENED = 'amortised = {method = "p_mmf", strength = "1/5"}'
MMR = 'diverse = {method = "mmr", trade_off = "1/5"}'
FAIR = 'fa_ir = {alpha = "1/10", within_first = 9, shares = {a = "1/2"}}'


def one(kind: str, section: str, table: str = "t") -> str:
    table = f'group_table = "{table}"\n' if table else ""
    return f'{HEAD}kind = "{kind}"\n{table}{section}\n'


def stack(*rules: tuple[str, str, str]) -> str:
    """Rules as (kind, group table, section)."""
    parts = (
        f'[[stack]]\nkind = "{kind}"\n'
        + (f'group_table = "{table}"\n' if table else "")
        + f"{section}\n"
        for kind, table, section in rules
    )
    return f'{HEAD}kind = "stack"\n' + "".join(parts)


def read(text: str) -> Policy:
    return parse_policy(text, "p.toml")


def refusal(text: str) -> tuple[str, str]:
    with pytest.raises(PolicyRefused) as refused:
        read(text)
    field, problem = str(refused.value).removeprefix("policy refused: p.toml: ").split(": ", 1)
    return field, problem


def cap_of(table: str = "t") -> tuple[str, str, str]:
    return "cap", table, CAP


CALIBRATED_OF_T = ("calibrated", "t", CALIBRATED)
EVENED_OF_T = ("amortised", "t", EVENED)
VARIED = ("diverse", "", MMR)


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        (one("none", ""), "group_table", "got 't'; kind 'none' needs no group table"),
        (one("cap", CAP, ""), "group_table", "got ''; kind 'cap' needs the name of a group table"),
        (one("window", 'window = {a = "1/2"}', ""), "group_table",
         "got ''; kind 'window' needs the name of a group table"),
        (one("diverse", MMR), "group_table", "got 't'; kind 'diverse' needs no group table"),
        (stack(cap_of("")), "stack", "got 1; allowed: 2 to 8 rules; a policy of one rule is of that rule's kind"),
        (stack(("diverse", "t", MMR), cap_of()), "stack.0.group_table",
         "got 't'; kind 'diverse' needs no group table"),
        (stack(cap_of(), cap_of("")), "stack.1.group_table",
         "got ''; kind 'cap' needs the name of a group table"),
        (one("cap", ""), "cap", "is missing: kind 'cap' needs it"),
        (one("cap", f"{CAP}\n{CALIBRATED}"), "calibrated", "does not belong to kind 'cap'"),
        (one("calibrated", f"{CAP}\n{CALIBRATED}"), "cap", "does not belong to kind 'calibrated'"),
        (one("none", CAP, ""), "cap", "does not belong to kind 'none'"),
        (stack(cap_of(), ("cap", "t", f"{CAP}\n{CALIBRATED}")), "stack.1.calibrated",
         "does not belong to kind 'cap'"),
        (stack(("cap", "t", f"{CAP}\n{CALIBRATED}"), cap_of()), "stack.0.calibrated",
         "does not belong to kind 'cap'"),
        (one("floors", 'floors = {a = "1/2", b = "51/100"}'), "floors",
         "the proportions add up to 101/100, allowed: at most 1"),
        (one("cap", "cap = {at_most = 5, within_first = 4}"), "cap.at_most",
         "got 5; above within_first (4) it bounds nothing"),
        (one("calibrated", CALIBRATED.replace("3/2", "99/100")), "calibrated.at_most",
         'got "99/100"; allowed: at least "1/1", or no list is full'),
        (one("diverse", MMR.replace("1/5", "5/5"), ""), "diverse.trade_off",
         "got 1; allowed: below 1, or scores count nothing"),
        (one("fa_ir", FAIR.replace("1/10", "0/3")), "fa_ir.alpha",
         'got "0/3"; allowed: a fraction between 0 and 1, such as "1/10"'),
        (one("fa_ir", FAIR.replace("1/10", "7/7")), "fa_ir.alpha",
         'got "7/7"; allowed: a fraction between 0 and 1, such as "1/10"'),
        (stack(EVENED_OF_T, ("amortised", "u", EVENED)), "stack.1.amortised",
         "is a second 'amortised' rule, allowed: one"),
        (stack(VARIED, cap_of(), VARIED), "stack.2.diverse",
         "is a second 'diverse' rule, allowed: one"),
        (stack(EVENED_OF_T, VARIED, EVENED_OF_T), "stack.2.amortised",
         "is a second 'amortised' rule, allowed: one"),
        (stack(cap_of(), VARIED), "stack.1.diverse",
         "comes after a rule that bounds the list and would undo it; put it first"),
        (stack(EVENED_OF_T, cap_of(), cap_of("u"), VARIED), "stack.3.diverse",
         "comes after a rule that bounds the list and would undo it; put it first"),
        (stack(VARIED, EVENED_OF_T), "stack",
         "diverse comes before amortised; put amortised first"),
        (stack(VARIED, EVENED_OF_T, cap_of()), "stack",
         "diverse comes before amortised; put amortised first"),
        (stack(*(cap_of(table) for table in "tuvwx")), "stack",
         "bounds 5 group tables, allowed: 4"),
        (stack(cap_of(), CALIBRATED_OF_T), "stack.1.calibrated",
         "bounds group table 't' as stack.0.cap does; a table that is calibrated to each user takes "
         "no other bounds"),
        (stack(CALIBRATED_OF_T, cap_of("u"), cap_of()), "stack.0.calibrated",
         "bounds group table 't' as stack.2.cap does; a table that is calibrated to each user takes "
         "no other bounds"),
        (stack(CALIBRATED_OF_T, CALIBRATED_OF_T), "stack.0.calibrated",
         "bounds group table 't' as stack.1.calibrated does; a table that is calibrated to each "
         "user takes no other bounds"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_at_its_place(text: str, field: str, problem: str) -> None:
    assert refusal(text) == (field, problem)


@pytest.mark.parametrize(
    "text",
    [
        one("none", "", ""),
        one("floors", 'floors = {a = "1/2", b = "50/100"}'),
        one("cap", "cap = {at_most = 4, within_first = 4}"),
        one("calibrated", CALIBRATED.replace("3/2", "1/1")),
        one("diverse", MMR.replace("1/5", "99/100"), ""),
        one("diverse", MMR.replace("1/5", "0/5"), ""),
        one("fa_ir", FAIR.replace("1/10", "1/10000")),
        one("fa_ir", FAIR.replace("1/10", "9999/10000")),
        stack(EVENED_OF_T, VARIED),
        stack(EVENED_OF_T, VARIED, cap_of(), cap_of("u")),
        stack(VARIED, cap_of(), cap_of()),
        stack(*(cap_of(table) for table in "tuvw"), cap_of(), cap_of(), cap_of(), cap_of()),
        stack(CALIBRATED_OF_T, cap_of("s"), cap_of("u")),
        stack(cap_of("u"), cap_of("s"), CALIBRATED_OF_T),
        # What evens out exposure bounds no list.
        stack(EVENED_OF_T, CALIBRATED_OF_T),
    ],
)
def test_what_is_next_to_it_makes_sense(text: str) -> None:
    assert read(text).name == "p"


def test_a_policy_tells_its_tables_and_the_rules_that_shape() -> None:
    stacked = read(stack(EVENED_OF_T, VARIED, cap_of("v"), cap_of("u"), cap_of("v")))
    assert (stacked.tables, stacked.group_table) == (("v", "u"), "v,u")
    assert [rule.path for rule in stacked.bounds] == ["stack.2.cap", "stack.3.cap", "stack.4.cap"]
    evened, varied = stacked.shaping("amortised"), stacked.shaping("diverse")
    assert (evened and evened.path, varied and varied.path) == (
        "stack.0.amortised",
        "stack.1.diverse",
    )
    # Where nothing is bounded, the table whose exposure is evened out is the list's.
    assert read(stack(EVENED_OF_T, VARIED)).tables == ("t",)
    plain = read(one("diverse", MMR, ""))
    assert (plain.tables, plain.shaping("amortised")) == ((), None)
    assert read(one("none", "", "")).tables == ()
    sums = read(HEAD + 'kind = "intersection"\n[intersection]\nu = {a = "1/2"}\nt = {b = "1/3"}\n')
    assert [(rule.kind, rule.path, rule.group_table) for rule in sums.rules] == [
        ("floors", "intersection.u", "u"),
        ("floors", "intersection.t", "t"),
    ]


def shares(count: int) -> str:
    return "floors = {" + ", ".join(f'g{n} = "0/1"' for n in range(count)) + "}"


def table_floors(count: int) -> str:
    tables = "".join(f't{n} = {{a = "1/2"}}\n' for n in range(count))
    return f'{HEAD}kind = "intersection"\n[intersection]\n{tables}'


@pytest.mark.parametrize(
    ("text", "within"),
    [
        (one("floors", f'floors = {{a = "1/{MAX_DENOMINATOR}"}}'), True),
        (one("floors", f'floors = {{a = "1/{MAX_DENOMINATOR + 1}"}}'), False),
        (one("floors", 'floors = {a = "1/1"}'), True),
        (one("floors", 'floors = {a = "1/0"}'), False),
        (one("floors", 'floors = {a = "2/1"}'), False),
        (one("calibrated", CALIBRATED.replace("3/2", "10/1")), True),
        (one("calibrated", CALIBRATED.replace("3/2", "101/10")), False),
        (one("floors", shares(1)), True),
        (one("floors", shares(0)), False),
        (one("floors", shares(MAX_GROUPS)), True),
        (one("floors", shares(MAX_GROUPS + 1)), False),
        (one("cap", CAP.replace("2", "1")), True),
        (one("cap", CAP.replace("2", "0")), False),
        (one("cap", CAP.replace("4", "1000")), True),
        (one("cap", CAP.replace("4", "1001")), False),
        (one("cap", CAP.replace("4}", '4, groups = ["a"]}')), True),
        (one("cap", CAP.replace("4}", "4, groups = []}")), False),
        (one("cap", CAP.replace("4}", '4, groups = ["a", "b"]}')), True),
        (one("cap", CAP.replace("4}", '4, groups = ["a", "a"]}')), False),
        (one("fa_ir", FAIR.replace("= 9", "= 1")), True),
        (one("fa_ir", FAIR.replace("= 9", "= 0")), False),
        (one("fa_ir", FAIR.replace("= 9", "= 400")), True),
        (one("fa_ir", FAIR.replace("= 9", "= 401")), False),
        (one("calibrated", CALIBRATED.replace("}", ", smoothing = 0}")), True),
        (one("calibrated", CALIBRATED.replace("}", ", smoothing = -1}")), False),
        (one("calibrated", CALIBRATED.replace("}", ", smoothing = 10000}")), True),
        (one("calibrated", CALIBRATED.replace("}", ", smoothing = 10001}")), False),
        (one("cap", CAP.replace("2", "2.0")), False),
        (one("fa_ir", FAIR.replace("= 9", "= 9.0")), False),
        (one("fa_ir", FAIR.replace("= 9", '= 9, adjusted = "true"')), False),
        (one("calibrated", CALIBRATED.replace("}", ", smoothing = 5.0}")), False),
        (one("amortised", EVENED.replace("}", ", lists = 5.0}")), False),
        (one("amortised", EVENED.replace("}", ", lists = 1}")), True),
        (one("amortised", EVENED.replace("}", ", lists = 0}")), False),
        (one("amortised", EVENED.replace("}", ", lists = 1000000}")), True),
        (one("amortised", EVENED.replace("}", ", lists = 1000001}")), False),
        (one("amortised", EVENED.replace("1/5", "10/1")), True),
        (one("amortised", EVENED.replace("1/5", "11/1")), False),
        (one("cap", CAP, "t" * 64), True),
        (one("cap", CAP, "t" * 65), False),
        (one("cap", CAP).replace('version = "1"', f'version = "{"1" * 64}"'), True),
        (one("cap", CAP).replace('version = "1"', f'version = "{"1" * 65}"'), False),
        (one("cap", CAP).replace('version = "1"', 'version = ""'), False),
        (one("cap", CAP).replace("made for a test", "x" * 10), True),
        (one("cap", CAP).replace("made for a test", "x" * 9), False),
        (one("cap", CAP).replace("made for a test", "x" * 1000), True),
        (one("cap", CAP).replace("made for a test", "x" * 1001), False),
        (one("cap", CAP).replace('"p"', f'"{"p" * 64}"'), True),
        (one("cap", CAP).replace('"p"', f'"{"p" * 65}"'), False),
        (table_floors(1), False),
        (table_floors(2), True),
        (table_floors(MAX_TABLES), True),
        (table_floors(MAX_TABLES + 1), False),
        (stack(*(cap_of() for _ in range(MAX_RULES))), True),
        (stack(*(cap_of() for _ in range(MAX_RULES + 1))), False),
    ],
)  # fmt: skip
def test_ranges_end_where_they_are_said_to(text: str, within: bool) -> None:
    if within:
        assert read(text).name.startswith("p")
    else:
        refusal(text)


def test_limits_are_those_of_the_documents() -> None:
    """docs/policies.md and the contract state them."""
    assert (MAX_DENOMINATOR, MAX_GROUPS, MAX_RULES, MAX_TABLES) == (10_000, 1000, 8, 4)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.25", 'got 0.25; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"; here "1/4"'),
        ("0", 'got 0; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"; here "0/1"'),
        ("1", 'got 1; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"; here "1/1"'),
        ("0.3333", 'got 0.3333; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"; here "1/3"'),
        ("0.009901", 'got 0.009901; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"; here "1/100"'),
        ("2", 'got 2; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"'),
        ("-1", 'got -1; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"'),
        ("true", 'got True; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"'),
        ('"0.3"', "got '0.3'; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as \"1/5\"; here \"3/10\""),
        ('"30%"', "got '30%'; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as \"1/5\"; here \"3/10\""),
        ('"100 %"', "got '100 %'; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as \"1/5\"; here \"1/1\""),
        ('"101%"', "got '101%'; allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as \"1/5\""),
    ],
)  # fmt: skip
def test_a_number_is_told_which_fraction_it_is(value: str, words: str) -> None:
    assert refusal(one("floors", f"floors = {{a = {value}}}")) == ("floors.a", words)


def test_defaults_are_those_of_the_documents() -> None:
    policy = read(one("amortised", EVENED))
    assert (policy.on_infeasible, policy.discount) == ("serve", "log2")
    shaped = policy.rules[0].section
    assert (getattr(shaped, "lists", None), getattr(shaped, "targets", None)) == (100, "equal")
    calibrated = read(one("calibrated", CALIBRATED)).rules[0].section
    assert getattr(calibrated, "smoothing", None) == 10
    assert getattr(read(one("fa_ir", FAIR)).rules[0].section, "adjusted", None) is True
