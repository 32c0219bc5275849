"""`equipoise policy check`: what can be met, what cannot, what asks for nothing, what is nonsense."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from server.bundle import GroupTable, load_bundle
from server.commands.policy import command
from server.errors import PolicyRefused
from server.fairness import clashing, feasible
from strategies.bundles import N_ITEMS, tiny_bundle
from strategies.fairness import document


def checked(path: Path, bundle: Path, text: str, *flags: str) -> tuple[int, dict[str, Any]]:
    file = path / "p.toml"
    file.write_text(text)
    result = CliRunner().invoke(
        command, ["check", str(file), "--bundle", str(bundle), "--json", *flags]
    )
    if isinstance(result.exception, PolicyRefused):
        raise result.exception
    return result.exit_code, json.loads(result.stdout)


def of(kind: str, table: str, body: str) -> str:
    return document(kind, body).replace('"t"', f'"{table}"')


def stack(*rules: str) -> str:
    body = "".join(f"[[stack]]\n{rule}\n" for rule in rules)
    return document("stack", body).replace('group_table = "t"\n', "")


def floors(table: str, shares: str) -> str:
    return f'kind = "floors"\ngroup_table = "{table}"\nfloors = {{{shares}}}'


def cap(table: str, most: int, first: int, groups: str = "") -> str:
    more = f", groups = [{groups}]" if groups else ""
    return (
        f'kind = "cap"\ngroup_table = "{table}"\n'
        f"cap = {{at_most = {most}, within_first = {first}{more}}}"
    )


def test_a_policy_that_the_catalogue_can_keep(tmp_path: Path, bundle_path: Path) -> None:
    code, facts = checked(
        tmp_path, bundle_path, of("floors", "provider_tier", '[floors]\nsmall = "1/5"\n')
    )
    assert (code, facts["can_be_met"], facts["asks_for_nothing"]) == (0, True, [])
    small = next(group for group in facts["groups"] if group["group"] == "small")
    assert small["items"] == 12
    assert small["demands"] == [{"prefix": 60, "least": 12, "most": 60}]


def test_too_few_items_are_told_with_the_first_bad_prefix(
    tmp_path: Path, bundle_path: Path
) -> None:
    text = of("floors", "provider_tier", '[floors]\nsmall = "1/2"\n')
    code, facts = checked(tmp_path, bundle_path, text)
    assert code == 1
    assert facts["first_bad_prefix"] == {
        "prefix": 26, "group": "small", "needed": 13, "available": 12
    }  # fmt: skip
    assert checked(tmp_path, bundle_path, text, "--count", "25")[0] == 0


def test_tables_that_exclude_each_other_on_this_catalogue_are_told(
    tmp_path: Path, bundle_path: Path
) -> None:
    # All items of category 0 to 5 are spread over the brands; small makers are items 48 to 59.
    text = stack(floors("provider_tier", 'small = "1/1"'), cap("category", 1, 20))
    code, facts = checked(tmp_path, bundle_path, text, "--count", "10")
    assert (code, facts["can_be_met"]) == (1, False)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (
            of("fa_ir", "brand", '[fa_ir]\nalpha = "1/100"\nwithin_first = 5\n'
               '[fa_ir.shares]\nPrivate = "1/10"\n'),
            "fa_ir.Private",
        ),
        (of("floors", "brand", '[floors]\nPrivate = "1/2000"\n'), "floors.Private"),
        (of("floors", "brand", '[floors]\nPrivate = "0/5"\n'), "floors.Private"),
        (of("amortised", "brand", '[amortised]\nmethod = "p_mmf"\nstrength = "0/1"\n'),
         "amortised.strength"),
        (document("diverse", '[diverse]\nmethod = "mmr"\ntrade_off = "0/1"\n').replace(
            'group_table = "t"\n', ""), "diverse.trade_off"),
        (of("cap", "brand", "[cap]\nat_most = 100\nwithin_first = 100\n"), "cap"),
    ],
)  # fmt: skip
def test_a_rule_that_asks_for_nothing_is_no_pass(
    tmp_path: Path, bundle_path: Path, text: str, path: str
) -> None:
    code, facts = checked(tmp_path, bundle_path, text)
    assert (code, facts["can_be_met"]) == (1, True)
    assert [told.startswith(path) for told in facts["asks_for_nothing"]] == [True]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            stack(floors("brand", 'Private = "1/2"'), cap("brand", 2, 10)),
            "stack.1.cap: clashes with stack.0.floors: the first 6 places need 3 of group "
            "'Private' and may have 2",
        ),
        (
            stack(
                floors("provider_tier", 'small = "1/3"'),
                floors("provider_tier", 'medium = "1/3"'),
                floors("provider_tier", 'large = "1/2"'),
            ),
            "stack.0.floors, stack.1.floors, stack.2.floors cannot be kept together",
        ),
        (stack(floors("brnd", 'Private = "1/2"'), cap("brand", 2, 10)),
         "stack.0.group_table: got 'brnd'; did you mean 'brand'? the data has brand, category, "
         "provider_tier"),
        (document("intersection", '[intersection.brnd]\nPrivate = "1/2"\n'
                  '[intersection.category]\na = "1/2"\n').replace('group_table = "t"\n', ""),
         "intersection.brnd: no such group table; did you mean 'brand'? the data has brand, "),
        (of("cap", "brand", '[cap]\nat_most = 2\nwithin_first = 9\ngroups = ["Privat"]\n'),
         "cap.Privat: group table 'brand' has no such group; did you mean 'Private'?"),
        (stack(cap("brand", 2, 10), 'kind = "diverse"\ndiverse = {method = "mmr", trade_off = "1/5"}'),
         "stack.1.diverse: comes after a rule that bounds the list"),
        (stack(cap("brand", 2, 10), cap("category", 2, 10)).replace("at_most", "atmost", 1),
         "stack.0.cap.atmost: unknown key; did you mean 'at_most'?"),
        (of("calibrated", "brand", '[calibrated]\nat_least = "1/2"\nat_most = "1/2"\n'),
         "calibrated.at_most"),
        (of("calibrated", "brand", '[calibrated]\nat_least = 0.5\nat_most = "3/2"\n'),
         'calibrated.at_least: got 0.5; allowed: an integer fraction p/q from 0 to 1, q from'),
        (of("amortised", "brand", '[amortised]\nmethod = "pmmf"\nstrength = "1/2"\n'),
         "amortised.method: got 'pmmf'"),
        (document("diverse", '[diverse]\nmethod = "mmr"\ntrade_off = "1/1"\n').replace(
            'group_table = "t"\n', ""), "diverse.trade_off"),
        (document("intersection", '[intersection.brand]\nPrivate = "1/2"\n').replace(
            'group_table = "t"\n', ""), "intersection"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_the_keys_path(
    tmp_path: Path, bundle_path: Path, text: str, told: str
) -> None:
    with pytest.raises(PolicyRefused) as refused:
        checked(tmp_path, bundle_path, text)
    assert told in str(refused.value)


def test_a_stranger_reads_what_is_wrong(tmp_path: Path, bundle_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(of("floors", "provider_tier", '[floors]\nsmall = "1/2"\n'))
    result = CliRunner().invoke(command, ["check", str(file), "--bundle", str(bundle_path)])
    assert "the first 26 places want 13 of group 'small', the best list has 12" in " ".join(
        result.stdout.split()
    )


def said(path: Path, bundle: Path, text: str, *flags: str) -> str:
    """The last line of the answer in words."""
    file = path / "p.toml"
    file.write_text(text)
    result = CliRunner().invoke(command, ["check", str(file), "--bundle", str(bundle), *flags])
    return result.stdout.splitlines()[-1]


EVENED = of("amortised", "brand", '[amortised]\nmethod = "p_mmf"\nstrength = "1/5"\n')
DIVERSE = document("diverse", '[diverse]\nmethod = "mmr"\ntrade_off = "1/5"\n').replace(
    'group_table = "t"\n', ""
)
SHAPED = (
    'kind = "amortised"\ngroup_table = "brand"\namortised = {method = "p_mmf", strength = "1/5"}',
    'kind = "diverse"\ndiverse = {method = "mmr", trade_off = "1/5"}',
)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (document("none", ""), "changes nothing: lists stand in the order of their scores"),
        (DIVERSE, "bounds no list: only the order changes"),
        (EVENED, "bounds no list: only the order changes"),
        (stack(*SHAPED), "bounds no list: only the order changes"),
        (
            stack(*SHAPED, cap("category", 9, 10)),
            "can be met: a list of the catalogue keeps every bound at every prefix",
        ),
    ],
)
def test_a_policy_that_bounds_nothing_is_not_said_to_be_met(
    tmp_path: Path, bundle_path: Path, text: str, verdict: str
) -> None:
    assert said(tmp_path, bundle_path, text) == verdict
    assert checked(tmp_path, bundle_path, text)[0] == 0


OWN = 'kind = "calibrated"\ngroup_table = "brand"\ncalibrated = {at_least = "1/1", at_most = "1/1"'


@pytest.mark.parametrize(
    ("text", "rule", "verdict"),
    [
        (
            of("calibrated", "brand", '[calibrated]\nat_least = "1/1"\nat_most = "1/1"\nsmoothing = 0\n'),
            "calibrated",
            "says nothing of the catalogue: what a list must keep depends on what its user bought",
        ),
        (
            stack(f"{OWN}, smoothing = 0}}", cap("category", 9, 10)), "stack.0.calibrated",
            "can be met: a list of the catalogue keeps every other bound at every prefix",
        ),
    ],
)  # fmt: skip
def test_own_shares_of_an_unknown_user_are_not_said_to_be_kept(
    tmp_path: Path, bundle_path: Path, text: str, rule: str, verdict: str
) -> None:
    code, facts = checked(tmp_path, bundle_path, text)
    assert (code, facts["not_checked"]) == (0, [rule])
    file = tmp_path / "p.toml"
    told = CliRunner().invoke(command, ["check", str(file), "--bundle", str(bundle_path)])
    *_, before, last = told.stdout.splitlines()
    assert before.startswith(f"not checked: {rule}: with smoothing 0 ")
    assert last == verdict


@pytest.mark.parametrize("smoothing", ["", ", smoothing = 1"])
def test_own_shares_that_are_smoothed_are_checked(
    tmp_path: Path, bundle_path: Path, smoothing: str
) -> None:
    text = stack(f"{OWN}{smoothing}}}", cap("category", 9, 10))
    assert checked(tmp_path, bundle_path, text)[1]["not_checked"] == []
    assert said(tmp_path, bundle_path, text).startswith(
        "can be met: a list of the catalogue keeps every bound"
    )


# No item of category 1 is Private, so that four places of each leave room for five small makers.
THREE = stack(
    floors("provider_tier", 'small = "3/4"'),
    cap("category", 4, 8),
    floors("brand", 'Private = "1/2"'),
    floors("category", '"category 1" = "1/2"'),
)
PAIR = stack(
    floors("provider_tier", 'small = "1/5"'),
    floors("brand", 'Private = "1/1"'),
    cap("category", 2, 10),
)
# The search neither finds a list nor has tried all: a better one may, and then this needs another.
UNPROVEN = (
    floors("provider_tier", 'large = "3/9", medium = "1/9", small = "5/9"').replace(
        "floors", "window"
    ),
    floors(
        "category",
        ", ".join(f'"category {group}" = "{n}/21"' for group, n in enumerate((8, 3, 3, 5, 1, 1))),
    ),
)


@pytest.mark.parametrize(
    ("text", "count", "rules", "line"),
    [
        (
            PAIR, 10, ["stack.1.floors", "stack.2.cap"],
            "cannot be met: stack.1.floors and stack.2.cap clash: each can be kept alone, but "
            "together the first 7 places may have 2 of group 'category:category 0', the best list "
            "has 3",
        ),
        (
            stack(floors("brand", 'Private = "1/10"'), floors("provider_tier", 'small = "1/2"')),
            40, ["stack.1.floors"],
            "cannot be met: stack.1.floors cannot be kept, even alone: the first 26 places want 13 "
            "of group 'provider_tier:small', the best list has 12",
        ),
        (
            THREE, 8, ["stack.0.floors", "stack.2.floors", "stack.3.floors"],
            "cannot be met: stack.0.floors, stack.2.floors and stack.3.floors clash: any two can be "
            "kept, but together the first 8 places want 4 of group 'category:category 1', the best "
            "list has 3",
        ),
        (
            stack(cap("provider_tier", 20, 60, '"large"'), cap("provider_tier", 10, 60, '"medium"')),
            45, ["stack.0.cap", "stack.1.cap"],
            "cannot be met: stack.0.cap and stack.1.cap clash: each can be kept alone, but together "
            "the first 43 places may have 20 of group 'large', the best list has 21; all groups "
            "together may fill only 42 of them",
        ),
    ],
)  # fmt: skip
def test_the_rules_that_clash_on_this_catalogue_are_named(
    tmp_path: Path, bundle_path: Path, text: str, count: int, rules: list[str], line: str
) -> None:
    flags = ("--count", str(count))
    code, facts = checked(tmp_path, bundle_path, text, *flags)
    assert (code, facts["can_be_met"], facts["proven_impossible"]) == (1, False, True)
    assert (facts["clash"]["rules"], facts["clash"]["unproven_pairs"]) == (rules, [])
    bad = facts["clash"]["first_bad_prefix"]
    assert f"the first {bad['prefix']} places" in line
    assert (
        f"{bad['needed']} of group {bad['group']!r}, the best list has {bad['available']}" in line
    )
    room = facts["clash"]["places_that_can_be_filled"]
    assert (f"may fill only {room} of them" in line) == (room is not None)
    assert said(tmp_path, bundle_path, text, *flags) == line


@pytest.mark.parametrize("count", ["6", "7"])
def test_rules_that_do_not_clash_yet_are_not_named(
    tmp_path: Path, bundle_path: Path, count: str
) -> None:
    met = count == "6"
    code, facts = checked(tmp_path, bundle_path, PAIR, "--count", count)
    assert (code, facts["clash"] is None, facts["can_be_met"]) == (0 if met else 1, met, met)
    assert facts["proven_impossible"] is not met
    line = said(tmp_path, bundle_path, PAIR, "--count", count)
    assert ("clash" in line, "can be met" in line) == (not met, met)


def test_what_the_search_does_not_decide_is_told_as_not_proven(
    tmp_path: Path, bundle_path: Path
) -> None:
    text = stack(cap("category", 15, 20), *UNPROVEN)
    code, facts = checked(tmp_path, bundle_path, text, "--count", "21")
    assert (code, facts["can_be_met"], facts["proven_impossible"]) == (1, False, False)
    assert facts["clash"] == {
        "rules": [],
        "first_bad_prefix": None,
        "places_that_can_be_filled": None,
        "unproven_pairs": [["stack.1.window", "stack.2.floors"]],
    }
    line = said(tmp_path, bundle_path, text, "--count", "21")
    assert line.startswith("no list that keeps it was found: the first ")
    assert line.endswith(
        "; which rules clash is not proven: neither a list nor a proof was found for "
        "stack.1.window and stack.2.floors"
    )


def test_a_proof_for_two_rules_is_one_for_the_policy(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unproven(*args: Any) -> feasible.CatalogueCheck:
        return replace(clashing.check_on_catalogue(*args), proven=False)

    monkeypatch.setattr(feasible, "check_on_catalogue", unproven)
    _, facts = checked(tmp_path, bundle_path, PAIR, "--count", "10")
    assert facts["clash"]["rules"] == ["stack.1.floors", "stack.2.cap"]
    assert facts["proven_impossible"]
    assert said(tmp_path, bundle_path, PAIR, "--count", "10").startswith("cannot be met: ")


def test_caps_tell_what_they_ask_where_they_end_and_that_they_fill_too_few_places(
    tmp_path: Path, bundle_path: Path
) -> None:
    """Three tiers of at most 3 make 9 items, and none of them alone is to blame."""
    text = stack(cap("provider_tier", 3, 12), cap("provider_tier", 2, 4, '"small"'))
    code, facts = checked(tmp_path, bundle_path, text, "--count", "20")
    assert (code, facts["places_that_can_be_filled"]) == (1, 9)
    small = next(group for group in facts["groups"] if group["group"] == "small")
    assert [(one["prefix"], one["most"]) for one in small["demands"]] == [(4, 2), (12, 3), (20, 20)]
    line = said(tmp_path, bundle_path, text, "--count", "20")
    assert line.endswith("; all groups together may fill only 9 of them")
    file = tmp_path / "p.toml"
    table = CliRunner().invoke(command, ["check", str(file), "--bundle", str(bundle_path)]).stdout
    assert "of the first 4" in table
    assert "0 to 2" in table


def test_a_window_of_nothing_shuts_its_group_out(tmp_path: Path, bundle_path: Path) -> None:
    shares = 'small = "0/5", large = "1/2"'
    text = of("window", "provider_tier", f"window = {{{shares}}}\n")
    code, facts = checked(tmp_path, bundle_path, text, "--count", "20")
    assert (code, facts["shut_out"]) == (0, ["window.small"])
    file = tmp_path / "p.toml"
    told = CliRunner().invoke(command, ["check", str(file), "--bundle", str(bundle_path)]).stdout
    assert "in no list: window.small may have no place" in told


def test_a_policy_of_one_rule_names_no_other(tmp_path: Path, bundle_path: Path) -> None:
    text = of("floors", "provider_tier", '[floors]\nsmall = "1/2"\n')
    _, facts = checked(tmp_path, bundle_path, text)
    assert (facts["clash"], facts["proven_impossible"]) == (None, True)


def test_the_documents_example_says_what_the_document_says(
    tmp_path: Path, bundle_path: Path
) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/policies.md").read_text(encoding="utf-8")
    shown = re.search(
        r'```toml\n(name = "own-and-varied".*?)```.*?```text\n(.*?)\n```', page, re.DOTALL
    )
    assert shown is not None
    assert said(tmp_path, bundle_path, shown[1], "--count", "20") == shown[2]


def test_what_looks_like_markup_in_data_is_printed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    bundle = tmp_path / "tiny"
    odd = GroupTable(
        "odd", ("Tools [new]", "[/x]", "a:heart:b"), (np.arange(N_ITEMS) % 3).astype(np.int32)
    )
    none = {"none": document("none", "").replace('name = "p"', 'name = "none"')}
    tiny_bundle(bundle, groups=(odd,), policies=none, default_policy="none")
    body = '[window]\n"[/x]" = "9/10"\n"Tools [new]" = "1/10"\n"a:heart:b" = "0/5"\n'
    text = of("window", "odd", body).replace('version = "1"', 'version = "1 [/b]"')
    assert "[/b]" in text
    file = tmp_path / "p.toml"
    file.write_text(text)
    told = CliRunner().invoke(command, ["check", str(file), "--bundle", str(bundle)])
    assert told.exit_code == 1, told.output
    assert "policy p 1 [/b] (window)" in told.stdout
    assert "in no list: window.a:heart:b may have no place" in told.stdout
    for group in ("[/x]", "Tools [new]", "a:heart:b"):
        assert any(line.lstrip().startswith(f"{group} ") for line in told.stdout.splitlines()), (
            group
        )
    assert "of group '[/x]', the best list has" in told.stdout


def test_many_groups_of_which_the_same_is_asked_are_one_row(
    tmp_path: Path, bundle_path: Path
) -> None:
    labels = tuple(f"maker {n}" for n in range(12))
    makers = GroupTable("maker", labels, (np.arange(N_ITEMS) % 12).astype(np.int32))
    parts = load_bundle(bundle_path)
    wide = tmp_path / "wide"
    tiny_bundle(wide, groups=(*parts.groups.values(), makers))
    file = tmp_path / "p.toml"
    file.write_text(of("cap", "maker", "[cap]\nat_most = 2\nwithin_first = 10\n"))
    out = CliRunner().invoke(command, ["check", str(file), "--bundle", str(wide)]).stdout
    (row,) = [line for line in out.splitlines() if "maker" in line and "policy" not in line]
    assert row.split() == [
        "12",
        "groups,",
        "such",
        "as",
        "maker",
        "0",
        "5",
        "to",
        "5",
        "0",
        "to",
        "2",
        "0",
        "to",
        "60",
    ]


def test_what_is_wrong_against_the_catalogue_names_the_file(
    tmp_path: Path, bundle_path: Path
) -> None:
    with pytest.raises(PolicyRefused, match=r"p\.toml: floors\.tiny: .*no such group"):
        checked(tmp_path, bundle_path, of("floors", "provider_tier", '[floors]\ntiny = "1/5"\n'))
    with pytest.raises(PolicyRefused, match="attributes of users bound no list"):
        checked(tmp_path, bundle_path, of("floors", "income", '[floors]\nlow = "1/5"\n'))
