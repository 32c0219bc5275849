"""The caller of a server that speaks HTTP: LitServe and BentoML. aiohttp, bodies made beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import aiohttp

from bench.serving.calls import Calls, Int32

Body = Callable[[Int32, Int32], bytes]


class HttpCaller:
    """One POST a list, on connections that are kept open.

    body: of a history and candidates. items: of what was answered.
    """

    def __init__(
        self, url: str, kind: str, body: Body, items: Callable[[bytes], list[int]]
    ) -> None:
        self._url = url
        self._headers = {"Content-Type": kind}
        self._body = body
        self._items = items
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        self._bodies: list[bytes] = []

    def prepare(self, calls: Calls) -> None:
        self._bodies = [
            self._body(history, candidates)
            for history, candidates in zip(calls.history, calls.candidates, strict=True)
        ]

    async def ask(self, number: int) -> Any:
        async with self._session.post(
            self._url, data=self._bodies[number], headers=self._headers
        ) as response:
            answer = await response.read()
            if response.status != 200:
                raise RuntimeError(f"HTTP {response.status}: {answer[:200]!r}")
            return answer

    async def close(self) -> None:
        await self._session.close()

    def read(self, answer: Any) -> list[int]:
        return self._items(answer)


def json_body(history: Int32, candidates: Int32) -> bytes:
    """Numbers as JSON."""
    return json.dumps(
        {"history": history.tolist(), "candidates": candidates.tolist()}, separators=(",", ":")
    ).encode()
