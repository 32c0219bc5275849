"""The bounds on what calls may hold at once, in one process: bytes of requests, bytes of answers.

Owns the counts. A request holds its bytes from when it was read until its answer is made; one that
finds no room is turned away without being parsed, or, on a stream, without being kept. An answer holds
its bytes until gRPC has sent it, which a caller who does not read puts off. Must not know what is in a
request.
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


class Unread:
    """How many bytes of answers each connection has not taken yet. Used on the event loop alone.

    Streams are not counted: of them gRPC holds one answer, and they wait.

    >>> unread = Unread(100)
    >>> unread.take("a", 150)
    >>> print(unread.full("a"))
    150 bytes of answers on this connection are not read yet, allowed: 100
    >>> unread.full("b") is None
    True
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: dict[str, int] = {}

    @property
    def held(self) -> int:
        """Of all connections together."""
        return sum(self._held.values())

    def full(self, connection: str) -> QueueFull | None:
        """Why a connection gets no more answers; None where it does."""
        held = self._held.get(connection, 0)
        if held <= self._limit:
            return None
        return QueueFull(
            f"{held} bytes of answers on this connection are not read yet, allowed: {self._limit}"
        )

    def take(self, connection: str, size: int) -> None:
        """An answer was made. Each `take` has one `give`."""
        self._held[connection] = self._held.get(connection, 0) + size

    def give(self, connection: str, size: int) -> None:
        """It was sent, or nobody waits for it any more."""
        left = self._held[connection] - size
        if left:
            self._held[connection] = left
        else:
            del self._held[connection]
