"""What serves: a bundle with its engine and all that is told of it, as one thing that can be exchanged.

A request is decoded, answered and encoded by the release that was current when it came, whatever
becomes current meanwhile. Owns how a release is made and which one is current.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from equipoise.v1 import serving_pb2
from server.batcher import Batcher
from server.bundle import Bundle, load_bundle
from server.config import ServerSettings
from server.engine import Engine, Outcome, Query, resolver_for
from server.events import EventStore, HistoryCache
from server.exposures import ExposureLedger
from server.service.encode import serving_info
from server.service.pages import PageTokens


@dataclass(frozen=True, eq=False)
class Release:
    """One bundle, ready to serve. warmups: how many of its lists were replayed."""

    bundle: Bundle
    engine: Engine
    pages: PageTokens
    info: serving_pb2.GetServingInfoResponse
    warmups: int

    @property
    def id(self) -> str:
        """The bundle's id, as responses name it."""
        return self.bundle.manifest.bundle_id


@dataclass(frozen=True)
class Job:
    """A query and the release that answers it."""

    release: Release
    query: Query


Jobs = Batcher[Job, Outcome]


def late_of(job: Job) -> Job | None:
    """What to run in its place where there is no time: its own release's fallback, if it has one."""
    own = job.release.engine.late_of
    query = None if own is None else own(job.query)
    return None if query is None else Job(job.release, query)


def run_jobs(jobs: Sequence[Job]) -> list[Outcome | BaseException]:
    """An outcome for each, in order. Those of two releases never meet in a model run."""
    outcomes: list[Outcome | BaseException] = []
    for release, own in groupby(jobs, lambda job: job.release):
        outcomes += release.engine.run_batch([job.query for job in own])
    return outcomes


@dataclass(frozen=True)
class ReleaseMaker:
    """Makes releases that share the stores of one server. page_key: signs page tokens."""

    settings: ServerSettings
    store: EventStore | None
    ledger: ExposureLedger
    page_key: bytes

    def make(self, path: Path) -> Release:
        """Load a bundle and warm it up: all that takes time.

        Raises:
            BundleRefused: it is damaged, foreign, or gives other lists than recorded.
        """
        settings = self.settings
        bundle = load_bundle(path, max_count=settings.max_count)
        cache = None
        if self.store is not None:
            # Histories are kept in the bundle's item numbers, so each release has its own.
            cache = HistoryCache(
                self.store,
                resolver_for(bundle),
                max_users=settings.history_cache_users,
                max_events=settings.max_history_events,
            )
        engine = Engine(
            bundle,
            cache=cache,
            ledger=self.ledger,
            clock_ms=_clock(bundle, settings),
            replay=settings.clock == "data-end",
        )
        return Release(
            bundle,
            engine,
            PageTokens(bundle, self.page_key, settings.page_token_age_s),
            serving_info(bundle, settings),
            engine.warm_up(),
        )


class Current:
    """The release that new requests get, and the queue that they wait in."""

    def __init__(
        self,
        release: Release,
        settings: ServerSettings,
        run: Callable[[Sequence[Job]], Sequence[Outcome | BaseException]] = run_jobs,
    ) -> None:
        self._max_batch = settings.max_batch
        self.release = release
        self.batcher: Jobs = Batcher(
            run,
            max_batch=self._batch_of(release),
            max_queue=settings.max_queue,
            background_queue=settings.max_background_queue,
            late_of=_late_of(release),
        )

    def swap(self, release: Release) -> None:
        """Let new requests have another release; those that wait keep theirs."""
        self.release = release
        self.batcher.retune(max_batch=self._batch_of(release), late_of=_late_of(release))

    def _batch_of(self, release: Release) -> int:
        return self._max_batch or release.bundle.manifest.model.best_batch


def _late_of(release: Release) -> Callable[[Job], Job | None] | None:
    """None where no policy has a fallback: then a request is refused before it is decoded."""
    return None if release.engine.late_of is None else late_of


def _clock(bundle: Bundle, settings: ServerSettings) -> Callable[[], int]:
    if settings.clock == "data-end":
        until_ms = bundle.manifest.data.until_unix_ms
        return lambda: until_ms
    return lambda: time.time_ns() // 1_000_000
