"""Faults planted in what is made of a part of the order: the soak's loop and the proof's see them.

The loops run as plain Python, over the kernels, so that a fault can be put in their place.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bench.fairness import exhaustive, kernel, larger, soak_loop
from bench.fairness.draw import KINDS, draw_pool
from server.fairness import kernels
from server.fairness.discount import discounts
from server.jit import kernel as kernel_of

Plant = Callable[[pytest.MonkeyPatch], None]
HEAD, LIST = kernels.head_by_score, kernels.fair_list


def _plain(monkeypatch: pytest.MonkeyPatch, **instead: Any) -> None:
    """`fair_list` as plain Python, with some of the kernels that it calls replaced."""
    for name, other in instead.items():
        monkeypatch.setattr(kernels, name, other)
    monkeypatch.setattr(kernels, "fair_list", LIST.py_func)


def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault: what is seen below comes of those that are planted."""
    _plain(monkeypatch)


def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is returned as it is where the part was too short."""
    monkeypatch.setattr(kernel, "kernels", _Without(kernels, TOO_SHORT=-99))


def no_tie_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal scores of a part go by position."""
    _plain(monkeypatch, head_by_score=lambda keys, depth, _: HEAD(keys, depth, kernel.NO_TIE_BREAK))


def ties_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What equals the best of the rest is taken to be settled."""
    _plain(
        monkeypatch,
        head_by_score=lambda keys, depth, ties: HEAD(keys[:depth].copy(), depth, ties),
    )


def short_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part is taken for all that there is: a ceiling yields, a floor is left, too early."""
    arrange_head = kernels.arrange_head

    def as_if_whole(groups: Any, order: Any, supply: Any, *more: Any) -> Any:
        own = np.bincount(groups[order], minlength=len(supply)).astype(np.int32)
        return arrange_head(groups, order, own, *more)

    _plain(monkeypatch, arrange_head=as_if_whole)


def not_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first items are taken for the best ones. (A small world's are: its items come by score.)"""
    monkeypatch.setattr(kernel, "np", _Without(np, partition=lambda keys, depth: keys))


class _Without:
    """A module with some names replaced, for one who imports it."""

    def __init__(self, module: Any, **instead: Any) -> None:
        self.__dict__.update(vars(module), **instead)


FAULTS: list[Plant] = [no_second_try, no_tie_break, ties_cut_off, short_is_whole, not_parted]


@kernel_of
def _seed(seed: int) -> None:
    np.random.seed(seed)


def _soaked() -> int:
    pool = draw_pool(random.Random(3), 16, KINDS, 64, 50)
    found = soak_loop.soak_chunk.py_func(
        3, 3000, pool.floors, pool.ceilings, pool.sizes, discounts(50)
    )
    return int(found.wrong)


def _worlds() -> int:
    floors, ceilings = exhaustive.tables(exhaustive.World(5, 3, 2))
    floors, ceilings = floors[::6], ceilings[::6]
    return int(exhaustive._try_all.py_func(floors, ceilings, 5, True, True, discounts(3))[2])


def _random_ones() -> int:
    pool = draw_pool(random.Random(3), 16, ("floors", "fa_ir"), 16, 60)
    found = larger.floors_against_backward.py_func(
        3, 2000, pool.floors, pool.ceilings, pool.sizes, discounts(60)
    )
    return int(found[1])


@pytest.fixture
def plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    served = kernel.served_places.py_func
    for module in (soak_loop, exhaustive, larger):
        monkeypatch.setattr(module, "served_places", served)
    monkeypatch.setattr(larger, "_served", larger._served.py_func)
    # The loop seeds the generator of plain Python; what it calls is compiled and has its own.
    _seed(3)


@pytest.mark.usefixtures("plain_loops")
@pytest.mark.parametrize("loop", [_soaked, _worlds, _random_ones])
@pytest.mark.parametrize("plant", [nothing, *FAULTS])
def test_a_fault_in_the_part_is_seen(
    plant: Plant, loop: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    unseen = plant is nothing or (plant, loop) == (not_parted, _worlds)
    assert (loop() > 0) != unseen
