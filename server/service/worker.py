"""One worker of a server of many processes: the server of `server.service.app`, on a shared port.

Run by the supervisor as `python -m server.service.worker FD`; FD is its end of their line. It
loads, says that it is warm, serves when it is told to, and drains when it is asked to or when the
supervisor is gone. Exit code 2: it refused to serve, and told the supervisor why.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from server.errors import EquipoiseError, in_one_line
from server.process import StopSignals, keep_what_is_there, on_hang_up, run_serving
from server.supervisor.counts import count_in_files
from server.supervisor.folder import Lease, metrics_folder
from server.supervisor.link import BEAT_S, Link, Orders, Word

if TYPE_CHECKING:
    from server.service.app import Server

REFUSED = 2


def main() -> int:
    """Work until the supervisor has no more use for this process."""
    line = socket.socket(fileno=int(sys.argv[1]))
    line.set_inheritable(False)
    orders = Orders.receive(line)
    try:
        lease = Lease(orders.folder)
    except OSError as error:
        if _is_ended(line):
            return 0  # The supervisor is gone, and so are those that it had started before.
        why = f"the folder that the workers share: {error.filename}: {error.strerror}"
        Link.tell_before(line, Word.REFUSED, why)
        return REFUSED
    # Before the first metric is made.
    count_in_files(metrics_folder(orders.folder), orders.slot)
    from server.service.logs import configure_logs

    configure_logs(orders.settings.log_level)
    return run_serving(_work(line, orders, lease))


def _is_ended(line: socket.socket) -> bool:
    """Whether nobody is at the other end."""
    try:
        return line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def _work(line: socket.socket, orders: Orders, lease: Lease) -> int:
    from server.service.app import Server

    ordered, hurry = asyncio.Event(), asyncio.Event()
    # Of this process alone: a SIGTERM to a worker drains it, and the supervisor starts another.
    asked = StopSignals().asked

    preparing: set[asyncio.Task[None]] = set()
    offered = dropped = 0

    async def prepare(number: int, bundle: Path) -> None:
        try:
            await server.exchange.prepare(bundle, bundle.name)
        except Exception as error:
            # The one that serves goes on, whatever is wrong with this one.
            link.tell(Word.UNFIT, f"{number} {_line_of(error)}")
        else:
            if number <= dropped:  # while it was made
                server.exchange.drop()
            link.tell(Word.READY, str(number))

    def heard(word: Word, text: str) -> None:
        nonlocal offered, dropped
        if word is Word.PREPARE:
            number, _, path = text.partition(" ")
            offered = int(number)
            task = asyncio.create_task(prepare(offered, Path(path)))
            preparing.add(task)
            task.add_done_callback(preparing.discard)
        elif word is Word.TAKE:
            server.exchange.take()
        elif word is Word.DROP:
            dropped = offered
            server.exchange.drop()
        else:
            {Word.SERVE: ordered, Word.STOP: asked, Word.HURRY: hurry}[word].set()

    link = await Link.over(line, heard)
    server = Server(orders.settings, shares_port=True)
    on_hang_up(lambda: None)  # is for the supervisor, which follows the releases
    beats: asyncio.Task[None] | None = None
    try:
        await server.prepare()
        keep_what_is_there()
        link.tell(Word.WARM, server.release)
        beats = asyncio.create_task(_beat(link, server))
        await _first(ordered, asked, link.ended)
        if ordered.is_set():
            await server.open()
            link.tell(Word.SERVING)
            await _first(asked, link.ended)
            await server.stop(hurry)
    except (EquipoiseError, OSError) as error:
        link.tell(Word.REFUSED, in_one_line(error))
        return REFUSED
    finally:
        await server.close()
        if beats is not None:
            beats.cancel()
        if link.ended.is_set():
            lease.abandon()
        link.close()
    return 0


def _line_of(error: Exception) -> str:
    return in_one_line(error) if isinstance(error, (EquipoiseError, OSError)) else repr(error)[:500]


async def _beat(link: Link, server: Server) -> None:
    while True:
        server.show_queue()
        link.beat()
        await asyncio.sleep(BEAT_S)


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of them is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


if __name__ == "__main__":
    sys.exit(main())
