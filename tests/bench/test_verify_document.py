"""The policies that `equipoise verify` reads are those that `policy check` lets pass, no more and no fewer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.refused import InputRefused
from bench.verify.bounds import Known
from bench.verify.command import command
from bench.verify.document import check_groups, read_document
from server.errors import PolicyRefused
from server.fairness import parse_policy
from strategies.bundles import tiny_parts
from strategies.fairness import document
from strategies.lists import POLICIES

NO_TABLE = ('group_table = "t"\n', "")
CAP = "[cap]\nat_most = 2\nwithin_first = 5\n"
FAIR = '[fa_ir]\nalpha = "1/10"\nwithin_first = 40\nshares = {a = "1/5"}\n'
OWN = '[calibrated]\nat_least = "1/2"\nat_most = "3/2"\n'
OVER_TIME = '[amortised]\nmethod = "p_mmf"\nstrength = "1/5"\n'
DIVERSE = '[diverse]\nmethod = "mmr"\ntrade_off = "1/5"\n'


def stacked(*rules: Sequence[str]) -> str:
    """A stack of rules, each (kind, table, its section's inside)."""
    text = ""
    for kind, table, inside in rules:
        text += f'[[stack]]\nkind = "{kind}"\n{kind} = {{{inside}}}\n'
        text += f'group_table = "{table}"\n' if table else ""
    return document("stack", "").replace(*NO_TABLE) + text


FLOORS = ("floors", "t", 'a = "1/5"')
SHAPES = ("amortised", "t", 'method = "p_mmf", strength = "1/5"')
VARIES = ("diverse", "", 'method = "mmr", trade_off = "1/5"')
EVENS = ("calibrated", "t", 'at_least = "1/2", at_most = "3/2"')

REFUSED = [
    (document("floors", "[floors]\na = 0.2\n"), "floors.a"),
    (document("floors", '[floors]\na = "6/5"\n'), "floors.a"),
    (document("floors", '[floors]\na = "-1/5"\n'), "floors.a"),
    (document("floors", '[floors]\na = "0.2"\n'), "floors.a"),
    (document("floors", '[floors]\na = "1/0"\n'), "floors.a"),
    (document("floors", '[floors]\na = "1/10001"\n'), "floors.a"),
    (document("floors", "[floors]\na = 1\n"), "floors.a"),
    (document("floors", '[floors]\na = "\uff11/5"\n'), "floors.a"),
    (document("floors", "[floors]\n"), "floors"),
    (document("floors", "floors = 3\n"), "floors"),
    (document("floors", '[floors]\na = "2/3"\nb = "1/2"\n'), "floors"),
    (document("floors", ""), "floors"),
    (document("floors", '[floors]\na = "1/5"\n').replace(*NO_TABLE), "group_table"),
    (document("none", '[floors]\na = "1/2"\n'), "floors"),
    (document("none", "").replace('version = "1"', ""), "version"),
    (document("none", "").replace('version = "1"', "version = 1"), "version"),
    (document("none", "").replace('kind = "none"', ""), "kind"),
    (document("none", "").replace('kind = "none"', "kind = []"), "kind"),
    (document("none", "").replace("reason", "raeson"), "raeson"),
    (document("none", "").replace("made for a test", "short"), "reason"),
    (document("none", "").replace("made for a test", " - " * 9), "reason"),
    (document("none", "").replace('"p"', '"Not A Name"'), "name"),
    (document("none", "").replace('"serve"', '"ignore"'), "on_infeasible"),
    (document("none", 'discount = "log3"\n'), "discount"),
    (document("none", 'group_table = "t"\n'), "group_table"),
    (document("fairest", ""), "kind"),
    (document("window", '[window]\na = "2/3"\nb = "1/2"\n'), "window"),
    (document("cap", CAP.replace("2", "6")), "cap.at_most"),
    (document("cap", CAP.replace("2", "0")), "cap.at_most"),
    (document("cap", CAP.replace("2", "true")), "cap.at_most"),
    (document("cap", CAP.replace("at_most = 2", "")), "cap.at_most"),
    (document("cap", CAP.replace("within_first", "within_frist")), "cap.within_frist"),
    (document("cap", CAP + "groups = [1]\n"), "cap.groups"),
    (document("cap", CAP + "groups = []\n"), "cap.groups"),
    (document("cap", CAP + 'groups = ["a", "b", "a"]\n'), "cap.groups"),
    (document("fa_ir", FAIR.replace('"1/10"', '"0/1"')), "fa_ir.alpha"),
    (document("fa_ir", FAIR.replace("40", "401")), "fa_ir.within_first"),
    (document("fa_ir", FAIR.replace('"1/5"', "0.2")), "fa_ir.shares.a"),
    (document("fa_ir", FAIR.replace("shares", "adjusted = 1\nshares")), "fa_ir.adjusted"),
    (document("calibrated", OWN.replace("3/2", "1/2")), "calibrated.at_most"),
    (document("calibrated", OWN.replace("3/2", "11/1")), "calibrated.at_most"),
    (document("calibrated", OWN + "smoothing = -1\n"), "calibrated.smoothing"),
    (document("amortised", OVER_TIME.replace("p_mmf", "mmf")), "amortised.method"),
    (document("amortised", OVER_TIME + "lists = 0\n"), "amortised.lists"),
    (document("amortised", OVER_TIME + 'targets = "same"\n'), "amortised.targets"),
    (document("diverse", DIVERSE), "group_table"),
    (document("diverse", DIVERSE.replace("1/5", "1/1")).replace(*NO_TABLE), "diverse.trade_off"),
    (document("intersection", '[intersection.t]\na = "1/5"\n').replace(*NO_TABLE), "intersection"),
    (document("stack", "stack = 3\n").replace(*NO_TABLE), "stack"),
    (document("stack", "stack = [3, 4]\n").replace(*NO_TABLE), "stack.0"),
    (stacked(FLOORS), "stack"),
    (stacked(FLOORS, SHAPES), "stack"),
    (stacked(SHAPES, SHAPES), "stack"),
    (stacked(VARIES, SHAPES), "stack"),
    (stacked(EVENS, FLOORS), "stack"),
    (stacked(*(("floors", f"t{n}", 'a = "1/5"') for n in range(5))), "stack"),
    (stacked(FLOORS, ("cap", "t", "at_most = 2, within_first = 1")), "stack.1.cap.at_most"),
    (stacked(FLOORS, ("cap", "", "at_most = 2, within_first = 5")), "stack.1.group_table"),
    (stacked(FLOORS, ("none", "t", "")), "stack.1"),
    ("not toml", ""),
]

ALLOWED = [
    *(tiny_parts().policies[name] for name in POLICIES),
    *(path.read_text() for path in (Path(__file__).parents[2] / "training/policies").glob("*")),
    document("cap", CAP + 'groups = ["a"]\n'),
    document("fa_ir", FAIR),
    document("calibrated", OWN + "smoothing = 0\n"),
    document("amortised", OVER_TIME + 'lists = 7\ntargets = "catalogue"\n'),
    document("none", 'discount = "reciprocal"\n', "refuse").replace(*NO_TABLE),
    stacked(SHAPES, VARIES, FLOORS, ("cap", "t", "at_most = 2, within_first = 5")),
    stacked(EVENS, ("floors", "other", 'a = "1/5"')),
]


@pytest.mark.parametrize(("text", "key"), REFUSED)
def test_what_the_check_refuses_is_refused_with_the_key(text: str, key: str) -> None:
    with pytest.raises(PolicyRefused):
        parse_policy(text, "p.toml")
    with pytest.raises(InputRefused) as refused:
        read_document(text, "p.toml")
    assert refused.value.where.startswith(key) if key == "stack.1" else refused.value.where == key
    assert str(refused.value).startswith("p.toml: ")


@pytest.mark.parametrize("text", ALLOWED)
def test_what_the_check_lets_pass_is_read(text: str) -> None:
    parsed, read = parse_policy(text, "p.toml"), read_document(text)
    assert read.tables == parsed.tables
    assert [(kind, table) for kind, table, _ in read.rules] == [
        (rule.kind, rule.group_table) for rule in parsed.rules
    ]
    assert (read.name, read.version, read.discount) == (
        parsed.name, parsed.version, parsed.discount
    )  # fmt: skip
    assert read.refuses == (parsed.on_infeasible == "refuse")


def test_the_command_ends_with_the_key_and_the_reason(tmp_path: Path) -> None:
    for name, text in (
        ("p.toml", REFUSED[0][0]),
        ("request.json", "{}"),
        ("response.json", '{"request_id": "r"}'),
    ):
        (tmp_path / name).write_text(text)
    flags = ["--policy", "p.toml", "--request", "request.json", "--response", "response.json"]
    flags = [str(tmp_path / flag) if "." in flag else flag for flag in flags]
    refused = CliRunner().invoke(command, flags).exception
    assert isinstance(refused, InputRefused)
    assert 'floors.a: got 0.2; allowed: an integer fraction from 0 to 1 in text, such as "1/5"' in (
        str(refused)
    )


@pytest.mark.parametrize(
    "text",
    [
        document("floors", '[floors]\nz = "1/5"\n'),
        document("window", '[window]\nz = "1/5"\n'),
        document("cap", CAP + 'groups = ["z"]\n'),
        document("fa_ir", FAIR.replace("{a", "{z")),
    ],
)
def test_groups_that_the_bundle_lacks_are_refused(text: str) -> None:
    known = Known({"t": {"a": 1}}, {})
    with pytest.raises(InputRefused, match="'t' has no group 'z'"):
        check_groups(read_document(text), known, "p.toml")
    check_groups(read_document(text.replace("z", "a")), known, "p.toml")
