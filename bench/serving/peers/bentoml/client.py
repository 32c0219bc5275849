"""The caller of BentoML: one array of numbers, the history before the candidates, as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from bench.serving.calls import Int32
from bench.serving.peers.http import HttpCaller
from bench.serving.peers.loop import main


def body(history: Int32, candidates: Int32) -> bytes:
    numbers = np.concatenate([history, candidates]).tolist()
    return json.dumps({"numbers": [numbers]}, separators=(",", ":")).encode()


def items(answer: bytes) -> list[int]:
    [found] = json.loads(answer)
    return list(found)


async def make(told: dict[str, Any]) -> HttpCaller:
    url = f"http://127.0.0.1:{told['port']}/{told['name']}"
    return HttpCaller(url, "application/json", body, items)


if __name__ == "__main__":
    main(make)
