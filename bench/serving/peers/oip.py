"""The caller of a server that speaks the Open Inference Protocol: Triton, PyTriton, MLServer.

The stubs of tritonclient on grpc.aio, with messages made beforehand and raw tensors: as little work
as Equipoise's own caller has.
"""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from bench.serving.calls import Calls
from bench.serving.peers.loop import main


class OipCaller:
    """One channel, one call a list."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._infer = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer
        self._messages: list[Any] = []

    def prepare(self, calls: Calls) -> None:
        for history, candidates in zip(calls.history, calls.candidates, strict=True):
            message = service_pb2.ModelInferRequest(model_name=self._name)
            for name, tensor in (("history", history), ("candidates", candidates)):
                message.inputs.add(name=name, datatype="INT32", shape=(1, len(tensor)))
                message.raw_input_contents.append(tensor.tobytes())
            self._messages.append(message)

    async def ask(self, number: int) -> Any:
        return await self._infer(self._messages[number])

    async def close(self) -> None:
        await self._channel.close()

    def read(self, answer: Any) -> list[int]:
        if answer.model_name != self._name:
            raise RuntimeError(f"model {answer.model_name!r} answered, not {self._name!r}")
        if answer.raw_output_contents:
            items: list[int] = np.frombuffer(answer.raw_output_contents[0], np.int32).tolist()
            return items
        return list(answer.outputs[0].contents.int_contents)


async def make(name: str, port: int) -> OipCaller:
    return OipCaller(name, port)


if __name__ == "__main__":
    main(make)
