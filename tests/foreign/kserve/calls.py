"""Calls a server with KServe's own client and prints what it understood, as JSON.

Arguments: the server's address.
"""

import asyncio
import json
import logging
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

# Their log of each refused call has its stack.
logging.disable(logging.CRITICAL)


def tensor(name: str, datatype: str, values: np.ndarray, raw: bool) -> InferInput:
    own = InferInput(name, list(values.shape), datatype)
    own.set_data_from_numpy(values, binary_data=raw)
    return own


def list_inputs(raw: bool) -> list[InferInput]:
    def text(name: str, *values: str) -> InferInput:
        return tensor(name, "BYTES", np.array([one.encode() for one in values], np.object_), raw)

    return [
        tensor("count", "INT32", np.array([4], np.int32), raw),
        text("history_item_ids", "item-003", "item-007"),
        tensor("history_times_ms", "INT64", np.array([1_499_000_000_000, 1_499_500_000_000]), raw),
        text("candidate_item_ids", *(f"item-{n:03}" for n in range(20))),
        text("policy", "tiers"),
    ]


def listed(response) -> dict:
    outputs = {output.name: output.as_numpy() for output in response.outputs}

    def text(one) -> str:
        return one.decode() if isinstance(one, bytes) else str(one)

    return {
        "id": response.id,
        "model": [response.model_name, response.model_version],
        "items": [text(item) for item in outputs["item_ids"]],
        "scores": outputs["scores"].tolist(),
        "receipt": json.loads(text(outputs["receipt"][0])),
        "parameters": sorted(response.parameters or {}),
    }


async def refused(call) -> list:
    try:
        await call
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    raise AssertionError("the call went well")


async def main(target: str) -> dict:
    async with InferenceGRPCClient(target) as client:
        stub = client._client_stub
        metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="ranker"))
        server = await stub.ServerMetadata(pb.ServerMetadataRequest())
        fed = np.random.default_rng(5).random((2, 9, metadata.inputs[0].shape[-1]), np.float32)

        async def recommend(raw: bool) -> dict:
            request = InferRequest("recommend", list_inputs(raw), request_id=f"raw-{raw}")
            return listed(await client.infer(request))

        async def ranked(raw: bool) -> list:
            inputs = [tensor("features", "FP32", fed, raw)]
            (output,) = (await client.infer(InferRequest("ranker", inputs))).outputs
            return output.as_numpy().tolist()

        wide = InferInput("count", [2], "INT32")
        wide.set_data_from_numpy(np.array([4, 5], np.int32))
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": [
                await client.is_model_ready(name) for name in ("ranker", "recommend", "other")
            ],
            "server": server.name,
            "inputs": {
                "ranker": [[one.name, one.datatype, list(one.shape)] for one in metadata.inputs]
            },
            "lists": [await recommend(raw) for raw in (True, False)],
            "fed": fed.tolist(),
            "ranked": [await ranked(raw) for raw in (True, False)],
            "unknown": await refused(
                client.infer(InferRequest("other", [wide], model_version="1"))
            ),
            "two_wide": await refused(client.infer(InferRequest("recommend", [wide]))),
        }


json.dump(asyncio.run(main(sys.argv[1])), sys.stdout)
