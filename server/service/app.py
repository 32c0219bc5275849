"""The life of a server: load, warm up, serve, drain.

Owns the order: nothing says SERVING before the bundle's warm-up requests gave
the recorded lists; health says NOT_SERVING before the first call is refused;
feedback that was acknowledged is on disk before the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from equipoise.oip import grpc_service_pb2_grpc
from equipoise.v1 import recommendation_pb2_grpc, serving_pb2_grpc
from server.apart import check_release
from server.config import ServerSettings
from server.errors import ExposuresUnavailable, SettingsRefused
from server.events import GroupCommitter, SqliteEventStore
from server.exposures import ExposureLedger
from server.following import Following, first_fit
from server.ports import MetricsPort, check_port, port_refused
from server.ready_file import write_ready
from server.releases import holds_releases
from server.service import unseen
from server.service.decode import Limits
from server.service.exchange import Exchange, made
from server.service.health import HealthServicer
from server.service.lists import ListMaker
from server.service.metrics import ServerMetrics
from server.service.oip import INFERENCE, InferenceServicer, follower
from server.service.pages import read_key
from server.service.release import Current, Release, ReleaseMaker
from server.service.servicer import (
    RECOMMENDATION,
    SERVING,
    RecommendationServicer,
    ServingServicer,
)
from server.service.wire import Door
from server.supervisor import SwapCounts, WorkerCounts

if TYPE_CHECKING:
    from server.service.traces import Traces

MAX_METADATA_BYTES = 8 * 1024
KEEPALIVE_TIMEOUT_MS = 20_000
LAST_TRACES_S = 3.0
"""How long a collector may take at the end for the last spans, if the grace is not over before."""
IDLE_CHECK_S = 0.01
LINGER_S = 1.0
"""What callers have to leave, once their calls are answered."""
QUIET_CHECKS = 5
SERVICES = ("", RECOMMENDATION, SERVING, INFERENCE)


@dataclass(frozen=True)
class Addresses:
    """Where a started server listens. `metrics_port` and `admin_port` are None when they are off."""

    port: int
    metrics_port: int | None
    admin_port: int | None = None


class Server:
    """One server process, made inside a running event loop.

    server = Server(settings)
    addresses = await server.start()
    ...
    await server.stop()

    shares_port: other processes of this user listen on the same port; whoever started them saw to
    it that it was free.
    """

    def __init__(self, settings: ServerSettings, *, shares_port: bool = False) -> None:
        self._settings = settings
        self._shares_port = shares_port
        self._log = structlog.get_logger("server")
        self._cleanup = contextlib.AsyncExitStack()
        self._metrics_port: MetricsPort | None = None
        self._following: Following | None = None
        self._traces: Traces | None = None

    async def start(self) -> Addresses:
        """Load, warm up and serve; raises as `prepare` and `open`."""
        await self.prepare()
        return await self.open()

    async def prepare(self) -> None:
        """Load and warm up: all that takes time.

        Raises:
            BundleRefused: the bundle is damaged, foreign, or gives other lists than recorded.
            SettingsRefused: a file cannot be used.
        """
        settings = self._settings
        started_ns = time.monotonic_ns()
        self._traces = _traces(settings)
        page_key = read_key(settings.page_key_file)
        store, committer = self._open_events()
        maker = ReleaseMaker(settings, store, self._open_exposures(), page_key)
        follows = holds_releases(settings.bundle)
        release = await _first(maker) if follows else maker.make(settings.bundle)
        self._current = Current(release, settings)
        self._batcher = self._current.batcher
        self._batcher.start()
        self._cleanup.push_async_callback(self._batcher.close)
        self._metrics = ServerMetrics(settings.max_labels)
        self._metrics.serves(release.bundle)
        self.exchange = Exchange(maker, self._current, self._swapped)
        if not self._shares_port:  # of several workers the supervisor follows, for all
            counts = SwapCounts(self._metrics.registry)
            if follows:
                self._follow(counts)
        self._health = HealthServicer(SERVICES)
        self._grpc = self._make_grpc(committer)
        self._prepare_ns = time.monotonic_ns() - started_ns

    @property
    def release(self) -> str:
        """The id of the bundle that is served."""
        return self._current.release.id

    def look_for_release(self) -> None:
        """Look now whether another release is active, and try again one that was refused."""
        if self._following is not None:
            self._following.look_now()

    def _swapped(self, before: Release, now: Release) -> None:
        self._metrics.serves(before.bundle, still=False)
        self._metrics.serves(now.bundle)
        self._inference.swapped()

    def _follow(self, counts: SwapCounts) -> None:
        """Serve whatever release is active from now on."""
        looking = self._following = Following(
            self._settings.bundle,
            poll_s=self._settings.release_poll_s,
            serving=lambda: self.release,
            adopt=self.exchange.adopt,
            became=counts.count,
        )
        following = asyncio.create_task(looking.run(), name="releases")

        async def end() -> None:
            following.cancel()
            await asyncio.wait((following,))
            looking.close()

        self._cleanup.push_async_callback(end)

    async def open(self) -> Addresses:
        """Serve what was prepared.

        Raises:
            SettingsRefused: a port is taken, or the ready file cannot be written.
        """
        settings = self._settings
        started_ns = time.monotonic_ns()
        port = self._bind(settings.host, settings.port)
        metrics_port = self._open_metrics()
        admin_port = await self._open_admin()
        await self._grpc.start()
        self._count_unseen()
        self._health.become(health_pb2.HealthCheckResponse.SERVING)
        if settings.ready_file is not None:
            write_ready(
                settings.ready_file, port=port, metrics_port=metrics_port, admin_port=admin_port
            )
        self._log.info(
            "serving",
            host=settings.host,
            port=port,
            metrics_port=metrics_port,
            **({} if admin_port is None else {"admin_port": admin_port}),
            bundle_id=self.release,
            items=len(self._current.release.bundle.items.ids),
            warmups=self._current.release.warmups,
            ready_ms=(self._prepare_ns + time.monotonic_ns() - started_ns) // 1_000_000,
        )
        return Addresses(port, metrics_port, admin_port)

    def _count_unseen(self) -> None:
        counting = asyncio.create_task(
            unseen.count(self._metrics.unseen, lambda: self._door.unended + self._health.watched),
            name="unseen",
        )

        async def end() -> None:
            counting.cancel()
            await asyncio.wait((counting,))

        self._cleanup.push_async_callback(end)

    def show_queue(self) -> None:
        """Put what is held now where scrapes of another process see it."""
        self._metrics.queue_depth.set(self._batcher.depth)
        self._metrics.under_way.set(self._door.active)
        self._metrics.bytes_in_flight.set(self._door.flight.held)
        self._metrics.bytes_unread.set(self._door.unread.held)

    async def stop(self, hurry: asyncio.Event) -> None:
        """Drain: NOT_SERVING first, then finish the calls under way, then close the stores.

        New calls are answered UNAVAILABLE while that goes on. gRPC itself would cancel those that
        it holds but has not handed over, so it is stopped when none has come for a while, or when
        half of the grace is over. hurry: once it is set, no call is waited for.
        """
        self._health.become(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._log.info("draining", grace_s=self._settings.drain_grace_s)
        await _pause(self._settings.drain_delay_s, hurry)
        self._door.closing.set()
        until = time.monotonic() + self._settings.drain_grace_s
        quiet, refused = 0, 0
        while (
            quiet < QUIET_CHECKS
            and not hurry.is_set()
            and time.monotonic() < until - self._settings.drain_grace_s / 2
        ):
            await asyncio.sleep(IDLE_CHECK_S)
            idle = not self._door.active and self._door.refused == refused
            quiet, refused = quiet + 1 if idle else 0, self._door.refused
        stopping = asyncio.create_task(self._grpc.stop(max(0.0, until - time.monotonic())))
        await asyncio.sleep(IDLE_CHECK_S)
        self._door.parted.set()
        self._health.end()
        others = [
            asyncio.create_task(self._cut_short(hurry)), asyncio.create_task(self._part())
        ]  # fmt: skip
        await stopping
        for one in others:
            one.cancel()
        if self._traces is not None:
            left_s = max(0.0, until - time.monotonic())
            await self._traces.close(min(left_s, LAST_TRACES_S), hurry)
            self._traces = None
        await self.close()
        self._log.info("stopped")

    async def _cut_short(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        await self._grpc.stop(None)

    async def _part(self) -> None:
        """Close connections without calls that matter: gRPC would wait for those that never say a word,
        and for watchers who do not read, until the grace is over."""
        while self._door.active:
            await asyncio.sleep(IDLE_CHECK_S)
        await asyncio.sleep(LINGER_S)
        await self._grpc.stop(None)

    async def close(self) -> None:
        """Close what was opened, in reverse order; also after a failed start."""
        if self._metrics_port is not None:
            self._metrics_port.close()
            self._metrics_port = None
        await self._cleanup.aclose()
        if self._traces is not None:  # of a start that failed: there is nothing to send
            await self._traces.close(0, asyncio.Event())
            self._traces = None
        if self._settings.ready_file is not None:
            self._settings.ready_file.unlink(missing_ok=True)

    def _open_events(self) -> tuple[SqliteEventStore | None, GroupCommitter | None]:
        if self._settings.events is None:
            return None, None
        store = SqliteEventStore(self._settings.events)
        self._cleanup.callback(store.close)
        committer = GroupCommitter(store)
        self._cleanup.push_async_callback(committer.aclose)
        return store, committer

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

    def _make_grpc(self, committer: GroupCommitter | None) -> grpc.aio.Server:
        settings, metrics = self._settings, self._metrics
        traces = self._traces
        keepalive_ms = int(settings.keepalive_s * 1e3)
        keepalive_timeout_ms = min(keepalive_ms, KEEPALIVE_TIMEOUT_MS)
        self._door = Door(metrics, settings, traces)
        server = grpc.aio.server(
            options=[
                # Two servers on one port would share its traffic silently.
                ("grpc.so_reuseport", int(self._shares_port)),
                # For the calls that nothing else counts; the admin port tells all of it.
                ("grpc.enable_channelz", 1),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                # Or between the two it is drawn by lot who is refused.
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.max_concurrent_streams", settings.max_connection_calls),
                # A caller that vanished without a word must not be held for ever.
                ("grpc.keepalive_time_ms", keepalive_ms),
                # Of a connection on which nothing comes, and of one that answers no ping.
                ("grpc.keepalive_timeout_ms", keepalive_timeout_ms),
                ("grpc.http2.ping_timeout_ms", keepalive_timeout_ms),
                ("grpc.keepalive_permit_without_calls", 1),
                # What this process does not get to, gRPC's own threads refuse: a queue that nobody
                # looks at would make each answer late. They have no status for it: callers see
                # CANCELLED.
                ("grpc.server.max_pending_requests", settings.max_pending_calls),
                ("grpc.server.max_pending_requests_hard_limit", settings.max_pending_calls),
            ],
        )
        guarded: Any = self._door.onto(server)  # the stubs know servers alone
        recommendation_pb2_grpc.add_RecommendationServiceServicer_to_server(
            RecommendationServicer(
                self._current,
                committer,
                settings,
                metrics,
                self._door.closing,
                self._door.flight,
                traces,
            ),
            guarded,
        )
        serving_pb2_grpc.add_ServingServiceServicer_to_server(
            ServingServicer(self._current, metrics, traces), guarded
        )
        served = follower(self._current, ListMaker(self._current, Limits.of(settings), metrics))
        self._inference = InferenceServicer(
            served,
            settings,
            metrics,
            self._health,
            self._door.closing,
            self._door.flight,
            traces,
        )
        grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._inference, guarded)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (RECOMMENDATION, SERVING, INFERENCE, health.SERVICE_NAME, reflection.SERVICE_NAME),
            server,
        )
        return server

    def _bind(self, host: str, port: int) -> int:
        if not self._shares_port:
            # Asked first by ourselves, since gRPC writes a page of its own about a taken port.
            check_port(host, port)
        try:
            return self._grpc.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise port_refused(host, port) from error

    async def _open_admin(self) -> int | None:
        if self._settings.admin_port is None:
            return None
        from server.service.admin import AdminPort

        admin = AdminPort(self._current, self._settings, self._metrics, self._health)
        self._cleanup.push_async_callback(admin.close)
        return await admin.open(self._settings.admin_port)

    def _open_metrics(self) -> int | None:
        if self._settings.metrics_port is None:
            return None
        # Read when it is scraped, so that the request path pays nothing.
        self._metrics.queue_depth.set_function(lambda: self._batcher.depth)
        self._metrics.under_way.set_function(lambda: self._door.active)
        self._metrics.bytes_in_flight.set_function(lambda: self._door.flight.held)
        self._metrics.bytes_unread.set_function(lambda: self._door.unread.held)
        # Alone, this process is its own only worker.
        WorkerCounts(self._metrics.registry).serving.set(1)
        self._metrics_port = MetricsPort(
            self._settings.host, self._settings.metrics_port, self._metrics.registry
        )
        return self._metrics_port.port


def _traces(settings: ServerSettings) -> Traces | None:
    """Raises:
    SettingsRefused: OpenTelemetry is not installed, or its variables ask for what is not offered.
    """
    if settings.traces == "off":
        return None
    try:
        from server.service.traces import Traces, exporter_of

        return Traces(exporter_of(settings.traces), settings.traces_ratio)
    except ModuleNotFoundError as error:
        raise SettingsRefused(
            f"traces {settings.traces!r}: {error.name} is not installed; "
            "pip install '.[otel]' brings it"
        ) from error
    except ValueError as error:  # of its limits, some of which it reads when it is imported
        raise SettingsRefused(
            f"traces {settings.traces!r}: an OTEL_* variable is refused: {error}"
        ) from error


async def _pause(seconds: float, hurry: asyncio.Event) -> None:
    """Wait so long, or until `hurry` is set."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hurry.wait(), seconds)


async def _first(maker: ReleaseMaker) -> Release:
    """The active release of the folder that is followed, or the last good one before it.

    Checked apart, though no caller would notice a crash yet: one that crashed would crash each start.
    """

    async def make(path: Path, bundle_id: str) -> Release:
        await check_release(path, bundle_id, maker.settings.max_count)
        return made(maker, path, bundle_id)

    return await first_fit(maker.settings.bundle, make)
