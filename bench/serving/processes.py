"""A server's processes: what they cost, which ports are theirs, and their end."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Sequence

import psutil

STOP_TIMEOUT_S = 15.0


class Tree:
    """A process and all that came of it, also what was orphaned since it was first seen."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._seen: set[psutil.Process] = {self._root}

    def members(self) -> list[psutil.Process]:
        """Those that live."""
        for one in tuple(self._seen):
            with contextlib.suppress(psutil.NoSuchProcess):
                self._seen.update(one.children(recursive=True))
        # A process is known by its pid and its start: another one's with the same pid is no member.
        self._seen = {one for one in self._seen if one.is_running()}
        return list(self._seen)

    def cpu_us(self) -> float:
        """User and system time of those that live, and of their children that ended."""
        spent = 0.0
        for one in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                own = one.cpu_times()
                spent += own.user + own.system + own.children_user + own.children_system
        return spent * 1e6

    def stop(self) -> None:
        """SIGTERM for the first, then the end of all that are left."""
        members = self.members()
        with contextlib.suppress(psutil.NoSuchProcess):
            self._root.send_signal(signal.SIGTERM)
        with contextlib.suppress(psutil.TimeoutExpired):
            self._root.wait(STOP_TIMEOUT_S)
        left = {*members, *self.members()}
        _, alive = psutil.wait_procs(list(left), timeout=1)
        for one in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(alive, timeout=5)


def foreign_listeners(port: int, members: Sequence[psutil.Process]) -> list[int | None]:
    """The pids of others that listen on the port too; [None] where nobody is known to listen.

    Linux shares a port among those who ask for it: what another server answers would be taken for
    this one's.
    """
    own = {one.pid for one in members}
    found = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port
    }
    if not found:
        return [None]
    return sorted(found - own, key=str)


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
