"""T5: servers are stopped with SIGTERM one after the other, under a steady open loop.

Once as workers of one server, whose supervisor starts another; once as two servers behind one
client, each of which an operator starts again. With the shipped service config no call fails.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.chaos.marks import Mark, all_of, none_of
from bench.chaos.openloop import Spec
from bench.chaos.overload import counts
from bench.chaos.samples import Samples, generator
from bench.load.work import SERVICE_CONFIG
from bench.served import Served, serving

SETTLE_S = 1.0
LONGEST_S = 30.0
"""What one stop and start may take; the caller is told when all are done."""
REPLACED_S = 60.0


def _until(true: Callable[[], bool], seconds: float = REPLACED_S) -> bool:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        if true():
            return True
        time.sleep(0.02)
    return False


@dataclass(frozen=True)
class Roll:
    """How it is done. rate: requests a second; config: a service config's file, or empty."""

    bundle: Path
    terms: int
    rate: float
    seed: int
    config: str = ""


def workers(folder: Path, roll: Roll, progress: Callable[[float], None]) -> tuple[Samples, int]:
    """Stop a worker of two, `terms` times in turn: what callers saw, and how many were replaced."""
    replaced = 0
    with serving(folder / "server.log", "--bundle", roll.bundle, "--workers", "2") as served:
        spec = Spec(
            served.target, str(roll.bundle), roll.rate, roll.terms * LONGEST_S, roll.seed, "", deadline_ms=1_000,
            service_config=roll.config,
        )  # fmt: skip
        with generator(spec) as caller:
            caller.begin()
            for number in range(roll.terms):
                time.sleep(SETTLE_S)
                before = served.workers
                victim = before[number % len(before)]
                os.kill(victim, signal.SIGTERM)
                replaced += _until(lambda gone=victim: gone not in served.workers)  # type: ignore[misc]
                progress((number + 1) / roll.terms)
            time.sleep(SETTLE_S)
            return caller.end(), replaced


class _Replica:
    """A server on a port of its own, that can be stopped and started again on it."""

    def __init__(self, folder: Path, bundle: Path, port: int) -> None:
        self._folder, self._bundle, self._port = folder, bundle, port
        self._stack = contextlib.ExitStack()

    def start(self) -> Served:
        flags = ("--bundle", str(self._bundle))
        self.served = self._stack.enter_context(
            serving(self._folder / "server.log", *flags, port=self._port)
        )
        self._port = self.served.port
        return self.served

    def stop(self) -> tuple[bool, int]:
        """Whether health said NOT_SERVING before the port closed, and the exit code."""
        seen = threading.Event()
        begun = threading.Event()

        def watch() -> None:
            request = health_pb2.HealthCheckRequest()
            with self.served.channel() as channel, contextlib.suppress(grpc.RpcError):
                for answer in health_pb2_grpc.HealthStub(channel).Watch(request, timeout=30):
                    begun.set()
                    if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                        seen.set()
                        return

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        begun.wait(10)
        self.served.process.send_signal(signal.SIGTERM)
        code = self.served.process.wait(30)
        watcher.join(10)
        self._stack.close()
        self._stack = contextlib.ExitStack()
        return seen.is_set(), code

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def _replicas(folder: Path, bundle: Path) -> Iterator[list[_Replica]]:
    found = [_Replica(folder / str(number), bundle, 0) for number in range(2)]
    try:
        for one in found:
            one.start()
        yield found
    finally:
        for one in found:
            one.close()


def replicas(
    folder: Path, roll: Roll, progress: Callable[[float], None]
) -> tuple[Samples, int, int]:
    """Restart two servers in turn: what callers saw, how often health told it, and clean exits."""
    told = clean = 0
    with _replicas(folder, roll.bundle) as found:
        target = "ipv4:" + ",".join(one.served.target for one in found)
        spec = Spec(
            target, str(roll.bundle), roll.rate, roll.terms * LONGEST_S, roll.seed, "", deadline_ms=1_000,
            service_config=roll.config, channels=2, balancing="round_robin",
        )  # fmt: skip
        with generator(spec) as caller:
            caller.begin()
            for number in range(roll.terms):
                time.sleep(SETTLE_S)
                one = found[number % 2]
                seen, code = one.stop()
                told += seen
                clean += code == 0
                one.start()
                progress((number + 1) / roll.terms)
            time.sleep(SETTLE_S)
            return caller.end(), told, clean


def run(folder: Path, roll: Roll, progress: Callable[[float], None] = lambda _: None) -> list[Mark]:
    """All rows; `roll.config` is the shipped one."""
    roll = replace(roll, config=str(SERVICE_CONFIG))
    seen, replaced = workers(folder / "workers", roll, lambda done: progress(done / 3))
    rows = [
        none_of(f"{roll.terms} workers stopped: failed calls", int((~seen.ok).sum()), counts(seen)),
        all_of("workers replaced", replaced, roll.terms),
    ]
    seen, told, clean = replicas(folder / "both", roll, lambda done: progress((1 + done) / 3))
    rows += [
        none_of(
            f"{roll.terms} servers restarted: failed calls", int((~seen.ok).sum()), counts(seen)
        ),
        all_of("health said NOT_SERVING before the end", told, roll.terms),
        all_of("exit code 0 within the grace", clean, roll.terms),
    ]
    plain = replace(roll, terms=roll.terms // 5, config="")
    if plain.terms:
        seen, _, _ = replicas(folder / "plain", plain, lambda done: progress((2 + done) / 3))
        rows.append(Mark(f"{plain.terms} restarts without the service config: calls", counts(seen)))
    return rows
