"""Calls a server with Triton's own client and prints what it understood, as JSON.

Arguments: the server's address.
"""

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio


def tensor(name: str, datatype: str, values: np.ndarray) -> triton.InferInput:
    own = triton.InferInput(name, values.shape, datatype)
    own.set_data_from_numpy(values)
    return own


def text(name: str, *values: str) -> triton.InferInput:
    return tensor(name, "BYTES", np.array([value.encode() for value in values], np.object_))


def whole(name: str, datatype: str, *values: int) -> triton.InferInput:
    return tensor(
        name, datatype, np.array(values, {"INT32": np.int32, "INT64": np.int64}[datatype])
    )


def listed(result: triton.InferResult) -> dict:
    return {
        "items": [item.decode() for item in result.as_numpy("item_ids")],
        "scores": result.as_numpy("scores").tolist(),
        "receipt": json.loads(result.as_numpy("receipt")[0]),
        "id": result.get_response().id,
        "parameters": sorted(result.get_response().parameters),
    }


def refused(call) -> list:
    try:
        call()
    except triton.InferenceServerException as error:
        return [error.status(), error.message()]
    raise AssertionError("the call went well")


def features(client: triton.InferenceServerClient) -> np.ndarray:
    (port,) = client.get_model_metadata("ranker").inputs
    return np.random.default_rng(5).random((2, 9, port.shape[-1]), dtype=np.float32)


def streamed(client: triton.InferenceServerClient) -> list:
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for count in (3, 0, 2):
        client.async_stream_infer(
            "recommend", [whole("count", "INT32", count)], request_id=f"s{count}"
        )
    got = [answers.get(timeout=30) for _ in range(3)]
    client.stop_stream()
    return [error.message() if error else listed(result) for result, error in got]


async def asked_in_a_loop(target: str) -> dict:
    async with triton_aio.InferenceServerClient(target) as client:
        return listed(await client.infer("recommend", [whole("count", "INT32", 4)]))


def main(target: str) -> dict:
    client = triton.InferenceServerClient(target)
    inputs = [
        whole("count", "INT32", 4),
        text("history_item_ids", "item-003", "item-007"),
        whole("history_times_ms", "INT64", 1_499_000_000_000, 1_499_500_000_000),
        text("candidate_item_ids", *(f"item-{n:03}" for n in range(20))),
        text("policy", "tiers"),
    ]
    batch = tensor("features", "FP32", features(client))
    ranked = client.infer(
        "ranker", [batch], outputs=[triton.InferRequestedOutput("scores")],
        timeout=20_000_000, priority=2,
    )  # fmt: skip
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": [client.is_model_ready(name) for name in ("ranker", "recommend", "other")],
        "server": client.get_server_metadata(as_json=True),
        "metadata": client.get_model_metadata("recommend", as_json=True),
        "config": client.get_model_config("ranker", as_json=True)["config"],
        "index": client.get_model_repository_index(as_json=True),
        "list": listed(client.infer("recommend", inputs, request_id="one")),
        "in_a_loop": asyncio.run(asked_in_a_loop(target)),
        "stream": streamed(client),
        "fed": features(client).tolist(),
        "ranked": ranked.as_numpy("scores").tolist(),
        "unknown": refused(lambda: client.infer("other", [])),
        "two_wide": refused(
            lambda: client.infer("recommend", [whole("count", "INT32", 4, 5)])
        ),
        "load": refused(lambda: client.load_model("ranker")),
        "statistics": client.get_inference_statistics(as_json=True)["model_stats"],
    }  # fmt: skip


json.dump(main(sys.argv[1]), sys.stdout)
