"""The caller of LitServe."""

from __future__ import annotations

import json
from typing import Any

from bench.serving.peers.http import HttpCaller, json_body
from bench.serving.peers.loop import main


def items(answer: bytes) -> list[int]:
    found: list[int] = json.loads(answer)["items"]
    return found


async def make(told: dict[str, Any]) -> HttpCaller:
    url = f"http://127.0.0.1:{told['port']}/{told['name']}"
    return HttpCaller(url, "application/json", json_body, items)


if __name__ == "__main__":
    main(make)
