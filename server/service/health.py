"""grpc.health.v1, with a bound on what a watcher may hold: the standard service keeps each request
for as long as it is watched, and its one field may be as long as a message.
"""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2

from server.errors import InvalidField
from server.service.status import wire_error

MAX_NAME_LENGTH = 256


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """Check and Watch for names of services that could be some."""

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """The service's state now and whenever it changes."""
        if len(request.service) > MAX_NAME_LENGTH:
            failure = wire_error(
                InvalidField.of(
                    "service", request.service, f"at most {MAX_NAME_LENGTH} characters"
                ),
                "",
            )
            await context.abort(failure.code, failure.message, failure.trailers)
        await super().Watch(request, context)
