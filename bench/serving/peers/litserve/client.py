"""The caller of LitServe."""

from __future__ import annotations

import json

from bench.serving.peers.http import HttpCaller, json_body
from bench.serving.peers.loop import main


def items(answer: bytes) -> list[int]:
    found: list[int] = json.loads(answer)["items"]
    return found


async def make(name: str, port: int) -> HttpCaller:
    return HttpCaller(f"http://127.0.0.1:{port}/{name}", "application/json", json_body, items)


if __name__ == "__main__":
    main(make)
