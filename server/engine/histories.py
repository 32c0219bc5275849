"""Where a request's history comes from: the request itself or the event store.

Owns the step from item ids and kinds to a `History` of positive events that the
bundle knows. Event times are kept; order is canonical (`History.of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from server.engine.query import NumberedHistory
from server.errors import EventStoreUnavailable, InvalidField, UnknownItem
from server.events import EventKind, HistoryCache, StoredHistory
from server.features.types import History


@dataclass(frozen=True)
class ResolvedHistory:
    """A history in the bundle's items, and how many positive events it does not know."""

    history: History
    unknown: int
    first_unknown: str


class HistoryResolver:
    """Turns stored events into a `History` of the bundle's items and positive kinds."""

    def __init__(self, index: Mapping[str, int], positive_kinds: frozenset[EventKind]) -> None:
        self._index = index
        self._positive = np.array([kind in positive_kinds for kind in range(max(EventKind) + 1)])

    def __call__(self, stored: StoredHistory) -> ResolvedHistory:
        items = np.fromiter(
            map(self._index.get, stored.item_ids, repeat(-1)), np.int32, len(stored.item_ids)
        )
        positive = self._positive[stored.kinds]
        known = positive & (items >= 0)
        unknown = np.flatnonzero(positive & (items < 0))
        history = History.of(
            items[known], stored.times_ms[known], stored.quantities[known]
        ).merged()
        first = stored.item_ids[int(unknown[0])] if len(unknown) else ""
        return ResolvedHistory(history, len(unknown), first)

    def numbered(self, brought: NumberedHistory) -> ResolvedHistory:
        """The same of events whose items are named by number.

        Raises:
            InvalidField: there is no item of that number.
        """
        items = checked_numbers("packed_history.item_numbers", brought.items, len(self._index))
        times_ms, quantities = brought.times_ms, brought.quantities
        positive = self._positive[brought.kinds]
        if not positive.all():
            items, times_ms = items[positive], times_ms[positive]
            quantities = quantities[positive]
        return ResolvedHistory(History.of(items, times_ms, quantities).merged(), 0, "")


def checked_numbers(field: str, numbers: NDArray[np.int64], n_items: int) -> NDArray[np.int32]:
    """The numbers as indices.

    Raises:
        InvalidField: one is no item's.
    """
    # Unsigned on the wire, so that none is negative.
    if len(numbers) and int(numbers.max()) >= n_items:
        place = int(np.flatnonzero(numbers >= n_items)[0])
        raise InvalidField.of(
            f"{field}[{place}]", int(numbers[place]), f"0 to {n_items - 1}, the bundle's items"
        )
    return numbers.astype(np.int32)


NOTHING = ResolvedHistory(History.empty(), 0, "")


class Histories:
    """Reads the history of a query.

    The cache belongs to the one thread that runs batches.
    """

    def __init__(
        self, resolver: HistoryResolver, cache: HistoryCache[ResolvedHistory] | None, bundle_id: str
    ) -> None:
        self._resolver = resolver
        self._cache = cache
        self._bundle_id = bundle_id

    def read(
        self, user_id: str, brought: StoredHistory | NumberedHistory | None, strict: bool
    ) -> tuple[ResolvedHistory, bool]:
        """The history, and whether the event store failed to answer.

        Raises:
            UnknownItem: `strict`, and the request brings an item that the bundle does not know.
            InvalidField: it brings a number that is no item's.
        """
        if isinstance(brought, NumberedHistory):
            return self._resolver.numbered(brought), False
        if brought is not None:
            resolved = self._resolver(brought)
            if strict and resolved.unknown:
                raise UnknownItem("history", resolved.first_unknown, self._bundle_id)
            return resolved, False
        if not user_id or self._cache is None:
            return NOTHING, False
        try:
            return self._cache.get(user_id), False
        except EventStoreUnavailable:
            return NOTHING, True
