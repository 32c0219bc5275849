"""The caller of a server that speaks the Open Inference Protocol: Triton, PyTriton, MLServer.

The stubs of tritonclient on grpc.aio, with messages made beforehand and raw tensors: as little work
as Equipoise's own caller has.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.serving.calls import Calls, Int32
from bench.serving.peers.loop import main


class OipCaller:
    """One channel, one call a list. ids: of all items, where they are named by them."""

    def __init__(self, name: str, port: int, ids: list[str]) -> None:
        self._ids = [one.encode() for one in ids]
        self._number = {one: number for number, one in enumerate(self._ids)}
        self._name = name
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._infer = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer
        self._messages: list[Any] = []

    def prepare(self, calls: Calls) -> None:
        for history, candidates in zip(calls.history, calls.candidates, strict=True):
            message = service_pb2.ModelInferRequest(model_name=self._name)
            for name, tensor in (("history", history), ("candidates", candidates)):
                kind = "BYTES" if self._ids else "INT32"
                message.inputs.add(name=name, datatype=kind, shape=(1, len(tensor)))
                message.raw_input_contents.append(self._raw(tensor))
            self._messages.append(message)

    def _raw(self, items: Int32) -> bytes:
        if not self._ids:
            return items.tobytes()
        texts = [self._ids[item] for item in items.tolist()]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)

    async def ask(self, number: int) -> Any:
        return await self._infer(self._messages[number])

    async def close(self) -> None:
        await self._channel.close()

    def read(self, answer: Any) -> list[int]:
        if answer.model_name != self._name:
            raise RuntimeError(f"model {answer.model_name!r} answered, not {self._name!r}")
        if self._ids:
            return [self._number[text] for text in _texts(answer.raw_output_contents[0])]
        if answer.raw_output_contents:
            items: list[int] = np.frombuffer(answer.raw_output_contents[0], np.int32).tolist()
            return items
        return list(answer.outputs[0].contents.int_contents)


def _texts(raw: bytes) -> list[bytes]:
    """What a BYTES tensor holds: each text after its length."""
    found, at = [], 0
    while at < len(raw):
        [length] = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return found


async def make(told: dict[str, Any]) -> OipCaller:
    ids = json.loads(Path(told["texts"]).read_text(encoding="utf-8")) if told["texts"] else []
    return OipCaller(told["name"], told["port"], ids)


if __name__ == "__main__":
    main(make)
