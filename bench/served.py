"""Equipoise as a process: its subcommands, and a server that is started, looked into, stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil

from bench.refused import InputRefused

READY_S = 300.0  # Of a first start, which compiles.
STOP_S = 30.0


class Terminated(BaseException):
    """SIGTERM: unlike Ctrl-C, only this process got it, so that its children must be told."""


def stop_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that no server is left behind."""

    def stop(_signum: int, _frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


def equipoise(*arguments: str | Path) -> list[str]:
    """The command line of an `equipoise` subcommand in this environment."""
    return [sys.executable, "-m", "server.cli", *map(str, arguments)]


def synthetic_bundle(path: Path, *, items: int, seed: int = 1, history_length: int = 50) -> Path:
    """A synthetic bundle, made by the project's own command.

    Raises:
        InputRefused: it was not made.
    """
    shape = ("--items", str(items), "--history-length", str(history_length))
    done = subprocess.run(
        equipoise("bundle", "synthetic", *shape, "--seed", str(seed), "--out", path),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InputRefused("bundle synthetic", "", done.stderr.strip() or "failed")
    return path


@dataclass(frozen=True)
class Served:
    """A server that serves. log: what it wrote so far. ready_s: how long it took to come up."""

    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    log: Path
    ready_file: Path
    ready_s: float

    @property
    def pid(self) -> int:
        return self.process.pid

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
def serving(
    log: Path, *flags: str | Path, port: int = 0, ready_file: Path | None = None
) -> Iterator[Served]:
    """Run `equipoise serve` with these flags until the block ends; on a free port, unless told.

    log: where it writes. ready_file: where it says that it serves, if anyone else wants to know.

    Raises:
        InputRefused: it did not come up.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as written:
        ready = ready_file or Path(folder) / "ready.json"
        ready.unlink(missing_ok=True)
        ports = ("--port", str(port), "--metrics-port", "0", "--ready-file", ready)
        begun_s = time.monotonic()
        process = subprocess.Popen(
            equipoise("serve", *ports, *flags),
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
        try:
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > begun_s + READY_S:
                    last = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
                    why = f"the server did not come up (its log is {log}): {last}"
                    raise InputRefused("serve", " ".join(map(str, flags)), why)
                time.sleep(0.02)
            found = json.loads(ready.read_text(encoding="utf-8"))
            yield Served(
                process, found["port"], found["metrics_port"], log, ready,
                time.monotonic() - begun_s,
            )  # fmt: skip
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
