"""The caller of Ray Serve: grpc.aio, one channel."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from google.protobuf.wrappers_pb2 import BytesValue

from bench.serving.calls import Calls
from bench.serving.peers.loop import main
from bench.serving.peers.ray.lists import METHOD, SERVICE


class RayCaller:
    """The application's name goes with each call: another application is another server."""

    def __init__(self, name: str, port: int) -> None:
        self._metadata = (("application", name),)
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._make = self._channel.unary_unary(
            f"/{SERVICE}/{METHOD}",
            request_serializer=BytesValue.SerializeToString,
            response_deserializer=BytesValue.FromString,
        )
        self._messages: list[Any] = []

    def prepare(self, calls: Calls) -> None:
        numbers = np.concatenate([calls.history, calls.candidates], axis=1)
        self._messages = [BytesValue(value=one.tobytes()) for one in numbers]

    async def ask(self, number: int) -> Any:
        return await self._make(self._messages[number], metadata=self._metadata)

    async def close(self) -> None:
        await self._channel.close()

    def read(self, answer: Any) -> list[int]:
        items: list[int] = np.frombuffer(answer.value, np.int32).tolist()
        return items


async def make(told: dict[str, Any]) -> RayCaller:
    return RayCaller(told["name"], told["port"])


if __name__ == "__main__":
    main(make)
