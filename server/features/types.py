"""What the feature code takes: a history as arrays.

Owns the frozen array types that cross from the event store and the request into
features and candidates. Knows neither the store, the wire nor a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Int8 = NDArray[np.int8]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

DAY_MS = 86_400_000


@dataclass(frozen=True)
class History:
    """One user's positive events (purchases, unless the bundle says otherwise), oldest first.

    items: `[h] int32`, indices into the bundle's item table.
    times_ms: `[h] int64`, Unix milliseconds, non-decreasing.
    quantities: `[h] float32`, at least 1.
    """

    items: Int32
    times_ms: Int64
    quantities: Float32

    def __len__(self) -> int:
        return len(self.items)

    @staticmethod
    def empty() -> History:
        """The history of a user of whom nothing is known."""
        return History(np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.float32))

    @staticmethod
    def of(items: Int32, times_ms: Int64, quantities: Float32) -> History:
        """A history from events in any order.

        Ordered by (time, item, quantity), so that the order of arrival cannot change a bit of
        any feature: every history, in training and in serving, is made here.
        """
        order = np.lexsort((quantities, items, times_ms))
        return History(items[order], times_ms[order], quantities[order])

    def merged(self) -> History:
        """Events of one item at one instant as one, quantities added up.

        A till writes a line for each time that an item is scanned; training adds them up, so
        serving must too.
        """
        again = (self.items[1:] == self.items[:-1]) & (self.times_ms[1:] == self.times_ms[:-1])
        if not again.any():
            return self
        first = np.flatnonzero(np.concatenate([[True], ~again]))
        quantities = np.add.reduceat(self.quantities, first).astype(np.float32)
        return History(self.items[first], self.times_ms[first], quantities)

    def until(self, as_of_ms: int) -> History:
        """The events at or before `as_of_ms`."""
        end = int(np.searchsorted(self.times_ms, as_of_ms, side="right"))
        return History(self.items[:end], self.times_ms[:end], self.quantities[:end])
