"""Instances of several group tables, and what holds of every answer to one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bench.fairness.overlap_gap import Arranged, Instance
from server.fairness.invariants import broken_bounds
from server.fairness.overlap import KEPT


def made(scores: list[float], members: list[list[int]], blocks: list[int], size: int) -> Instance:
    """An instance without bounds, for those that a test sets itself."""
    prefix = np.arange(size + 1, dtype=np.int32)
    return Instance(
        np.array(scores, np.float32),
        np.array(members, np.int32),
        np.array(blocks, np.int32),
        np.zeros((blocks[-1], size + 1), np.int32),
        np.tile(prefix, (blocks[-1], 1)),
        size,
    )


def broken(instance: Instance, places: list[int]) -> list[tuple[int, int]]:
    """The (prefix, row) pairs outside their bounds, by the definition."""
    return sorted(
        (prefix, first + row)
        for a, (first, end) in enumerate(itertools.pairwise(instance.blocks.tolist()))
        for prefix, row in broken_bounds(
            [int(instance.members[a, p]) - first for p in places],
            instance.floors[first:end].tolist(),
            instance.ceilings[first:end].tolist(),
        )
    )


def utility(instance: Instance, places: list[int]) -> float:
    return float(instance.scores[places].astype(np.float64) @ instance.discounts)


def unit(instance: Instance) -> float:
    """What sums of scores are told to parts of: the largest score, 1 where there is none but 0."""
    return float(np.abs(instance.scores.astype(np.float64)).max(initial=0)) or 1.0


def check(instance: Instance, got: Arranged) -> None:
    """What holds of every answer."""
    places = got.places.tolist()
    assert len(places) == len(set(places)) == instance.size
    assert got.utility == pytest.approx(utility(instance, places), abs=1e-9 * unit(instance))
    assert got.bound >= got.utility
    assert got.broken == next(iter(broken(instance, places)), (0, 0))
    assert (got.verdict == KEPT) == (got.broken == (0, 0))
