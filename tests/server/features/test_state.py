"""The feature state as arrays: there and back, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.features import FeatureState, SparseWeights, pair_features, warm_up
from strategies.bundles import N_ITEMS
from strategies.histories import NOW_MS, history_of, shop_state

Arrays = dict[str, np.ndarray]


def test_the_state_survives_the_way_through_arrays_with_every_bit() -> None:
    state = shop_state(max_history=77)
    again = FeatureState.from_arrays(state.to_arrays())
    assert again.max_history == 77
    for name, array in state.to_arrays().items():
        assert array.dtype == again.to_arrays()[name].dtype, name
        assert array.tobytes() == again.to_arrays()[name].tobytes(), name


def _changed(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Arrays], None]:
    def apply(arrays: Arrays) -> None:
        arrays[name] = change(arrays[name].copy())

    return apply


def _with(place: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def put(array: np.ndarray) -> np.ndarray:
        array[place] = value
        return array

    return put


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda arrays: arrays.pop("gap_days"), "gap_days: missing"),
        (_changed("popularity", lambda a: a.astype(np.float64)), "popularity: got 1-d float64"),
        (_changed("popularity", lambda a: a[None]), "popularity: got 2-d float32"),
        (_changed("repeat_rate", lambda a: a[:-1]), "repeat_rate: got 59 values, allowed: 60"),
        (_changed("repeat_rate", _with(3, np.nan)), "repeat_rate: holds a value that is not fin"),
        (_changed("gap_days", _with(0, 0.0)), "gap_days: lowest value 0.0, allowed: above 0"),
        (_changed("category", _with(0, N_ITEMS)), "category: got 0 to 60, allowed: 0 to 59"),
        (_changed("provider", _with(0, -1)), "provider: got -1"),
        (_changed("popular", _with(0, 5)), "popular: an item is missing or stands there twice"),
        (_changed("max_history", _with(0, 0)), "max_history: got 0, allowed: at least 1"),
        (_changed("ease.items", _with(0, N_ITEMS)), "ease.items: got"),
        (_changed("ease.weights", _with(0, np.inf)), "ease.weights: holds a value that is not"),
        (_changed("cosine.row_ptr", _with(-1, 1)), "cosine.row_ptr: must rise from 0 to"),
        (_changed("cosine.row_ptr", _with(1, 10_000)), "cosine.row_ptr: must rise from 0 to"),
        (_changed("ease.row_ptr", lambda a: a[:-1]), "ease.row_ptr: got 60 values, allowed: 61"),
    ],
)
def test_damaged_arrays_are_refused_by_name(damage: Callable[[Arrays], None], why: str) -> None:
    arrays = shop_state().to_arrays()
    damage(arrays)
    with pytest.raises(ValueError, match=why):
        FeatureState.from_arrays(arrays)


@given(
    st.lists(
        st.dictionaries(st.integers(0, 7), st.floats(-4, 4, width=32), max_size=8),
        min_size=8,
        max_size=8,
    )
)
def test_the_transposed_weights_are_the_same_weights_by_target(
    rows: list[dict[int, float]],
) -> None:
    turned = SparseWeights.of_rows([sorted(row.items()) for row in rows]).transposed
    for target in range(8):
        part = slice(turned.row_ptr[target], turned.row_ptr[target + 1])
        found = list(zip(turned.items[part].tolist(), turned.weights[part].tolist(), strict=True))
        assert found == [(s, row[target]) for s, row in enumerate(rows) if target in row]


def test_warming_up_leaves_the_state_as_it_was() -> None:
    state = shop_state()
    history, items = history_of([(1, 5), (2, 9)]), np.arange(N_ITEMS, dtype=np.int32)
    before = pair_features(history, items, NOW_MS, state)
    warm_up(state)
    assert pair_features(history, items, NOW_MS, state).tobytes() == before.tobytes()
    for name, array in shop_state().to_arrays().items():
        assert state.to_arrays()[name].tobytes() == array.tobytes()
