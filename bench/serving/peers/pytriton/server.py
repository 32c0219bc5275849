"""PyTriton: a Python function behind Triton, with PyTriton's proxy between the two.

Needs the interpreter's lib folder on LD_LIBRARY_PATH where Python was built with pyenv; whoever
starts this sets it.

Tuning: dynamic batching up to 16 without a delay; one function, called in batches (`@batch`);
metrics off; gRPC with raw tensors; onnxruntime one thread. Tried as well: batches up to 64, a delay
of 0.5 ms; neither was cheaper.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.serving.peers.settings import MAX_BATCH, Settings
from bench.serving.processes import free_port
from bench.serving.work import ListMaker

Int32 = NDArray[np.int32]


def main() -> None:
    logging.disable(logging.INFO)
    settings = Settings.read()
    maker = ListMaker(settings.work_folder)

    @batch
    def infer(history: Int32, candidates: Int32) -> dict[str, Int32]:
        return {"items": maker.make(history, candidates)}

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=settings.port,
        # Its own start is watched over HTTP, so that this port is there.
        http_address="127.0.0.1",
        http_port=free_port(),
        allow_metrics=False,
        exit_timeout_secs=5,
    )
    with Triton(config=config, workspace=settings.scratch_folder / "workspace") as triton:
        numbers = (-1,)
        triton.bind(
            model_name=settings.name,
            infer_func=infer,
            inputs=[
                Tensor(name="history", dtype=np.int32, shape=numbers),
                Tensor(name="candidates", dtype=np.int32, shape=numbers),
            ],
            outputs=[Tensor(name="items", dtype=np.int32, shape=numbers)],
            config=ModelConfig(
                max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=0)
            ),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()
