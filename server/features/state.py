"""What the features know about the items: statistics fitted on the training part.

Owns `FeatureState`, its form as named arrays and the checks on them. Holds
aggregates over users only, never a user: no weight between two items rests on
fewer buyers than `training.itemitem` demands. Knows neither files nor how the
numbers were fitted.

>>> SparseWeights.of_rows([[(1, 0.5)], []]).row_ptr.tolist()
[0, 1, 1]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.features.types import Float32, Int32, Int64
from server.jit import kernel

_PER_ITEM_FLOATS = ("popularity", "popularity_recent", "repeat_rate", "gap_days", "private_label")
_PER_ITEM_CODES = ("category", "department", "provider")


@dataclass(frozen=True)
class SparseWeights:
    """Item-item weights by source row (CSR): `items[row_ptr[i]:row_ptr[i+1]]` go with item i.

    row_ptr: `[n_items + 1] int64`; items: `[nnz] int32`; weights: `[nnz] float32`.
    """

    row_ptr: Int64
    items: Int32
    weights: Float32

    @cached_property
    def transposed(self) -> SparseWeights:
        """The same weights by target: row j holds the sources of item j, in rising order."""
        return SparseWeights(*_transposed(self.row_ptr, self.items, self.weights))

    @staticmethod
    def of_rows(rows: Sequence[Sequence[tuple[int, float]]]) -> SparseWeights:
        """The weights from explicit rows of (item, weight)."""
        lengths = [len(row) for row in rows]
        flat = [pair for row in rows for pair in row]
        return SparseWeights(
            np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)]),
            np.array([item for item, _ in flat], np.int32),
            np.array([weight for _, weight in flat], np.float32),
        )


@dataclass(frozen=True)
class FeatureState:
    """Everything that `pair_features` and `generate_candidates` read besides the history.

    popularity, popularity_recent: `[n] float32`, log(1 + purchases) of the whole training part
        and of its last four weeks.
    repeat_rate: `[n] float32` in 0..1, smoothed share of an item's buyers who bought it again.
    gap_days: `[n] float32` > 0, smoothed mean days between two purchases by one user.
    private_label: `[n] float32`, 1 for the shop's own brand.
    category, department, provider: `[n] int32` codes: the rank of the label among the sorted
        distinct labels of that attribute in the item table.
    popular: `[n] int32`, every item once, best seller of the last four weeks first.
    ease: EASE weights (Steck 2019, eq. 8), the strongest of each item.
    cosine: item-item cosine, the strongest of each item.
    max_history: only the most recent so many events of a history count.
    """

    popularity: Float32
    popularity_recent: Float32
    repeat_rate: Float32
    gap_days: Float32
    private_label: Float32
    category: Int32
    department: Int32
    provider: Int32
    popular: Int32
    ease: SparseWeights
    cosine: SparseWeights
    max_history: int = 10_000

    @property
    def n_items(self) -> int:
        """How many items there are."""
        return len(self.popularity)

    @cached_property
    def n_codes(self) -> tuple[int, int, int]:
        """One more than the highest code of category, department and provider."""
        category, department, provider = (
            int(codes.max(initial=-1)) + 1
            for codes in (self.category, self.department, self.provider)
        )
        return category, department, provider

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The state as named arrays, as `from_arrays` takes them."""
        arrays: dict[str, NDArray[Any]] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, SparseWeights):
                for part in fields(value):
                    arrays[f"{field.name}.{part.name}"] = getattr(value, part.name)
            else:
                arrays[field.name] = np.asarray(value) if field.name != "max_history" else value
        arrays["max_history"] = np.array([self.max_history], np.int64)
        return arrays

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> FeatureState:
        """The state from named arrays; ValueError names the array, what it is and what it must be."""
        n = len(_array(arrays, "popularity", np.float32))
        floats = {name: _array(arrays, name, np.float32, n) for name in _PER_ITEM_FLOATS}
        for name, values in floats.items():
            if not np.isfinite(values).all():
                raise ValueError(f"{name}: holds a value that is not finite")
        if n and floats["gap_days"].min() <= 0:
            raise ValueError(f"gap_days: lowest value {floats['gap_days'].min()}, allowed: above 0")
        codes = {name: _array(arrays, name, np.int32, n) for name in _PER_ITEM_CODES}
        for name, values in codes.items():
            _in_range(name, values, n)
        popular = _array(arrays, "popular", np.int32, n)
        _in_range("popular", popular, n)
        if len(np.unique(popular)) != n:
            raise ValueError("popular: an item is missing or stands there twice")
        max_history = _array(arrays, "max_history", np.int64, 1)[0]
        if max_history < 1:
            raise ValueError(f"max_history: got {max_history}, allowed: at least 1")
        return FeatureState(
            **floats,
            **codes,
            popular=popular,
            ease=_weights(arrays, "ease", n),
            cosine=_weights(arrays, "cosine", n),
            max_history=int(max_history),
        )


@kernel
def _transposed(row_ptr: Int64, items: Int32, weights: Float32) -> tuple[Int64, Int32, Float32]:
    n = len(row_ptr) - 1
    target_ptr = np.zeros(n + 1, np.int64)
    for at in range(len(items)):
        target_ptr[items[at] + 1] += 1
    for item in range(n):
        target_ptr[item + 1] += target_ptr[item]
    free = target_ptr[:-1].copy()
    sources = np.empty(len(items), np.int32)
    values = np.empty(len(items), np.float32)
    for source in range(n):
        for at in range(row_ptr[source], row_ptr[source + 1]):
            place = free[items[at]]
            sources[place] = source
            values[place] = weights[at]
            free[items[at]] += 1
    return target_ptr, sources, values


def _array(
    arrays: Mapping[str, NDArray[Any]], name: str, dtype: type[Any], length: int | None = None
) -> NDArray[Any]:
    array = arrays.get(name)
    if array is None:
        raise ValueError(f"{name}: missing")
    if array.dtype != np.dtype(dtype) or array.ndim != 1:
        raise ValueError(
            f"{name}: got {array.ndim}-d {array.dtype}, allowed: 1-d {np.dtype(dtype)}"
        )
    if length is not None and len(array) != length:
        raise ValueError(f"{name}: got {len(array)} values, allowed: {length}")
    return np.ascontiguousarray(array)


def _in_range(name: str, values: Int32, bound: int) -> None:
    if len(values) and (values.min() < 0 or values.max() >= bound):
        raise ValueError(f"{name}: got {values.min()} to {values.max()}, allowed: 0 to {bound - 1}")


def _weights(arrays: Mapping[str, NDArray[Any]], name: str, n: int) -> SparseWeights:
    row_ptr = _array(arrays, f"{name}.row_ptr", np.int64, n + 1)
    items = _array(arrays, f"{name}.items", np.int32)
    weights = _array(arrays, f"{name}.weights", np.float32, len(items))
    if row_ptr[0] != 0 or row_ptr[-1] != len(items) or (np.diff(row_ptr) < 0).any():
        raise ValueError(f"{name}.row_ptr: must rise from 0 to {len(items)}")
    _in_range(f"{name}.items", items, n)
    if not np.isfinite(weights).all():
        raise ValueError(f"{name}.weights: holds a value that is not finite")
    return SparseWeights(row_ptr, items, weights)
