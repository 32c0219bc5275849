"""The theorems hold of the kernels, and known ways to get re-ranking wrong are found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.invariants import run
from bench.invariants.callers import Answer, Kernels
from bench.invariants.claims import Claims, Violated, Violation
from bench.invariants.oracles import best_utility, dcg, exposure, first_unkeepable_prefix
from bench.invariants.properties import rerank_holds
from bench.invariants.world import PolicyFacts, World
from equipoise.v1 import recommendation_pb2 as pb
from server.fairness import compile_policy, parse_policy

LABELS = ("a", "b", "c", "d")


def test_every_theorem_holds_of_the_kernels() -> None:
    result = run.check_kernels(examples=120, seed=11)
    assert result["violations"] == []
    assert result["checked"]["no_fair_list_is_better"] > 20
    assert result["checked"]["first_bad_prefix_is_true"] > 50


class _Greedy:
    """DetGreedy (Geyik et al. 2019): best head of those at a floor, else best below its ceiling.

    It breaks floors with four groups: p = (2, 2, 1, 1) / 6.
    """

    def __init__(self, kernels: Kernels, facts: PolicyFacts) -> None:
        self._kernels = kernels
        self._facts = facts

    def rerank(self, request: pb.RerankRequest) -> Answer[pb.RerankResponse]:
        answer = self._kernels.rerank(request)
        tables, labels = self._facts.tables, self._facts.labels
        assert answer.response is not None
        assert tables is not None
        left = sorted(request.candidates, key=lambda c: (-c.score, c.item_id))
        rank = {c.item_id: n for n, c in enumerate(left, start=1)}
        counts = dict.fromkeys(labels, 0)
        items = []
        for k in range(1, len(answer.response.items) + 1):
            row = {label: n for n, label in enumerate(labels)}
            short = [c for c in left if counts[c.group] < tables.floors[row[c.group]][k]]
            free = [c for c in left if counts[c.group] < tables.ceilings[row[c.group]][k]]
            pick = (short or free or left)[0]
            left.remove(pick)
            counts[pick.group] += 1
            moved = rank[pick.item_id] - k
            items.append(
                pb.RankedItem(
                    rank=k, item_id=pick.item_id, score=pick.score, group=pick.group,
                    rank_by_score=rank[pick.item_id], reason=1 if not moved else 2 if moved > 0 else 3,
                )
            )  # fmt: skip
        del answer.response.items[:]
        answer.response.items.extend(items)
        return answer


def facts_of(body: str, kind: str) -> tuple[Kernels, PolicyFacts]:
    document = (
        f'name = "p"\nversion = "1"\nkind = "{kind}"\ngroup_table = "t"\n'
        f'reason = "made for a test"\n[{kind}]\n{body}'
    )
    compiled = compile_policy(parse_policy(document, "test"), LABELS, 20)
    facts = PolicyFacts.of(compiled)
    return Kernels({"p": compiled}), facts


def test_detgreedy_is_caught_on_its_smallest_counter_example() -> None:
    kernels, facts = facts_of('a = "2/6"\nb = "2/6"\nc = "1/6"\nd = "1/6"\n', "floors")
    scored = (("c", 0.9), ("d", 0.8), ("a", 0.2), ("b", 0.1))
    request = pb.RerankRequest(
        candidates=[
            pb.ScoredCandidate(item_id=group, score=score, group=group) for group, score in scored
        ],
        count=3,
        policy="p",
    )
    rerank_holds(Claims(), kernels, facts, request)
    claims = Claims()
    # The receipt is the right one, of another list; the list itself must be told as broken.
    claims.known = {"utility_kept", "places_moved", "exposure", "reason_codes"}
    with pytest.raises(Violated, match="bounds_kept_when_met: the first 3 places hold 0 of 'b'"):
        rerank_holds(claims, _Greedy(kernels, facts), facts, request)


@pytest.mark.parametrize(
    ("spoil", "theorem"),
    [
        (lambda tables: [[0, *row[:-1]] for row in tables], "first_bad_prefix_is_true"),
        (lambda tables: [[0] * len(row) for row in tables], "bounds_kept_when_met"),
    ],
)
def test_floors_that_are_late_or_gone_are_caught(
    spoil: Callable[[list[list[int]]], list[list[int]]],
    theorem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernels run on spoiled tables; the checks know the right ones."""
    monkeypatch.setattr(run, "SHRUNK", 0)
    _, facts = facts_of('a = "1/2"\nb = "1/3"\n', "floors")
    document = (
        'name = "p"\nversion = "1"\nkind = "floors"\ngroup_table = "t"\n'
        'reason = "made for a test"\n[floors]\na = "1/2"\nb = "1/3"\n'
    )
    compiled = compile_policy(parse_policy(document, "test"), LABELS, 20)
    spoiled = dataclasses.replace(
        compiled, floors=np.array(spoil(compiled.floors.tolist()), np.int32)
    )
    _, right = facts_of('a = "1/2"\nb = "1/3"\n', "floors")
    right = dataclasses.replace(right, digest=compiled.policy.digest)
    claims = Claims()
    prop = run._rerank_property(
        claims, Kernels({"p": spoiled}), World("x", (right,), max_count=20), right
    )
    found: list[Violation] = []
    run.search(prop, claims, 60, 3, lambda: None, found)
    assert theorem in {violation.invariant for violation in found}
    assert facts.labels == LABELS


@st.composite
def small(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]], list[list[int]], int]:
    size = draw(st.integers(1, 4))
    groups = draw(st.integers(1, 3))
    gains = [
        sorted(draw(st.lists(st.integers(0, 9).map(float), max_size=3)), reverse=True)
        for _ in range(groups)
    ]
    floors, ceilings = [], []
    for _ in range(groups):
        steps = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
        slack = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
        row = [0]
        for step in steps:
            row.append(row[-1] + step)
        floors.append(row)
        ceilings.append([0, *(low + more for low, more in zip(row[1:], slack, strict=True))])
    return gains, floors, ceilings, size


@given(small())
def test_the_oracles_agree_with_trying_every_permutation(
    case: tuple[list[list[float]], list[list[int]], list[list[int]], int],
) -> None:
    gains, floors, ceilings, size = case
    items = [(g, gain) for g, own in enumerate(gains) for gain in own]

    def kept(order: tuple[tuple[int, float], ...]) -> bool:
        return all(
            floors[g][k] <= sum(h == g for h, _ in order[:k]) <= ceilings[g][k]
            for k in range(1, len(order) + 1)
            for g in range(len(gains))
        )

    bad = next(
        (k for k in range(1, size + 1) if not any(kept(o) for o in permutations(items, k))), 0
    )
    assert first_unkeepable_prefix([len(own) for own in gains], floors, ceilings, size) == bad
    fair = [dcg([gain for _, gain in o]) for o in permutations(items, size) if kept(o)]
    best = best_utility(gains, floors, ceilings, size)
    assert (best is None) == (not fair)
    if best is not None:
        assert best == pytest.approx(max(fair))


def test_exposure_shares_add_up_to_one() -> None:
    shares = exposure(["a", "b", "a"])
    assert shares["a"][0] == 2
    assert sum(share for _, share in shares.values()) == pytest.approx(1)
    assert shares["b"][1] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3) + 0.5))
