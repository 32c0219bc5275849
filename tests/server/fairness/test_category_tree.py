"""Two levels of a category tree, a table each, with caps on both: against all lists."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fairness import (
    CompiledPolicy,
    Status,
    TableGroups,
    compile_tables,
    parse_policy,
    rerank,
)
from server.fairness.metrics import dcg

PARENT = np.array([0, 0, 0, 1, 1])
"""The department of each aisle."""
COUNT = 4


def capped(department: tuple[int, int], aisle: tuple[int, int]) -> CompiledPolicy:
    """(at most, within the first) of each level."""
    text = 'name = "tree"\nversion = "1"\nkind = "stack"\nreason = "Two levels of a tree."\n'
    for table, (most, within) in (("department", department), ("aisle", aisle)):
        cap = f"{{at_most = {min(most, within)}, within_first = {within}}}"
        text += f'[[stack]]\nkind = "cap"\ngroup_table = "{table}"\ncap = {cap}\n'
    labels = {
        "department": TableGroups.of(("d0", "d1")),
        "aisle": TableGroups.of(tuple(f"a{own}" for own in range(len(PARENT)))),
    }
    return compile_tables(parse_policy(text, "tree"), labels, COUNT)


def keeps(groups: np.ndarray, caps: tuple[tuple[int, int], ...]) -> bool:
    """groups `[2, k]`: no group of a level stands more than so often in the first so many places."""
    return all(
        np.bincount(own[:within]).max() <= min(most, within)
        for own, (most, within) in zip(groups, caps, strict=True)
    )


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=7),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 4)),
)
def test_two_levels_of_a_category_tree(
    items: list[tuple[int, int]], department: tuple[int, int], aisle: tuple[int, int]
) -> None:
    scores = np.array([score for score, _ in items], np.float32) / np.float32(10)
    aisles = np.array([own for _, own in items])
    compiled = capped(department, aisle)
    levels = np.stack([PARENT[aisles], aisles])
    rows = (levels + np.array(compiled.starts)[:, np.newaxis]).astype(np.int32)
    size = min(COUNT, len(items))
    fair = rerank(scores, rows, COUNT, compiled)
    worlds = [
        dcg(scores[list(places)])
        for places in itertools.permutations(range(len(items)), size)
        if keeps(levels[:, list(places)], (department, aisle))
    ]
    if not worlds:
        assert fair.receipt.status is Status.INFEASIBLE
        return
    assert fair.receipt.status is Status.MET
    assert keeps(levels[:, fair.order], (department, aisle))
    assert dcg(scores[fair.order]) == pytest.approx(max(worlds), abs=1e-6)
    assert fair.receipt.utility_of_best == pytest.approx(1)
