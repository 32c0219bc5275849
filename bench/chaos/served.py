"""A server process that a chaos run may hurt: started, looked into, stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from bench.demo.serving import equipoise
from bench.refused import InputRefused

READY_S = 300.0  # Of a first start, which compiles.
STOP_S = 30.0


@dataclass(frozen=True)
class Served:
    """A server that serves. log: what it wrote so far."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    log: Path
    ready_file: Path

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def workers(self) -> list[int]:
        """The pids of the processes that serve."""
        found = json.loads(self.ready_file.read_text(encoding="utf-8"))
        return [int(pid) for pid in found.get("workers", [found["pid"]])]

    def channel(self) -> grpc.Channel:
        """A connection of its own."""
        return grpc.insecure_channel(self.target, options=[("grpc.use_local_subchannel_pool", 1)])

    def metrics(self) -> dict[str, float]:
        """Every sample, by its name with labels as it is written."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and line[0] != "#")
        return {name: float(value) for name, _, value in samples}

    def rss_mib(self) -> float:
        """Of the process and its children."""
        process = psutil.Process(self.process.pid)
        total = 0
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        return total / 2**20

    def events(self) -> list[dict[str, object]]:
        """The lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@contextlib.contextmanager
def serving(folder: Path, *flags: str, port: int = 0) -> Iterator[Served]:
    """Run `equipoise serve` with these flags until the block ends; on a free port, unless told.

    Raises:
        InputRefused: it did not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, ready = folder / "server.log", folder / "ready.json"
    ready.unlink(missing_ok=True)
    ports = ("--port", str(port), "--metrics-port", "0", "--ready-file", str(ready))
    with log.open("wb") as written:
        process = subprocess.Popen(
            equipoise("serve", *ports, *flags),
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
    try:
        until_s = time.monotonic() + READY_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > until_s:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise InputRefused("serve", " ".join(flags), f"did not come up: {last}")
            time.sleep(0.02)
        found = json.loads(ready.read_text(encoding="utf-8"))
        yield Served(process, found["port"], found["metrics_port"], log, ready)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
