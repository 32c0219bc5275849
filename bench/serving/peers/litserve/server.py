"""LitServe: HTTP with JSON, one worker process behind one of uvicorn.

Tuning: batches up to 16 of what waits, with batch_timeout 0 (no waiting); its fast queue (ZeroMQ)
instead of multiprocessing's; access logs off. JSON is the only body that it decodes by itself. Tried
as well: a batch_timeout of 1 ms, batches up to 64, the other queue.
"""

from __future__ import annotations

from typing import Any

import litserve
import numpy as np

from bench.serving.peers.settings import MAX_BATCH, Settings
from bench.serving.work import ListMaker


class Lists(litserve.LitAPI):
    """Requests are put together by `batch`, answers taken apart by `unbatch`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=0.0, api_path=f"/{settings.name}")
        self._settings = settings

    def setup(self, device: str) -> None:
        self._maker = ListMaker(self._settings.work_folder)

    # LitServe makes its endpoint of these annotations: none means any JSON.
    def decode_request(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return request["history"], request["candidates"]

    def batch(self, inputs: list[Any]) -> Any:
        histories, candidates = zip(*inputs, strict=True)
        return np.array(histories, np.int32), np.array(candidates, np.int32)

    def predict(self, x: Any) -> Any:
        return self._maker.make(*x)

    def unbatch(self, output: Any) -> Any:
        return output.tolist()

    def encode_response(self, output):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return {"items": output}


def main() -> None:
    settings = Settings.read()
    server = litserve.LitServer(
        Lists(settings), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=settings.port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
