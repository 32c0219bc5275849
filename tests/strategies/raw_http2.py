"""A gRPC caller made of bytes, who does what no library lets him: here, take no answers."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW_SIZE = 4


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header field as HPACK's plainest form (RFC 7541, 6.2.2), without Huffman coding."""
    assert max(len(name), len(value)) < 127
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


@contextlib.contextmanager
def call_without_window(port: int, method: str, message: bytes) -> Iterator[socket.socket]:
    """A call whose caller allows the server no byte of its answer, until the block ends. It begins
    once the server answered with headers.
    """
    headers = b"".join(
        _literal(name, value)
        for name, value in (
            (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "raw"),
            ("content-type", "application/grpc"), ("te", "trailers"),
        )
    )  # fmt: skip
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.settimeout(30)
        raw.sendall(
            _PREFACE
            + _frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, 0))
            + _frame(_HEADERS, _END_HEADERS, 1, headers)
            + _frame(_DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(message)) + message)
        )
        received = raw.makefile("rb")
        while True:
            length, kind, _, _ = struct.unpack(">IBBI", b"\0" + received.read(9))
            received.read(length)
            if kind == _HEADERS:
                break
        yield raw
