"""A real server process for tests: `equipoise serve` on port 0, waited for by its ready file."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bench.served import serving
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from equipoise.v1.serving_pb2_grpc import ServingServiceStub

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
    log = folder / "server.log"
    with (
        serving(log, "--bundle", bundle, *flags, ready_file=folder / "ready.json") as served,
        grpc.insecure_channel(served.target) as channel,
    ):
        yield LiveServer(served.process, served.port, served.metrics_port, channel, log)


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
