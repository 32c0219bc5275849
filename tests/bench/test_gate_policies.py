"""The policies that were agreed on, by digest: another one is no pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.gate.budgets import Budgets, parse_budgets, read_budgets
from bench.gate.explain import head_text
from bench.gate.lines import Line, Status
from bench.gate.policies import policy_lines
from bench.gate.results import Result
from bench.gate.seal import digest_of
from bench.gate.weaker import weaker_lines
from bench.refused import InputRefused
from server.fairness import parse_policy

ROOT = Path(__file__).resolve().parents[2]

AGREED, OTHER = "a1" * 32, "b2" * 32
LINE = """
[[budget]]
metric = "load.latency_ms.p99"
at_most = 50
decide_on = "interval"
min_n = 1000
reason = "The page waits."
"""


def budgets(policies: str, more: str = "") -> Budgets:
    return parse_budgets(f'schema_version = 1\nname = "n"\n{more}{LINE}{policies}', "b.toml")


def named(**digests: str) -> Budgets:
    return budgets("[policies]\n" + "".join(f'{k} = "{v}"\n' for k, v in digests.items()))


def quality(policies: Any) -> Result:
    return Result("quality", "b-1", document={"kind": "quality", "policies": policies})


def only(lines: list[Line]) -> Line:
    (line,) = lines
    return line


@pytest.mark.parametrize(
    ("told", "status", "why"),
    [
        ({"tiers": {"policy": "tiers", "digest": AGREED}}, Status.PASS, "the same"),
        ({"tiers": {"policy": "tiers", "digest": OTHER}}, Status.FAIL, "another policy: digest b2b2"),
        ({"tiers": {"policy": "tiers"}}, Status.FAIL, "does not tell the policy's digest"),
        ({"cap": {"policy": "cap", "digest": AGREED}}, Status.FAIL, "no such policy; it has: cap"),
        ({}, Status.FAIL, "no such policy; it has: none"),
        (None, Status.FAIL, "no such policy"),
    ],
)  # fmt: skip
def test_only_the_agreed_digest_passes(told: Any, status: Status, why: str) -> None:
    line = only(policy_lines(named(tiers=AGREED), [quality(told)]))
    assert (line.metric, line.status) == ("policies.tiers", status)
    assert why in line.why


def test_without_an_evaluation_no_policy_passes() -> None:
    line = only(policy_lines(named(tiers=AGREED), []))
    assert line.status is Status.FAIL
    assert "equipoise evaluate" in line.why


def test_a_digest_is_whole_and_belongs_to_the_seal() -> None:
    with pytest.raises(InputRefused, match=r"policies\.tiers"):
        named(tiers=AGREED[:12])
    assert digest_of(named(tiers=AGREED)) != digest_of(named(tiers=OTHER))
    assert digest_of(named()) == digest_of(budgets(""))
    assert "tiers must have the digest a1a1a1a1a1a1" in head_text(named(tiers=AGREED))


def test_a_policy_that_is_another_one_or_no_more_needs_a_reason() -> None:
    before = named(tiers=AGREED, cap=AGREED)
    assert weaker_lines(before, before) == []
    line = only(weaker_lines(named(tiers=OTHER), before))
    assert line.status is Status.FAIL
    assert "policy tiers is another one; policy cap is no more named" in line.why
    reasoned = budgets(f'[policies]\ntiers = "{OTHER}"\n', 'weaker_because = "fewer makers"\n')
    assert only(weaker_lines(reasoned, before)).status is Status.PASS


def test_the_demo_names_the_policies_that_ship() -> None:
    named = read_budgets(ROOT / "bench/budgets/demo.toml").policies
    shipped = {}
    for path in (ROOT / "training/policies").glob("*.toml"):
        policy = parse_policy(path.read_text(), path.name)
        shipped[policy.name] = policy.digest
    assert named.items() <= shipped.items()
    assert named
