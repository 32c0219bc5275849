"""The checks find the faults that other libraries ship when they are planted here.

Each algorithm is there twice: right, and with the one wrong line. The checks must
pass the first and find the second, so that what they find is that line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from server.fairness import CompiledPolicy, FairList, GroupExposure, Receipt, Status, rerank
from server.fairness.invariants import check_list, check_same, exposure, utility_kept
from server.fairness.types import PrefixViolation, ReasonCode, Skip
from strategies.fairness import LABELS, Case, compiled, shares

LENGTH = 12
Algorithm = Callable[[Case, bool], list[int]]


def with_receipt(case: Case, order: list[int]) -> FairList:
    """A list as the fault's author would send it: in good faith, and said to keep the policy."""
    scores, groups, _, policy = case
    by_score = sorted(range(len(scores)), key=lambda p: (-scores[p], p))
    ranks = [by_score.index(p) + 1 for p in order]
    reasons = [
        ReasonCode.SCORE
        if rank == place
        else ReasonCode.RAISED_FOR_FLOOR
        if rank > place
        else ReasonCode.LOWERED_FOR_FLOOR
        for place, rank in enumerate(ranks, start=1)
    ]
    told = exposure([int(groups[p]) for p in order])
    return FairList(
        np.array(order, np.int32),
        np.array(ranks, np.int32),
        np.array(reasons, np.int8),
        Receipt(
            policy.policy.name,
            policy.policy.version,
            policy.policy.digest,
            policy.policy.group_table,
            Status.MET,
            Skip.NOT_SKIPPED,
            None,
            utility_kept(scores.tolist(), order),
            sum(rank != place for place, rank in enumerate(ranks, start=1)),
            tuple(GroupExposure(policy.labels[g], *told[g]) for g in told),
        ),
    )


def members(case: Case) -> list[list[int]]:
    """The candidates of each group, best first."""
    scores, groups, _, policy = case
    order = sorted(range(len(scores)), key=lambda p: (-scores[p], p))
    return [[p for p in order if groups[p] == g] for g in range(len(policy.labels))]


def greedy(case: Case, planted: bool) -> list[int]:
    """DetGreedy: serve the best head of the groups below their floor, else of those below ceiling.

    aif360 0.6.1: the index in the filtered list is taken for a group.
    """
    scores, _, count, policy = case
    heads, have, order = members(case), [0] * len(policy.labels), []
    for place in range(1, count + 1):
        below = [g for g, n in enumerate(have) if n < policy.floors[g, place]] or [
            g
            for g, (_, share) in enumerate(policy.policy.rules[0].shares)
            if have[g] < share * place
        ]
        index = max(range(len(below)), key=lambda i: scores[heads[below[i]][have[below[i]]]])
        order.append(heads[below[index]][have[below[index]]])
        have[index if planted else below[index]] += 1
    return order


def det_const_sort(case: Case, planted: bool) -> list[int]:
    """DetConstSort (Geyik et al., KDD 2019): a floor that rises adds an item, which then climbs.

    FairRankTune 0.0.7: an item may be pushed one place beyond its last allowed one.
    """
    scores, _, count, policy = case
    heads, have = members(case), [0] * len(policy.labels)
    order: list[int] = []
    last_places: list[int] = []
    for prefix in range(1, policy.max_count + 1):
        risen = [g for g in range(len(have)) if policy.floors[g, prefix] > have[g]]
        for g in sorted(risen, key=lambda g: -scores[heads[g][have[g]]]):
            order.append(heads[g][have[g]])
            last_places.append(prefix)
            have[g] += 1
            at = len(order) - 1
            while (
                at > 0
                and last_places[at - 1] >= (at if planted else at + 1)
                and scores[order[at - 1]] < scores[order[at]]
            ):
                order[at - 1], order[at] = order[at], order[at - 1]
                last_places[at - 1], last_places[at] = last_places[at], last_places[at - 1]
                at -= 1
    return order[:count]


def skipped_position(case: Case, planted: bool) -> list[int]:
    """Our own list, from a table whose last position was not computed (fairsearchcore 1.0.4)."""
    scores, groups, count, policy = case
    floors = policy.floors.copy()
    if planted:
        floors[:, count:] = floors[:, count - 1 : count]
    return rerank(scores, groups, count, dataclasses.replace(policy, floors=floors)).order.tolist()


def random_cases(n: int) -> list[Case]:
    """Floors over three groups that add up to 1, with supply enough for every list."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(n):
        parts = rng.integers(1, 6, 3).tolist()
        body = "[floors]\n" + shares(parts, sum(parts))
        policy = compiled("floors", body, LABELS[:3], LENGTH + 3)
        groups = np.repeat(np.arange(3, dtype=np.int32), LENGTH + 3)
        scores = rng.random(len(groups)) * rng.random(3)[groups]
        found.append((scores.astype(np.float32), groups, LENGTH, policy))
    return found


def broken(algorithm: Algorithm, planted: bool) -> list[str]:
    """What is told of each case that is broken, joined."""
    told = []
    for case in random_cases(60):
        scores, groups, count, policy = case
        fair = with_receipt(case, algorithm(case, planted))
        told.append("; ".join(check_list(scores.tolist(), groups.tolist(), count, policy, fair)))
    return [line for line in told if line]


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [(greedy, "twice"), (det_const_sort, "break group"), (skipped_position, "first 12 places")],
)
def test_a_fault_of_another_library_is_found_when_it_is_planted(
    algorithm: Algorithm, words: str
) -> None:
    assert broken(algorithm, planted=False) == []
    found = broken(algorithm, planted=True)
    assert len(found) >= 10
    assert any(words in told for told in found)


SCORES = np.linspace(1, 0.1, 10).astype(np.float32)
GROUPS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 1], np.int32)


@pytest.fixture
def policy() -> CompiledPolicy:
    return compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2])


def found(policy: CompiledPolicy, count: int, fair: FairList) -> list[str]:
    return check_list(SCORES.tolist(), GROUPS.tolist(), count, policy, fair)


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"utility_kept": 1.0}, "utility kept"),
        ({"places_moved": 0}, "places moved"),
        ({"status": Status.INFEASIBLE}, "keeps every bound"),
        ({"exposure": ()}, "exposure"),
        ({"policy_digest": "0" * 64}, "names policy"),
    ],
)
def test_a_receipt_that_lies_is_found(
    policy: CompiledPolicy, planted: dict[str, object], words: str
) -> None:
    fair = rerank(SCORES, GROUPS, 6, policy)
    lie = dataclasses.replace(fair, receipt=dataclasses.replace(fair.receipt, **planted))
    assert found(policy, 6, fair) == []
    assert any(words in line for line in found(policy, 6, lie))


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"order": np.int32([0, 6])}, "expected 6"),
        ({"order": np.int32([0, 6, 99, 1, 2, 3])}, "no candidate"),
        ({"order": np.int32([1, 6, 2, 7, 3, 9])}, "left out"),
        ({"order": np.int32([1, 6, 0, 7, 2, 9])}, "scores higher"),
        ({"rank_by_score": np.int32([1, 7, 2, 8, 3, 9])}, "rank by score 9"),
        ({"rank_by_score": np.int32([1, 7, 2, 8, 3, 3])}, "two items"),
        ({"reasons": np.full(6, ReasonCode.SCORE, np.int8)}, "gives reason"),
    ],
)
def test_a_wrong_list_is_found(
    policy: CompiledPolicy, planted: dict[str, object], words: str
) -> None:
    lie = dataclasses.replace(rerank(SCORES, GROUPS, 6, policy), **planted)
    assert any(words in line for line in found(policy, 6, lie))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "without a first bad prefix"),
        (PrefixViolation(8, "b", 4, 2), "no proof"),
        (PrefixViolation(8, "a", 4, 3), "no proof"),
        (PrefixViolation(8, "z", 4, 3), "names no group"),
        (PrefixViolation(10, "b", 5, 3), "prefix 8 is bad before"),
    ],
)
def test_a_certificate_that_proves_nothing_is_found(
    policy: CompiledPolicy, bad: PrefixViolation | None, words: str
) -> None:
    fair = rerank(SCORES, GROUPS, 10, policy)
    assert fair.receipt.first_bad_prefix == PrefixViolation(8, "b", 4, 3)
    assert found(policy, 10, fair) == []
    lie = dataclasses.replace(fair, receipt=dataclasses.replace(fair.receipt, first_bad_prefix=bad))
    assert any(words in line for line in found(policy, 10, lie))


def test_two_lists_that_differ_are_told_apart(policy: CompiledPolicy) -> None:
    one, other = rerank(SCORES, GROUPS, 6, policy), rerank(SCORES[::-1], GROUPS, 6, policy)
    assert check_same(one, one) == []
    assert any("differ from place 1 on" in line for line in check_same(one, other))
    assert check_same(one, one, list(range(10))[::-1]) != []
