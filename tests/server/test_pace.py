"""The usual time of a piece of work: near its 90th percentile, quick to rise, never stuck."""

from __future__ import annotations

import numpy as np
import pytest

from server.pace import Pace


@pytest.mark.parametrize("scale", [1e4, 1e7])
def test_it_settles_near_the_percentile(scale: float) -> None:
    pace, rng = Pace(), np.random.default_rng(5)
    drawn = scale * rng.lognormal(0, 0.5, 4000)
    for spent_ns in drawn:
        pace.took(spent_ns)
    share = (drawn < pace.ns).mean()
    assert 0.8 < share < 0.97


def test_a_server_that_becomes_ten_times_slower_is_known_within_thirty_pieces() -> None:
    pace = Pace()
    for spent_ns in [1e6] * 100 + [1e7] * 30:
        pace.took(spent_ns)
    assert pace.ns > 0.9e7


def test_what_is_only_refused_comes_down() -> None:
    pace = Pace()
    pace.took(1e9)
    for _ in range(1000):
        pace.relax()
    assert 0 < pace.ns < 1e6


def test_the_first_piece_is_the_first_figure() -> None:
    pace = Pace()
    assert pace.ns == 0
    pace.took(0)
    assert pace.ns == 1
