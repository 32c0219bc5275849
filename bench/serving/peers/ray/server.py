"""Ray Serve over gRPC: one replica, once behind its gRPC proxy and once without.

Tuning: `@serve.batch` up to 16, waiting 0 s; access logs, dashboard, usage statistics and task events
off. Messages are bytes: no decoding but a view. Behind the proxy Ray's defaults are kept. Without it,
Ray's throughput settings (RAY_SERVE_THROUGHPUT_OPTIMIZED: user code and router in one loop, buffered
logs, direct ingress) let the caller reach the replica's own port; that is a feature flag, and with
more than one replica somebody else has to balance. Tried as well: waiting 2 ms, and the throughput
settings behind the proxy, which made no clear difference there.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from bench.serving.peers.settings import MAX_BATCH, Settings
from bench.serving.processes import free_port

PORTS = 50
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_task_events_report_interval_ms": "0",
}
STORE_BYTES = 200_000_000


def main() -> None:
    settings = Settings.read()
    os.environ.update(ENVIRONMENT)
    # Without the proxy a replica takes the first free port of a range.
    proxy, http = settings.port, free_port()
    if settings.direct:
        proxy = free_port()
        ports = {"GRPC": settings.port, "HTTP": http}
        os.environ["RAY_SERVE_THROUGHPUT_OPTIMIZED"] = "1"
        for name, port in ports.items():
            os.environ[f"RAY_SERVE_DIRECT_INGRESS_MIN_{name}_PORT"] = str(port)
            os.environ[f"RAY_SERVE_DIRECT_INGRESS_MAX_{name}_PORT"] = str(port + PORTS)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    import numpy as np
    import ray
    from google.protobuf.wrappers_pb2 import BytesValue
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions
    from ray.serve.schema import LoggingConfig

    from bench.serving.peers.ray.lists import HISTORY
    from bench.serving.work import ListMaker

    @serve.deployment(num_replicas=1, max_ongoing_requests=256)
    class Lists:
        def __init__(self, work: str) -> None:
            from pathlib import Path

            self._maker = ListMaker(Path(work))

        @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.0)
        async def _make(self, messages: list[bytes]) -> list[bytes]:
            numbers = np.stack([np.frombuffer(one, np.int32) for one in messages])
            lists = self._maker.make(
                np.ascontiguousarray(numbers[:, :HISTORY]), numbers[:, HISTORY:]
            )
            return [own.tobytes() for own in lists]

        async def Make(self, request: Any) -> Any:  # noqa: N802  # the method's name on the wire
            return BytesValue(value=await self._make(request.value))

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=STORE_BYTES,
        _node_ip_address="127.0.0.1",
        _temp_dir=None,
    )
    serve.start(
        grpc_options=gRPCOptions(
            port=proxy,
            grpc_servicer_functions=["bench.serving.peers.ray.lists.add_lists"],
        ),
        http_options=HTTPOptions(host="127.0.0.1", port=free_port()),
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),
    )
    application = Lists.bind(settings.work)  # type: ignore[attr-defined]  # the decorator's
    serve.run(application, name=settings.name, route_prefix=f"/{settings.name}")
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
