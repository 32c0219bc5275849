"""The line between the supervisor and one worker: words, one a line, over a pair of sockets.

Owns what the two say to each other. The supervisor gives orders, once, before the worker imports
anything heavy, and later says SERVE, STOP and HURRY. The worker says WARM when its lists are those recorded,
SERVING, and REFUSED with the reason why it ends; from WARM on its event loop says BEAT so often.
For another release the supervisor says PREPARE; the worker makes it beside its own and says READY, or
UNFIT with the reason; then TAKE or DROP. Preparations are numbered, for the answer to one that was
given up may come late. The end of the line is a word too: the other process is gone.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

from server.config import ServerSettings

BEAT_S = 0.1
"""How often a worker's event loop says that it runs."""


class Word(StrEnum):
    """What is said. WARM comes with the release's id; PREPARE with a number, a space and the folder of
    one, whose name is its id; READY with that number, UNFIT with it, a space and a line for people;
    REFUSED with such a line."""

    SERVE = "serve"
    STOP = "stop"
    HURRY = "hurry"
    WARM = "warm"
    SERVING = "serving"
    BEAT = "beat"
    REFUSED = "refused"
    PREPARE = "prepare"
    READY = "ready"
    UNFIT = "unfit"
    TAKE = "take"
    DROP = "drop"


@dataclass(frozen=True)
class Orders:
    """What a worker has to know. slot: which of the crew it is; folder: what the crew shares."""

    settings: ServerSettings
    slot: int
    folder: Path

    def give(self, line: socket.socket) -> None:
        """Write them to a line that nobody reads yet. The kernel keeps them."""
        settings = self.settings.model_dump(mode="json")
        orders = {"settings": settings, "slot": self.slot, "folder": str(self.folder)}
        line.sendall(json.dumps(orders).encode() + b"\n")

    @classmethod
    def receive(cls, line: socket.socket) -> Orders:
        """Wait for them. What is said later is left on the line."""
        with line.makefile("rb", buffering=0) as file:
            orders = json.loads(file.readline())
        return cls(
            ServerSettings.model_validate(orders["settings"]),
            orders["slot"],
            Path(orders["folder"]),
        )


class Link(asyncio.Protocol):
    """One end of a line. heard: called with each word and its text; ended: set at the line's end."""

    def __init__(self, heard: Callable[[Word, str], None]) -> None:
        self._heard = heard
        self._rest = b""
        self.ended = asyncio.Event()

    @staticmethod
    def tell_before(line: socket.socket, word: Word, text: str) -> None:
        """Say one thing on a line that no link has taken over."""
        line.sendall(json.dumps([word, text]).encode() + b"\n")

    @classmethod
    async def over(cls, line: socket.socket, heard: Callable[[Word, str], None]) -> Link:
        """Take over the socket; `close` or the other end closes it."""
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: cls(heard), sock=line)
        return link

    def tell(self, word: Word, text: str = "") -> None:
        """Say it; nothing happens where the other end is gone."""
        self._transport.write(json.dumps([word, text]).encode() + b"\n")

    def beat(self) -> None:
        """Say BEAT, unless the other end does not listen: then beats would pile up here."""
        if not self._transport.get_write_buffer_size():
            self.tell(Word.BEAT)

    def close(self) -> None:
        """End the line, after what was said."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, text = json.loads(line)
            self._heard(Word(word), text)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
