"""The life of a server: load, warm up, serve, drain.

Owns the order: nothing says SERVING before the bundle's warm-up requests gave
the recorded lists; health says NOT_SERVING before the first call is refused;
feedback that was acknowledged is on disk before the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from equipoise.v1 import recommendation_pb2_grpc, serving_pb2_grpc
from server.batcher import Batcher
from server.bundle import Bundle, load_bundle
from server.config import ServerSettings
from server.engine import Engine, Outcome, Query, ResolvedHistory, resolver_for
from server.errors import ExposuresUnavailable, SettingsRefused
from server.events import GroupCommitter, HistoryCache, SqliteEventStore
from server.exposures import ExposureLedger
from server.service.encode import serving_info
from server.service.metrics import ServerMetrics
from server.service.pages import PageTokens, read_key
from server.service.servicer import (
    RECOMMENDATION,
    SERVING,
    RecommendationServicer,
    ServingServicer,
)
from server.service.wire import Door

MAX_METADATA_BYTES = 8 * 1024
IDLE_CHECK_S = 0.01
QUIET_CHECKS = 5
SERVICES = ("", RECOMMENDATION, SERVING)


@dataclass(frozen=True)
class Addresses:
    """Where a started server listens. `metrics_port` is None when it is off."""

    port: int
    metrics_port: int | None


def _clock(bundle: Bundle, settings: ServerSettings) -> Callable[[], int]:
    if settings.clock == "data-end":
        until_ms = bundle.manifest.data.until_unix_ms
        return lambda: until_ms
    return lambda: time.time_ns() // 1_000_000


class Server:
    """One server process, made inside a running event loop.

    server = Server(settings)
    addresses = await server.start()
    ...
    await server.stop()
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._log = structlog.get_logger("server")
        self._cleanup = contextlib.AsyncExitStack()
        self._metrics_server: tuple[WSGIServer, Thread] | None = None

    async def start(self) -> Addresses:
        """Load, warm up and serve.

        Raises:
            BundleRefused: the bundle is damaged, foreign, or gives other lists than recorded.
            SettingsRefused: a port is taken, or a file cannot be used.
        """
        settings = self._settings
        started_ns = time.monotonic_ns()
        bundle = load_bundle(settings.bundle, max_count=settings.max_count)
        cache, committer = self._open_events(bundle)
        ledger = self._open_exposures()
        engine = Engine(
            bundle,
            cache=cache,
            ledger=ledger,
            clock_ms=_clock(bundle, settings),
            replay=settings.clock == "data-end",
        )
        replayed = engine.warm_up()
        self._batcher: Batcher[Query, Outcome] = Batcher(
            engine.run_batch,
            max_batch=settings.max_batch or bundle.manifest.model.best_batch,
            max_queue=settings.max_queue,
        )
        self._batcher.start()
        self._cleanup.push_async_callback(self._batcher.close)
        metrics = ServerMetrics(bundle, settings.max_labels, lambda: self._batcher.depth)
        self._health = health.aio.HealthServicer()
        for name in SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._grpc = self._make_grpc(bundle, committer, metrics)
        port = self._bind(settings.host, settings.port)
        metrics_port = self._open_metrics(metrics)
        await self._grpc.start()
        for name in SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        addresses = Addresses(port, metrics_port)
        if settings.ready_file is not None:
            _write_ready(settings.ready_file, addresses)
        self._log.info(
            "serving",
            host=settings.host,
            port=port,
            metrics_port=metrics_port,
            bundle_id=bundle.manifest.bundle_id,
            items=len(bundle.items.ids),
            warmups=replayed,
            ready_ms=(time.monotonic_ns() - started_ns) // 1_000_000,
        )
        return addresses

    async def stop(self) -> None:
        """Drain: NOT_SERVING first, then finish the calls under way, then close the stores.

        New calls are answered UNAVAILABLE while that goes on. gRPC itself would cancel those that
        it holds but has not handed over, so it is stopped when none has come for a while, or when
        half of the grace is over.
        """
        for name in SERVICES:
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._log.info("draining", grace_s=self._settings.drain_grace_s)
        await asyncio.sleep(self._settings.drain_delay_s)
        self._door.closing.set()
        until = time.monotonic() + self._settings.drain_grace_s
        quiet, refused = 0, 0
        while quiet < QUIET_CHECKS and time.monotonic() < until - self._settings.drain_grace_s / 2:
            await asyncio.sleep(IDLE_CHECK_S)
            idle = not self._door.active and self._door.refused == refused
            quiet, refused = quiet + 1 if idle else 0, self._door.refused
        stopping = asyncio.create_task(self._grpc.stop(max(0.0, until - time.monotonic())))
        await asyncio.sleep(IDLE_CHECK_S)
        self._door.parted.set()
        await stopping
        await self.close()
        self._log.info("stopped")

    async def close(self) -> None:
        """Close what was opened, in reverse order; also after a failed start."""
        if self._metrics_server is not None:
            web, thread = self._metrics_server
            web.shutdown()
            web.server_close()
            thread.join()
            self._metrics_server = None
        await self._cleanup.aclose()
        if self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)

    def _open_events(
        self, bundle: Bundle
    ) -> tuple[HistoryCache[ResolvedHistory] | None, GroupCommitter | None]:
        if self._settings.events is None:
            return None, None
        store = SqliteEventStore(self._settings.events)
        self._cleanup.callback(store.close)
        committer = GroupCommitter(store)
        self._cleanup.push_async_callback(committer.aclose)
        cache = HistoryCache(
            store,
            resolver_for(bundle),
            max_users=self._settings.history_cache_users,
            max_events=self._settings.max_history_events,
        )
        return cache, committer

    def _open_exposures(self) -> ExposureLedger:
        settings = self._settings
        ledger = ExposureLedger(settings.exposures, flush_every_s=settings.exposures_flush_s)
        if settings.exposures is None:
            return ledger

        async def flush(work: Callable[[], None]) -> None:
            try:
                await asyncio.to_thread(work)
            except ExposuresUnavailable as error:
                self._log.error("exposures not saved", error=str(error))

        async def keep() -> None:
            while True:
                await asyncio.sleep(settings.exposures_flush_s)
                if ledger.due(time.monotonic()):
                    await flush(ledger.flush)

        keeper = asyncio.create_task(keep())

        async def close() -> None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
            await flush(ledger.close)

        self._cleanup.push_async_callback(close)
        return ledger

    def _make_grpc(
        self, bundle: Bundle, committer: GroupCommitter | None, metrics: ServerMetrics
    ) -> grpc.aio.Server:
        settings = self._settings
        self._door = Door(metrics)
        pages = PageTokens(bundle, read_key(settings.page_key_file), settings.page_token_age_s)
        server = grpc.aio.server(
            interceptors=(self._door,),
            options=[
                # Two servers on one port would share its traffic silently.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ],
        )
        recommendation_pb2_grpc.add_RecommendationServiceServicer_to_server(
            RecommendationServicer(
                bundle, self._batcher, committer, settings, metrics, pages, self._door.closing
            ),
            server,
        )
        serving_pb2_grpc.add_ServingServiceServicer_to_server(
            ServingServicer(serving_info(bundle, settings), metrics), server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (RECOMMENDATION, SERVING, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        return server

    def _bind(self, host: str, port: int) -> int:
        try:
            # Asked first by ourselves, since gRPC writes a page of its own about a taken port.
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socket.create_server((host.strip("[]"), port), family=family).close()
            return self._grpc.add_insecure_port(f"{host}:{port}")
        except (OSError, RuntimeError) as error:
            raise SettingsRefused(
                f"cannot listen on {host}:{port}: is the port taken? Try --port 0 for a free one"
            ) from error

    def _open_metrics(self, metrics: ServerMetrics) -> int | None:
        settings = self._settings
        if settings.metrics_port is None:
            return None
        try:
            self._metrics_server = start_http_server(
                settings.metrics_port, addr=settings.host, registry=metrics.registry
            )
        except OSError as error:
            raise SettingsRefused(
                f"cannot open the metrics port {settings.host}:{settings.metrics_port}: "
                f"{error.strerror}. Try --metrics-port 0 for a free one, or off"
            ) from error
        return self._metrics_server[0].server_port


def _write_ready(path: Path, addresses: Addresses) -> None:
    """Whole or not at all, so that a reader never sees half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    document = {
        "pid": os.getpid(),
        "port": addresses.port,
        "metrics_port": addresses.metrics_port,
    }
    try:
        aside.write_text(json.dumps(document), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise SettingsRefused(f"cannot write the ready file {path}: {error.strerror}") from error
