"""What no kernel may be given is refused before it: each of these once read or wrote outside of an array."""

from __future__ import annotations

import numpy as np
import pytest

from server.errors import InvalidField
from server.fairness import CompiledPolicy, parse_policy, rerank
from server.fairness.compile import TableGroups, compile_tables
from strategies.fairness import LABELS, compiled, document

FLOORS = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2])
NONE = compiled("none", "", [])
SCORES, GROUPS = np.float32([0.9, 0.8, 0.7, 0.6]), np.int32([0, 0, 1, 1])


def untabled(kind: str, body: str) -> str:
    return document(kind, body).replace('group_table = "t"\n', "")


def two_tables(extra: str = "") -> CompiledPolicy:
    body = '[intersection.s]\na = "1/2"\n[intersection.t]\nc = "1/2"\n'
    tables = {"s": TableGroups.of(["a", "b"]), "t": TableGroups.of(["c", "d"])}
    return compile_tables(parse_policy(untabled("intersection", body), "test"), tables, 12)


BOTH = np.int32([[0, 1, 0, 1], [2, 3, 3, 2]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 3])
def test_several_tables_want_finite_scores_and_boosts(bad: float, place: int) -> None:
    scores = SCORES.copy()
    scores[place] = bad
    with pytest.raises(InvalidField, match=rf"scores\[{place}\]: got .*, allowed: a finite"):
        rerank(scores, BOTH, 4, two_tables())


def test_a_boost_of_several_tables_leaves_the_sum_finite() -> None:
    stack = (
        'name = "p"\nversion = "1"\nkind = "stack"\nreason = "Rules together."\n'
        '[[stack]]\nkind = "amortised"\ngroup_table = "s"\n'
        'amortised = {method = "p_mmf", strength = "1/5"}\n'
        '[[stack]]\nkind = "floors"\ngroup_table = "s"\nfloors = {a = "1/2"}\n'
        '[[stack]]\nkind = "floors"\ngroup_table = "t"\nfloors = {c = "1/2"}\n'
    )
    tables = {"s": TableGroups.of(["a", "b"]), "t": TableGroups.of(["c", "d"])}
    policy = compile_tables(parse_policy(stack, "test"), tables, 12)
    fine = rerank(SCORES, BOTH, 4, policy, boost=np.float32([0, 0, 0, 1]))
    assert len(fine.order) == 4
    with pytest.raises(InvalidField, match=r"boost\[2\]: got nan"):
        rerank(SCORES, BOTH, 4, policy, boost=np.float32([0, 0, np.nan, 0]))
    huge = np.full(4, 3e38, np.float32)
    with np.errstate(over="ignore"), pytest.raises(InvalidField, match=r"boost\[0\]: got inf"):
        rerank(huge, BOTH, 4, policy, boost=huge)


@pytest.mark.parametrize(
    ("fixed", "told"),
    [
        ([7], "fixed: got 7, allowed: 0 to 3, positions of candidates"),
        ([4], "fixed: got 4, allowed: 0 to 3, positions of candidates"),
        ([2, -1], "fixed: got -1, allowed: 0 to 3"),
        ([7, -1], "fixed: got 7, allowed: 0 to 3"),
        ([1, 1], "fixed: got 'a position twice', allowed: each once"),
        ([0, 1, 2], "fixed: got '3 positions', allowed: at most 2, the list's places"),
    ],
)
@pytest.mark.parametrize("policy", [FLOORS, NONE], ids=["floors", "none"])
def test_what_was_shown_are_positions_of_candidates_each_once(
    fixed: list[int], told: str, policy: CompiledPolicy
) -> None:
    with pytest.raises(InvalidField, match=told):
        rerank(SCORES, GROUPS, 2, policy, fixed=np.int32(fixed))


def test_a_whole_list_may_have_been_shown() -> None:
    assert rerank(SCORES, GROUPS, 2, FLOORS, fixed=np.int32([3, 0])).order.tolist() == [3, 0]


@pytest.mark.parametrize("shape", [(1, 2), (4,), (5, 2), (4, 2, 1)])
def test_each_candidate_has_a_vector(shape: tuple[int, ...]) -> None:
    text = untabled("diverse", '[diverse]\nmethod = "mmr"\ntrade_off = "1/5"\n')
    policy = compile_tables(parse_policy(text, "test"), {}, 12)
    with pytest.raises(InvalidField, match=r"vectors: got .*, allowed: \(4, d\), one for each"):
        rerank(SCORES, GROUPS, 2, policy, vectors=np.ones(shape, np.float32))


@pytest.mark.parametrize("groups", [[2**32, 0, 1, 1], [0.9, 0, 1, 1], [0, 0, np.nan, 1]])
def test_a_group_that_a_narrower_number_would_change_is_refused(groups: list[float]) -> None:
    with pytest.raises(InvalidField, match=r"groups: got .*, allowed: whole numbers of 32 bits"):
        rerank(SCORES, np.array(groups), 2, FLOORS)


def test_of_several_groups_that_do_not_fit_the_first_is_told() -> None:
    with pytest.raises(InvalidField, match=rf"groups: got {2**33}, allowed"):
        rerank(SCORES, np.array([0, 2**33, 2**34, 1]), 2, FLOORS)


def test_scores_of_more_digits_are_rounded() -> None:
    scores = np.array([0.1, 0.3, 0.2, 0.4])
    made = rerank(scores, GROUPS, 2, FLOORS)
    assert made.order.tolist() == rerank(np.float32(scores), GROUPS, 2, FLOORS).order.tolist()
