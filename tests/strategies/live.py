"""A real server process for tests: `equipoise serve` on port 0, waited for by its ready file."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from equipoise.v1.serving_pb2_grpc import ServingServiceStub

READY_TIMEOUT_S = 240  # A first start compiles.
STOP_TIMEOUT_S = 30


@dataclass(frozen=True)
class LiveServer:
    """A server that serves, and a channel to it."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    channel: grpc.Channel
    log: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def recommendation(self) -> RecommendationServiceStub:
        return RecommendationServiceStub(self.channel)

    @property
    def serving(self) -> ServingServiceStub:
        return ServingServiceStub(self.channel)

    def terminate(self) -> int:
        """Ask it to drain; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def live_server(folder: Path, bundle: Path, *flags: str | Path) -> Iterator[LiveServer]:
    """Serve a bundle until the block ends. `folder` gets the log and the ready file."""
    ready, log = folder / "ready.json", folder / "server.log"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "server.cli", "serve", "--bundle", bundle, "--port", "0",
               "--metrics-port", "0", "--ready-file", ready, *flags]  # fmt: skip
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            [str(part) for part in command], stderr=log_file, stdout=log_file
        )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not come up:\n{log.read_text()}")
            time.sleep(0.01)
        ports = json.loads(ready.read_text())
        with grpc.insecure_channel(f"127.0.0.1:{ports['port']}") as channel:
            yield LiveServer(process, ports["port"], ports["metrics_port"], channel, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def failure_of(call: Callable[[], object]) -> tuple[grpc.RpcError, list[Any]]:
    """How a call failed: its error, and the rich details that came with it."""
    with pytest.raises(grpc.RpcError) as failed:
        call()
    status = rpc_status.from_call(failed.value)
    details = []
    for packed in status.details if status else []:
        for kind in (
            error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo
        ):  # fmt: skip
            message = kind()
            if packed.Unpack(message):
                details.append(message)
    return failed.value, details
