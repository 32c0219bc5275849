"""The ports of a server: free or taken, held for workers, and the one with the metrics.

Owns the sockets and the line that says which port cannot be had. Must not know gRPC.
"""

from __future__ import annotations

import socket

from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server

from server.errors import SettingsRefused

LOOPBACK = "127.0.0.1"


def port_refused(host: str, port: int) -> SettingsRefused:
    """The error for a gRPC port that cannot be had."""
    return SettingsRefused(
        f"cannot listen on {host}:{port}: is the port taken? Try --port 0 for a free one"
    )


def admin_refused(port: int) -> SettingsRefused:
    """The error for an admin port that cannot be had."""
    return SettingsRefused(
        f"cannot open the admin port {LOOPBACK}:{port}: is it taken? "
        "Try --admin-port 0 for a free one, or off"
    )


def check_port(host: str, port: int) -> int:
    """See that nobody listens there; the port, which for 0 is a free one.

    Raises:
        SettingsRefused: the port is taken, or `host` is no address of this machine.
    """
    try:
        with socket.create_server((host.strip("[]"), port), family=_family(host)) as free:
            found: int = free.getsockname()[1]
            return found
    except OSError as error:
        raise port_refused(host, port) from error


def hold_port(host: str, port: int) -> socket.socket:
    """Take the port without listening on it: nobody else gets it, save this user's processes that
    share it by SO_REUSEPORT. 0 takes a free one, which `getsockname` tells.

    Raises:
        SettingsRefused: as `check_port`, or another process holds it.
    """
    held = socket.socket(_family(host), socket.SOCK_STREAM)
    try:
        # Bound before it is shared, so that whoever else shares the port already is a refusal.
        # SO_REUSEADDR lets it pass by connections that wait for their end; once bound it would let
        # others pass by us.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((host.strip("[]"), port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        held.close()
        raise port_refused(host, port) from error
    return held


class MetricsPort:
    """Answers scrapes of `registry` from a thread of its own, until `close`. port 0 takes a free one.

    Raises:
        SettingsRefused: the port is taken.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        # Workers' counts do not tell when they began: one process shows the same series as many.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        try:
            self._web, self._thread = start_http_server(
                port, addr=host.strip("[]"), registry=registry
            )
        except OSError as error:
            raise SettingsRefused(
                f"cannot open the metrics port {host}:{port}: "
                f"{error.strerror}. Try --metrics-port 0 for a free one, or off"
            ) from error
        self.port = self._web.server_port

    def close(self) -> None:
        """End the thread and let go of the port."""
        self._web.shutdown()
        self._web.server_close()
        self._thread.join()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
