"""MLServer with a custom runtime, asked over gRPC with raw tensors.

Tuning: no parallel workers, so that no request crosses a process; once without batching, which its
adaptive batching is with a waiting time of 0, and once with batches up to 16 that wait up to 5 ms;
access logs, metrics and gzip off. Tried as well: a waiting time of 0.2 and 1 ms, one parallel worker.
"""

from __future__ import annotations

import json
import os
import sys

from bench.serving.peers.settings import MAX_BATCH, Settings
from bench.serving.processes import free_port

QUIET = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "WARNING"},
    "loggers": {name: {"level": "WARNING"} for name in ("mlserver", "mlserver.grpc", "uvicorn")},
}


def main() -> None:
    settings = Settings.read()
    folder = settings.scratch_folder
    (folder / "logging.json").write_text(json.dumps(QUIET))
    server = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": free_port(),
        "grpc_port": settings.port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "gzip_enabled": False,
        "logging_settings": str(folder / "logging.json"),
    }
    model = {
        "name": settings.name,
        "implementation": "bench.serving.peers.mlserver.runtime.Lists",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": settings.delay_us / 1e6,
        "parameters": {"uri": settings.work},
    }
    (folder / "settings.json").write_text(json.dumps(server))
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = [sys.executable, "-m", "mlserver.cli.main", "start", str(folder)]
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
