"""The admin port: what one process's gRPC is doing, for whoever runs it and nobody else.

Owns a gRPC server of its own, on the loopback address whatever address callers have: channelz, health,
reflection, and what is served. It asks for no credentials, so it must not leave the machine.
"""

from __future__ import annotations

from typing import Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from equipoise.v1 import serving_pb2_grpc
from server.config import ServerSettings
from server.errors import SettingsRefused
from server.ports import LOOPBACK, admin_refused, check_port
from server.service.health import HealthServicer
from server.service.metrics import ServerMetrics
from server.service.release import Current
from server.service.servicer import SERVING, ServingServicer
from server.service.wire import Door

CHANNELZ = "grpc.channelz.v1.Channelz"
# Whoever asks for every socket of a busy server gets a long answer.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024


class AdminPort:
    """Made with the server; listens from `open` to `close`.

    health_of: tells of the server that callers have, not of this one.
    """

    def __init__(
        self,
        current: Current,
        settings: ServerSettings,
        metrics: ServerMetrics,
        health_of: HealthServicer,
    ) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                # Channelz tells of the server, not of those who ask it.
                ("grpc.enable_channelz", 0),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ]
        )
        # A door of its own, which never closes: a drain neither refuses these calls nor waits for them.
        guarded: Any = Door(metrics, settings).onto(self._server)
        serving_pb2_grpc.add_ServingServiceServicer_to_server(
            ServingServicer(current, metrics), guarded
        )
        health_pb2_grpc.add_HealthServicer_to_server(health_of, self._server)
        channelz.add_channelz_servicer(self._server)
        reflection.enable_server_reflection(
            (CHANNELZ, SERVING, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def open(self, port: int) -> int:
        """Listen there, or on a free port for 0; the port.

        Raises:
            SettingsRefused: it is taken.
        """
        try:
            check_port(LOOPBACK, port)
            taken: int = self._server.add_insecure_port(f"{LOOPBACK}:{port}")
        except (SettingsRefused, RuntimeError) as error:
            raise admin_refused(port) from error
        await self._server.start()
        return taken

    async def close(self) -> None:
        """End all its calls."""
        await self._server.stop(None)
