"""The bound on what requests may hold at once: their bytes on the wire, in one process.

Owns the count. A request holds its bytes from when it was read until its answer is made; one that
finds no room is turned away without being parsed, or, on a stream, without being kept. Must not
know what is in a request.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from server.errors import QueueFull


class Arrived(NamedTuple):
    """A request as it was read. message: it, or why there is none. size: its bytes on the wire."""

    message: Any
    size: int


class BytesInFlight:
    """How many bytes of requests are held, of `limit`. Used on the event loop alone.

    >>> flight = BytesInFlight(100)
    >>> flight.full(300) is None  # alone, whatever its size
    True
    >>> flight.take(60)
    >>> print(flight.full(41))
    this request has 41 bytes, others hold 60, allowed: 100 together
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def full(self, size: int) -> QueueFull | None:
        """Why there is no room for so many bytes; None where there is."""
        held = self.held
        if held + size <= self._limit or not held or not size:
            return None
        return QueueFull(
            f"this request has {size} bytes, others hold {held}, allowed: {self._limit} together"
        )

    def take(self, size: int) -> None:
        """Hold them. Each `take` has one `give`."""
        self.held += size

    def give(self, size: int) -> None:
        """Hold them no longer."""
        self.held -= size
