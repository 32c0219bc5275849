"""`equipoise verify` on lists that break their bounds: is there one that keeps them?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from bench.verify import existence, prefixes
from bench.verify.claims import Verdict
from bench.verify.existence import Groups, Table, list_exists
from equipoise.v1 import recommendation_pb2 as pb
from strategies.judged import Drawn, drawn, relisted, stack

BOUNDS = "every prefix keeps its bounds, or the receipt says where not"
THERE = "no list that keeps the policy is there to be found"
CROSSED = stack(floors_1='t|a = "1/3"', floors_2='u|x = "1/2"')


def keeps(made: Sequence[Groups], table: Table) -> bool:
    return all(
        limits[k][0] <= sum(row in own for own in made[:k]) <= limits[k][1]
        for row, limits in table.items()
        for k in range(len(made) + 1)
    )


def test_a_list_exists_where_brute_force_finds_one() -> None:
    rng = np.random.default_rng(7)
    seen = []
    for _ in range(80):
        candidates = [(f"t{rng.integers(2)}", f"u{rng.integers(2)}") for _ in range(5)]
        table = {}
        for row in ("t0", "t1", "u0", "u1"):
            low = np.minimum(np.cumsum(rng.random(5) < 0.2), np.arange(5))
            high = np.maximum(low, np.cumsum(rng.random(5) < 0.9) + rng.integers(2))
            table[row] = list(zip(low.tolist(), high.tolist(), strict=True))
        begins = candidates[: rng.integers(0, 3)]
        found = any(
            keeps(made, table)
            for made in itertools.permutations(candidates, 4)
            if list(made[: len(begins)]) == begins
        )
        assert list_exists(candidates, table, 4, begins) is found
        seen.append(found)
    assert 10 < sum(seen) < 70


def test_what_cannot_be_a_list_does_not_exist() -> None:
    table = {"a": [(0, k) for k in range(4)]}
    assert list_exists([], table, 0) is True
    assert list_exists([("a",)], table, 2) is False
    assert list_exists([("a",), ("a",)], table, 2, [("b",)]) is False


@pytest.mark.parametrize(
    ("places", "begins", "told"),
    [
        (["a", "b", "b"], [], True),
        (["b", "b", "a"], [], None),  # "a" was to come first
        (["a", "a", "b"], [], None),  # there is one "a"
        (["a", "b", "b"], ["b"], None),
    ],
)
def test_a_list_that_the_solver_claims_is_counted_again(
    monkeypatch: pytest.MonkeyPatch, places: list[str], begins: list[str], told: bool | None
) -> None:
    """Whatever makes a solver answer so: what it claims without right is no list."""
    made = np.array([[float(own == group) for own in places] for group in "ab"])
    answer = SimpleNamespace(status=0, x=made.ravel())
    monkeypatch.setattr(existence, "solved", lambda *_: answer)
    table = {"a": [(0, 0), (1, 1), (1, 2), (1, 3)], "b": [(0, k) for k in range(4)]}
    candidates = [("a",), ("b",), ("b",)]
    assert list_exists(candidates, table, 3, [(group,) for group in begins]) is told


def by_score(status: int) -> Drawn:
    """Plain order with a receipt that says rightly where it breaks, though lists keep the policy."""
    for seed in range(100):
        made = drawn(CROSSED, seed)
        own = made.response.candidates
        best = sorted(own, key=lambda c: (-c.score, c.item_id))[: len(made.response.items)]
        groups = [tuple(c.groups) for c in best]
        for k in range(1, len(best) + 1):
            for row, floor in (("t:a", k // 3), ("u:x", k // 2)):
                have = sum(row in own for own in groups[:k])
                if made.response.receipt.status == pb.RECEIPT_STATUS_MET and have < floor:
                    relisted(made, [c.item_id for c in best], 2, 3)
                    receipt = made.response.receipt
                    receipt.status = status  # type: ignore[assignment]
                    receipt.utility_of_best = 0
                    receipt.first_bad_prefix.CopyFrom(
                        pb.PrefixViolation(prefix=k, group=row, needed=floor, available=have)
                    )
                    return made
    raise AssertionError("no such list was drawn")


def test_not_found_though_a_list_exists_is_told() -> None:
    claims = by_score(pb.RECEIPT_STATUS_NOT_FOUND).claims()
    assert claims[THERE].verdict is Verdict.MISSED
    assert claims[THERE].told == "NOT_FOUND, yet a list exists"
    assert not [own for own in claims.values() if own.verdict is Verdict.LIE]


def test_infeasible_though_a_list_exists_is_a_lie() -> None:
    claims = by_score(pb.RECEIPT_STATUS_INFEASIBLE).claims()
    assert claims[BOUNDS].verdict is Verdict.LIE
    assert claims[BOUNDS].told == "a list of the candidates keeps every bound"


def infeasible() -> Drawn:
    made = drawn(CROSSED.replace("1/3", "1/1"), 3, n=18)
    assert made.response.receipt.status == pb.RECEIPT_STATUS_INFEASIBLE
    return made


def test_not_found_where_none_is_there_is_proven() -> None:
    made = infeasible()
    made.response.receipt.status = pb.RECEIPT_STATUS_NOT_FOUND
    claims = made.claims()
    assert claims[THERE].verdict is Verdict.HOLDS
    assert "proven" in claims[THERE].told


def test_what_the_solver_does_not_decide_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "list_exists", lambda *_: None)
    made = infeasible()
    found = made.claims()[BOUNDS]
    assert (found.verdict, "no end" in found.told) == (Verdict.NOT_CHECKED, True)
    made.response.receipt.status = pb.RECEIPT_STATUS_NOT_FOUND
    found = made.claims()[THERE]
    assert (found.verdict, "no end" in found.told) == (Verdict.NOT_CHECKED, True)


@pytest.mark.parametrize("status", [pb.RECEIPT_STATUS_INFEASIBLE, pb.RECEIPT_STATUS_NOT_FOUND])
@pytest.mark.parametrize("field", ["prefix", "needed", "available"])
def test_where_a_list_of_several_tables_breaks_is_counted(field: str, status: int) -> None:
    made = infeasible()
    receipt = made.response.receipt
    receipt.status = status  # type: ignore[assignment]
    assert made.claims()[BOUNDS].verdict is Verdict.HOLDS
    setattr(receipt.first_bad_prefix, field, getattr(receipt.first_bad_prefix, field) + 1)
    assert made.claims()[BOUNDS].verdict is Verdict.LIE
    receipt.ClearField("first_bad_prefix")
    assert made.claims()[BOUNDS].verdict is Verdict.LIE
