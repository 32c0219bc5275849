"""A gRPC caller made of bytes, who does what no library lets him: here, take no answers."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_INITIAL_WINDOW_SIZE = 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header field as HPACK's plainest form (RFC 7541, 6.2.2), without Huffman coding."""
    assert max(len(name), len(value)) < 127
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


class Unreading:
    """A connection whose caller allows the server no byte of an answer."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self._received = raw.makefile("rb")
        self._stream = 1

    def call(self, method: str, message: bytes) -> None:
        """One more call; until the server has answered it with headers."""
        stream, self._stream = self._stream, self._stream + 2
        self.raw.sendall(
            _frame(_HEADERS, _END_HEADERS, stream, _headers(method))
            + _frame(_DATA, _END_STREAM, stream, struct.pack(">BI", 0, len(message)) + message)
        )
        while True:
            length, kind, flags, answered = struct.unpack(">IBBI", b"\0" + self._received.read(9))
            told = self._received.read(length)
            if kind == _PING and not flags:
                self.raw.sendall(_frame(_PING, _ACK, 0, told))
            if kind == _HEADERS and answered == stream:
                return


def _headers(method: str) -> bytes:
    return b"".join(
        _literal(name, value)
        for name, value in (
            (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "raw"),
            ("content-type", "application/grpc"), ("te", "trailers"),
        )
    )  # fmt: skip


@contextlib.contextmanager
def connection_without_window(port: int) -> Iterator[Unreading]:
    """Such a connection, until the block ends."""
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.settimeout(30)
        raw.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0)))
        yield Unreading(raw)


@contextlib.contextmanager
def call_without_window(port: int, method: str, message: bytes) -> Iterator[socket.socket]:
    """A call whose caller allows the server no byte of its answer, until the block ends. It begins
    once the server answered with headers.
    """
    with connection_without_window(port) as connection:
        connection.call(method, message)
        yield connection.raw
