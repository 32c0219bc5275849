"""Policy documents: what they compile to, and what is refused with the key's path."""

from __future__ import annotations

import hashlib
import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from server.errors import PolicyRefused
from server.fairness import TableGroups, compile_policy, compile_tables, parse_policy
from server.fairness.policy_sections import HEAD as HEAD_KEYS
from server.fairness.policy_sections import MAX_RULES, SECTIONS, Document, RuleKind, StackRule
from strategies.fairness import LABELS, compiled, document

SHOP = sorted((Path(__file__).parents[3] / "training" / "policies").glob("*.toml"))


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("not toml", "document", ""),
        (document("floors", ""), "floors", "is missing"),
        (document("none", '[floors]\na = "1/2"\n'), "floors", "does not belong"),
        (document("floors", "[floors]\na = 0.29\n"), "floors.a", 'got 0.29'),
        (document("floors", "[floors]\na = 0.29\n"), "floors.a", 'here "29/100"'),
        (document("floors", "[floors]\na = 1\n"), "floors.a", 'such as "1/5"'),
        (document("floors", "").replace("version", "verzion"), "verzion", "mean 'version'"),
        (document("none", "").replace('version = "1"', ""), "version", "is missing"),
        (document("none", "").replace('"serve"', '"ignore"'), "on_infeasible", "'ignore'"),
        (document("floors", '[floors]\na = "3/2"\n'), "floors.a", "'3/2'"),
        (document("floors", '[floors]\na = "1/0"\n'), "floors.a", "'1/0'"),
        (document("floors", '[floors]\na = "2/3"\nb = "1/2"\n'), "floors", "7/6"),
        (document("window", '[window]\na = "2/3"\nb = "1/2"\n'), "window", "7/6"),
        (document("cap", "[cap]\nat_most = 3\nwithin_frist = 2\n"), "cap.within_frist",
         "did you mean 'within_first'"),
        (document("cap", "[cap]\nat_most = 5\nwithin_first = 2\n"), "cap.at_most", "bounds nothing"),
        (document("cap", "[cap]\nat_most = 0\nwithin_first = 2\n"), "cap.at_most", "got 0"),
        (document("fairest", ""), "kind", "'fairest'"),
        (document("none", "").replace("made for a test", "short"), "reason", "'short'"),
        (document("none", "").replace('"p"', '"Not A Name"'), "name", "'Not A Name'"),
    ],
)  # fmt: skip
def test_a_document_that_makes_no_sense_is_refused_with_the_keys_path(
    text: str, key: str, words: str
) -> None:
    with pytest.raises(PolicyRefused) as refused:
        parse_policy(text, "shop.toml")
    assert refused.value.key.startswith(key)
    assert "shop.toml" in str(refused.value)
    assert words in str(refused.value)


HEAD = document("none", "").replace('kind = "none"\n', "")
ABOVE = "keys of the policy stand above the first [section]"
FRACTION = 'allowed: an integer fraction p/q from 0 to 1, q from 1 to 10000, in text, such as "1/5"'
FACTOR = FRACTION.replace("to 1,", "to 10,")


def whole(kind: str, body: str) -> str:
    return f'{HEAD}kind = "{kind}"\n{body}'


def stacked(rule: str) -> str:
    return whole("stack", f'[[stack]]\nkind = "cap"\n[[stack]]\n{rule}')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (whole("floor", ""), "kind: got 'floor'; did you mean 'floors'? allowed: none, floors, "
         "window, fa_ir, cap, calibrated, intersection, amortised, diverse, stack"),
        (whole("best", ""), "kind: got 'best'; allowed: none, floors, "),
        (stacked('kind = "flors"'), "stack.1.kind: got 'flors'; did you mean 'floors'? allowed: "
         "floors, window, fa_ir, cap, calibrated, amortised, diverse"),
        (stacked('kind = "intersection"\n[stack.intersection.a]\nx = "1/5"\n'),
         "stack.1.kind: got 'intersection'; a stack has no intersection: give one floors rule for "
         "each table"),
        (stacked('kind = "stack"\n[[stack.stack]]\nkind = "cap"\n'),
         "stack.1.kind: got 'stack'; a stack holds no stack: give its rules one by one"),
        (stacked('kind = "none"'), "stack.1.kind: got 'none'; a stack has no rule that does nothing"),
        (stacked('kind = "cap"\nintersection = 3'),
         "stack.1.intersection: a stack has no intersection: give one floors rule"),
        (whole("stack", '[[stack]]\nkind = "cap"\ngroup_table = "t"\ncap = {at_most = 1, '
               "within_first = 2}\n"), "stack: got 1; allowed: 2 to 8 rules; a policy of one rule"),
        (whole("stack", '[stack]\nkind = "cap"\n'),
         "stack: got one section; allowed: 2 to 8 rules, each under [[stack]]"),
        (whole("stack", "stack = [1, 2]"), "stack.0: got 1; allowed: a rule of group_table, floors"),
        (whole("intersection", '[intersection.a]\nx = "1/2"\n'),
         "intersection: got 1; allowed: 2 to 4 group tables; floors of one table are of kind"),
        (whole("intersection", "intersection = {a = 1, b = 2}"),
         'intersection.a: got 1; allowed: a section of GROUP = "1/5"'),
        (HEAD.replace('"1"', "1"), 'version: got 1; allowed: a text, such as "1"'),
        (HEAD.replace('"1"', "true"), "version: got True; allowed: a text"),
        (HEAD.replace('"1"', '""'), "version: got ''; allowed: 1 to 64 characters"),
        (HEAD.replace('"p"', '"-P"'),
         "name: got '-P'; allowed: 1 to 64 of a-z, 0-9 and -, the first of them no -"),
        (whole("none", "").replace("made for a test", "short"),
         "reason: got 'short'; allowed: 10 to 1000 characters"),
        *((whole("none", "").replace("made for a test", blanks),
           f"reason: got {told}; allowed: words that say why, not blanks or signs alone")
          for blanks, told in ((" " * 10, repr(" " * 10)), (r"\t\n" * 5, repr("\t\n" * 5)),
                               ("\u3000" * 12, repr("\u3000" * 12)), (". " * 5, repr(". " * 5)))),
        *((whole("floors", f'[floors]\na = "{digits}"\n'), f"floors.a: got '{digits}'; {FRACTION}")
          for digits in ("\uff11/\uff15", "1/\uff15", "\u0661/\u0665", "\u00b9/5", "1\u20445")),
        (whole("calibrated", '[calibrated]\nat_least = "1/2"\nat_most = "\uff12/\uff11"\n'),
         f"calibrated.at_most: got '\uff12/\uff11'; {FACTOR}"),
        (whole("none", f'group_table = "{"x" * 65}"\n'),
         f"group_table: got '{'x' * 65}'; allowed: 0 to 64 characters"),
        (whole("none", 'discount = "log"'), "discount: got 'log'; did you mean 'log2'? allowed: "
         "log2, reciprocal, top_heavy"),
        (whole("floors", "floors = 3"), 'floors: got 3; allowed: a section of GROUP = "1/5"'),
        (whole("floors", "[floors]"), 'floors: got 0; allowed: 1 to 1000 groups, each GROUP = '),
        (whole("floors", '[floors]\na = ["1"]'), f"floors.a: got ['1']; {FRACTION}"),
        *((whole("floors", f'[floors]\na = {text}'), f"floors.a: got {seen}; {FRACTION}{meant}")
          for text, seen, meant in (
              ('"10%"', "'10%'", '; here "1/10"'), ('"12.5 %"', "'12.5 %'", '; here "1/8"'),
              ('"0.1"', "'0.1'", '; here "1/10"'), ('"1"', "'1'", '; here "1/1"'),
              ('"1/20000"', "'1/20000'", '; here "0/1"'), ('"1/0"', "'1/0'", ""),
              ('"3/2"', "'3/2'", ""), ('"1e999999999"', "'1e999999999'", ""), ("nan", "nan", ""),
              ("inf", "inf", ""), ('"a tenth"', "'a tenth'", ""), ("-0.5", "-0.5", ""))),
        (whole("floors", "[cap]\nat_most = 1\nwithin_first = 2\n"),
         "floors: is missing: kind 'floors' needs it; there is [cap], of kind 'cap'"),
        ("", "document: is empty"),
        ("# nothing yet\n", "document: is empty"),
        (whole("floors", "[floors]\na = true"), f"floors.a: got True; {FRACTION}"),
        (whole("cap", "cap = 3"),
         "cap: got 3; allowed: a section of at_most, within_first, groups"),
        (whole("cap", '[cap]\nat_most = "3"\nwithin_first = 9'),
         "cap.at_most: got '3'; allowed: a whole number from 1 to 1000"),
        (whole("cap", '[cap]\nat_most = 3\nwithin_first = 9\ngroups = "a"'),
         "cap.groups: got 'a'; allowed: a list of groups, such as "),
        (whole("cap", "[cap]\nat_most = 3\nwithin_first = 9\ngroups = []"),
         "cap.groups: got 0; allowed: 1 to 1000 groups; without this key all are meant"),
        (whole("cap", '[cap]\nat_most = 3\nwithin_first = 9\ngroups = ["b", "a", "a"]'),
         "cap.groups: got ['b', 'a', 'a']; 'a' stands in it twice; allowed: each group once"),
        (whole("cap", "[cap]\nat_most = 3\nwithin_first = 9\ngroups = [1]"),
         'cap.groups.0: got 1; allowed: a text, such as "1"'),
        (whole("amortised", '[amortised]\nmethod = "pmmf"\nstrength = "1/5"'),
         "amortised.method: got 'pmmf'; did you mean 'p_mmf'? allowed: p_mmf, fair_co"),
        (whole("amortised", '[amortised]\nmethod = "p_mmf"\nstrength = 0.5'),
         f'amortised.strength: got 0.5; {FACTOR}; here "1/2"'),
        (whole("amortised", '[amortised]\nmethod = "p_mmf"\nstrength = 11'),
         f"amortised.strength: got 11; {FACTOR}"),
        (whole("amortised", '[amortised]\nmethod = "p_mmf"\nstrength = "1/5"\nlists = 0'),
         "amortised.lists: got 0; allowed: a whole number from 1 to 1000000"),
        (whole("fa_ir", '[fa_ir]\nalpha = "1/10"\nwithin_first = 401'),
         "fa_ir.within_first: got 401; allowed: a whole number from 1 to 400"),
        (whole("fa_ir", '[fa_ir]\nalpha = "1/10"\nwithin_first = 9\nadjusted = "yes"'),
         "fa_ir.adjusted: got 'yes'; allowed: true or false"),
        (whole("floors", '[floors]\na = "1/5"\nreason = "Small ones"'),
         f"floors.reason: got 'Small ones'; {ABOVE}; {FRACTION}"),
        (whole("floors", '[floors]\ncap = "0.5"'), f"floors.cap: got '0.5'; {FRACTION}"),
        (whole("intersection", '[intersection.a]\nx = "1/5"\n[intersection]\nreason = "Many"'),
         f"intersection.reason: got 'Many'; {ABOVE}; allowed: a section"),
        (whole("cap", '[cap]\nat_most = 3\nwithin_first = 9\nreason = "Many"'),
         f"cap.reason: {ABOVE}"),
        (stacked('kind = "cap"\n[stack.cap]\nat_most = 3\ngroup_table = "t"'),
         "stack.1.cap.group_table: keys of a rule stand above its section"),
        (stacked('kind = "cap"\ndiscount = "log2"'), f"stack.1.discount: {ABOVE}"),
        (whole("cap", "at_most = 3"),
         "at_most: unknown key here; it belongs in [cap] or [calibrated]"),
        (whole("cap", "[cap]\nqqq = 3"), "cap.qqq: unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_the_documents_own_words(text: str, told: str) -> None:
    with pytest.raises(PolicyRefused) as refused:
        parse_policy(text, "test")
    words = str(refused.value).removeprefix("policy refused: test: ")
    assert words.startswith(told)
    assert not re.search("Input|should|Dictionary|Tuple|validation|literal", words)


def test_a_group_that_the_table_lacks_is_refused_with_the_tables_groups() -> None:
    parsed = parse_policy(document("floors", '[floors]\nz = "1/2"\n'), "test")
    with pytest.raises(PolicyRefused, match=r"floors\.z.*it has: a, b"):
        compile_policy(parsed, LABELS[:2], 10)
    with pytest.raises(PolicyRefused, match=r"did you mean 'zz'\?"):
        compile_policy(parsed, ("zz", "a"), 10)


def test_a_window_that_leaves_something_over_to_nobody_is_refused() -> None:
    parsed = parse_policy(document("window", '[window]\na = "1/2"\nb = "1/3"\n'), "test")
    with pytest.raises(PolicyRefused, match="leave 1/6 over"):
        compile_policy(parsed, LABELS[:2], 10)
    assert compile_policy(parsed, LABELS[:3], 10).ceilings[2].tolist() == list(range(11))


@example(numerator=29, denominator=100, count=200)  # floor(0.29 * 100) is 28 in floats
@given(numerator=st.integers(0, 100), denominator=st.integers(1, 100), count=st.integers(1, 200))
def test_tables_are_exact_in_integers(numerator: int, denominator: int, count: int) -> None:
    share = Fraction(min(numerator, denominator), denominator)
    body = f'a = "{share.numerator}/{share.denominator}"\nb = "0/1"\n'
    floors = compiled("floors", f"[floors]\n{body}", LABELS[:3], count)
    window = compiled("window", f"[window]\n{body}", LABELS[:3], count)
    for k in range(count + 1):
        assert floors.floors[0, k] == window.floors[0, k] == math.floor(share * k)
        assert window.ceilings[0, k] == math.ceil(share * k)
        assert floors.ceilings[0, k] == k


def test_a_cap_holds_in_the_first_places_and_ends_there() -> None:
    body = "[cap]\nat_most = 2\nwithin_first = 4\n"
    assert compiled("cap", body, LABELS[:1], 7).ceilings[0].tolist() == [0, 1, 2, 2, 2, 5, 6, 7]


@pytest.mark.parametrize("path", SHOP, ids=lambda path: path.stem)
def test_the_shops_policies_parse_and_name_themselves_after_their_files(path: Path) -> None:
    parsed = parse_policy(path.read_text(), path.name)
    assert parsed.name == path.stem
    assert parsed.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_shops_policies_compile_for_the_tables_that_they_name() -> None:
    labels = {
        "provider_tier": ("large", "medium", "small", "unknown"),
        "brand": ("National", "Private"),
        "category": ("BEEF", "MILK", "YOGURT"),
        "department": ("GROCERY", "MEAT"),
    }
    tables = {name: TableGroups.of(own) for name, own in labels.items()}
    parsed = [parse_policy(path.read_text(), path.name) for path in SHOP]
    kinds = {compile_tables(policy, tables, 200).policy.kind for policy in parsed}
    assert kinds == {"none", "floors", "window", "cap", "calibrated", "stack"}


def fields() -> dict[tuple[str, str], FieldInfo]:
    """Every key of a policy document by (where, key), as its validator has them."""
    models = {"policy": Document, "rule": StackRule} | {
        f"[{name}]": section for name, section in SECTIONS.items()
    }
    return {
        (where, key): field
        for where, model in models.items()
        for key, field in model.model_fields.items()
    }


def rows() -> dict[tuple[str, str], tuple[str, str]]:
    """(type and range, default) of every key in the document's table of keys, by (where, key)."""
    page = (Path(__file__).parents[3] / "docs" / "policies.md").read_text(encoding="utf-8")
    table = page.partition("| key | where |")[2].partition("\n\n")[0].splitlines()[2:]
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for line in table:
        keys, places, form, default = (cell.strip() for cell in line.strip("|").split("|"))
        for where in re.findall("`(.*?)`", places):
            for key in re.findall("`(.*?)`", keys):
                assert (where, key) not in found
                found[where, key] = (form, default)
    return found


def test_the_documents_table_of_keys_has_all_keys_and_no_other() -> None:
    assert set(rows()) == set(fields())
    assert {key for where, key in fields() if where == "policy"} == {
        *HEAD_KEYS, *SECTIONS, "floors", "window", "intersection", "stack"
    }  # fmt: skip


@pytest.mark.parametrize(("where", "key"), fields())
def test_the_documents_table_of_keys_says_what_the_validator_does(where: str, key: str) -> None:
    field, (form, default) = fields()[where, key], rows()[where, key]
    if field.is_required():
        assert default == "needed"
    elif field.default in (None, ""):
        assert default == "needed by the kind"
    else:
        assert default == ("all groups" if field.default == () else json.dumps(field.default))
    ends = [
        [getattr(one, end) for one in field.metadata for end in ends if hasattr(one, end)]
        for ends in (("ge", "min_length"), ("le", "max_length"))
    ]
    if all(ends):
        assert f"{ends[0][0]} to {ends[1][0]}" in form
    if get_origin(field.annotation) is Literal and key != "kind":
        assert set(re.findall('"(.*?)"', form)) == set(get_args(field.annotation))


def test_the_document_says_which_rules_a_stack_may_hold() -> None:
    page = (Path(__file__).parents[3] / "docs" / "policies.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `stack` | `[[stack]]`"))
    assert re.findall("`([a-z_]+)`", row.split("|")[2]) == list(get_args(RuleKind))
    assert "two to eight" in row
    assert MAX_RULES == 8


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 3000, "x = " + "{a=" * 3000 + "1" + "}" * 3000, "x = " + "9" * 6000]
)
def test_toml_that_no_parser_bears_is_refused_as_a_document(text: str) -> None:
    with pytest.raises(PolicyRefused, match="test: document: "):
        parse_policy(text, "test")
