"""grpc.health.v1: what each service's health is, and whoever watches is told when it changes.

Owns the states and who watches them. The servicer that comes with grpc writes to each watcher while
it holds what a change needs, so that one who does not read holds up the drain of all, and forgets
the other watchers of a service when one leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.errors import InvalidField, NotServing
from server.service.status import wire_error

MAX_REQUEST_BYTES = 512
"""A watch keeps its request for as long as it lasts."""

Context = grpc.aio.ServicerContext[Any, Any]


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    """Check and Watch of these services, which begin as NOT_SERVING and change together."""

    def __init__(self, services: Iterable[str]) -> None:
        self._states: dict[str, int] = dict.fromkeys(
            services, health_pb2.HealthCheckResponse.NOT_SERVING
        )
        self._watchers: set[asyncio.Event] = set()
        self._ended = False

    def become(self, state: int) -> None:
        """Every service's health from now on. Waits for no watcher."""
        self._states = dict.fromkeys(self._states, state)
        self._wake()

    def end(self) -> None:
        """End all watches, once they told their last change: no other will come."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        for changed in self._watchers:
            changed.set()

    @property
    def watched(self) -> int:
        """How many watch."""
        return len(self._watchers)

    def serving(self, service: str) -> bool:
        """Whether a service is SERVING."""
        return bool(self._states.get(service) == health_pb2.HealthCheckResponse.SERVING)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The service's state now; NOT_FOUND if there is no such service."""
        state = self._states.get(request.service)
        if state is None:
            known = ", ".join(repr(name) for name in self._states)
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"service: got {request.service[:80]!r}, known: {known}"
            )
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """The service's state now and whenever it changes. One who reads slowly misses states between,
        never the last.
        """
        if request.ByteSize() > MAX_REQUEST_BYTES:
            failure = wire_error(
                InvalidField.of(
                    "service", request.service, f"a request of at most {MAX_REQUEST_BYTES} bytes"
                ),
                "",
            )
            await context.abort(failure.code, failure.message, failure.trailers)
        changed = asyncio.Event()
        self._watchers.add(changed)
        told = None
        try:
            while True:
                changed.clear()
                state = self._states.get(
                    request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                )
                if state != told:
                    await context.write(health_pb2.HealthCheckResponse(status=state))
                    told = state
                elif self._ended:
                    break
                else:
                    await changed.wait()
        finally:
            self._watchers.discard(changed)
        failure = wire_error(NotServing("the server is shutting down: watch another replica"), "")
        await context.abort(failure.code, failure.message, failure.trailers)
