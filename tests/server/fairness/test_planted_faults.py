"""The checks find the faults that other libraries ship, when they are planted here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from server.fairness import CompiledPolicy, FairList, Status, compile_policy, parse_policy, rerank
from server.fairness.invariants import check_list
from strategies.fairness import LABELS, document

SCORES = np.linspace(1, 0.1, 10).astype(np.float32)
GROUPS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 0, 1], np.int32)


@pytest.fixture
def policy() -> CompiledPolicy:
    body = '[floors]\nb = "1/2"\n'
    return compile_policy(parse_policy(document("floors", body), "test"), LABELS[:2], 12)


def found(policy: CompiledPolicy, **planted: object) -> list[str]:
    fair = rerank(SCORES, GROUPS, 6, policy)
    return check_list(
        SCORES.tolist(), GROUPS.tolist(), 6, policy, dataclasses.replace(fair, **planted)
    )


def receipt_with(policy: CompiledPolicy, **planted: object) -> FairList:
    fair = rerank(SCORES, GROUPS, 6, policy)
    return dataclasses.replace(fair, receipt=dataclasses.replace(fair.receipt, **planted))


def test_an_honest_list_passes(policy: CompiledPolicy) -> None:
    assert found(policy) == []


def test_an_index_into_a_filtered_list_taken_for_a_group_is_found(policy: CompiledPolicy) -> None:
    # aif360 0.6.1 Greedy: duplicates in the list.
    assert any("twice" in told for told in found(policy, order=np.int32([0, 6, 6, 7, 1, 9])))


def test_an_off_by_one_in_a_deadline_is_found(policy: CompiledPolicy) -> None:
    # FairRankTune 0.0.7: an item placed one after its deadline.
    late = dataclasses.replace(policy, floors=np.roll(policy.floors, 1, axis=1))
    late.floors[:, 0] = 0
    fair = rerank(SCORES, GROUPS, 6, late)
    told = check_list(SCORES.tolist(), GROUPS.tolist(), 6, policy, fair)
    assert any("break group 'b'" in line for line in told)


def test_a_skipped_position_of_a_table_is_found(policy: CompiledPolicy) -> None:
    # fairsearchcore 1.0.4: the last position of a table is not filled.
    short = policy.floors.copy()
    short[:, 6:] = short[:, 5:6]
    fair = rerank(SCORES, GROUPS, 6, dataclasses.replace(policy, floors=short))
    told = check_list(SCORES.tolist(), GROUPS.tolist(), 6, policy, fair)
    assert any("first 6 places" in line for line in told)


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ({"utility_kept": 1.0}, "utility kept"),
        ({"places_moved": 0}, "places moved"),
        ({"status": Status.INFEASIBLE}, "keeps every bound"),
    ],
)
def test_a_receipt_that_lies_is_found(
    policy: CompiledPolicy, planted: dict[str, object], words: str
) -> None:
    fair = receipt_with(policy, **planted)
    told = check_list(SCORES.tolist(), GROUPS.tolist(), 6, policy, fair)
    assert any(words in line for line in told)


def test_a_short_list_and_a_foreign_item_are_found(policy: CompiledPolicy) -> None:
    assert any("expected 6" in told for told in found(policy, order=np.int32([0, 6])))
    assert any("no candidate" in told for told in found(policy, order=np.int32([0, 6, 99])))
