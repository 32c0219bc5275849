"""T3: releases are exchanged under load, good ones and bad ones.

Each answer has to be the list that the release it names gives for that request, as a server of that
release alone gave it beforehand: so a mixture of two, or a stale cache, is a wrong answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.chaos.damages import DAMAGES, manifest_id
from bench.chaos.marks import Mark, all_of, none_of
from bench.served import Served, serving, synthetic_bundle
from bench.serving.calls import Shape
from bench.serving.drawn import draw, item_ids
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server import releases

REQUESTS = 48
SHAPE = Shape(history=20, candidates=60)
BATCH = 8
TAKEN_UP_S = 60.0
DEADLINE_S = 20.0
ALONE = [("grpc.use_local_subchannel_pool", 1)]
Lists = dict[str, dict[str, tuple[str, ...]]]
"""By bundle id and request id."""


@dataclass(frozen=True)
class Swaps:
    """What became of it. taken_up_s: (median, most) from the pointer until all answers are of the new
    release; side_by_side_s: from its first answer to the last call that still got the old one.
    latency_ms: (50th, 99th) percentile of single calls; quiet: before the first swap. rss_mib: of the
    server's process tree, after the first swaps and at the end."""

    good: int
    taken_up: int
    bad: int
    kept_serving: int
    refused_told: int
    answers: int
    failed: dict[str, int]
    wrong: int
    taken_up_s: tuple[float, float]
    side_by_side_s: tuple[float, float]
    quiet_ms: tuple[float, float]
    latency_ms: tuple[float, float]
    rss_mib: tuple[float, float]
    example: str = ""


@dataclass
class _Seen:
    """What the callers saw."""

    lists: Lists
    answers: int = 0
    wrong: int = 0
    example: str = ""
    failed: Counter[str] = field(default_factory=Counter)
    releases: Counter[str] = field(default_factory=Counter)
    took_ms: list[float] = field(default_factory=list)
    wanted: str = ""
    first_new_s: float = float("inf")
    last_old_s: float = 0.0

    def expect(self, bundle_id: str) -> None:
        """From now on this release is to come."""
        self.wanted, self.first_new_s, self.last_old_s = bundle_id, float("inf"), 0.0

    @property
    def side_by_side_s(self) -> float:
        """For how long calls that began later than the first answer of the new release got the old."""
        return max(0.0, self.last_old_s - self.first_new_s)

    def look(self, response: pb.RecommendResponse, begun_s: float = 0.0) -> None:
        self.answers += 1
        if response.bundle_id == self.wanted:
            self.first_new_s = min(self.first_new_s, time.perf_counter())
        elif begun_s > self.first_new_s:
            self.last_old_s = begun_s
        self.releases[response.bundle_id] += 1
        wanted = self.lists.get(response.bundle_id, {}).get(response.request_id)
        got = tuple(item.item_id for item in response.items)
        if got != wanted:
            self.wrong += 1
            self.example = self.example or (
                f"request {response.request_id} of {response.bundle_id}: {got[:3]}..., "
                f"not {(wanted or ('no such release',))[:3]}..."
            )

    def outcome(self, outcome: pb.RecommendOutcome, begun_s: float = 0.0) -> None:
        if outcome.HasField("error"):
            self.failed[grpc_name(outcome.error.code)] += 1
        else:
            self.look(outcome.response, begun_s)


def grpc_name(code: int) -> str:
    """The name of a status code.

    >>> grpc_name(14)
    'UNAVAILABLE'
    """
    return next(one.name for one in grpc.StatusCode if one.value[0] == code)


def make_bundles(folder: Path, count: int = 3, items: int = 2_000) -> list[Path]:
    """Releases of one catalogue whose models differ."""
    seeds = range(1, count + 1)
    return [synthetic_bundle(folder / f"bundle-{one}", items=items, seed=one) for one in seeds]


def marks(found: Swaps) -> list[Mark]:
    """The rows of T3."""
    failed = ", ".join(f"{count:,} {code}" for code, count in found.failed.items())
    grown = found.rss_mib[1] - found.rss_mib[0]
    return [
        all_of("good releases that served", found.taken_up, found.good),
        none_of("failed requests", sum(found.failed.values()), failed),
        none_of("answers that mix releases or are another's", found.wrong, found.example),
        all_of("damaged releases refused, told and counted", found.refused_told, found.bad),
        all_of("the release before served on after a damaged one", found.kept_serving, found.bad),
        Mark("answers compared", f"{found.answers:,}"),
        Mark(
            "from the pointer to all answers of the new one",
            f"median {found.taken_up_s[0]:.1f} s, most {found.taken_up_s[1]:.1f} s",
        ),
        Mark(
            "two releases side by side",
            f"median {found.side_by_side_s[0] * 1e3:,.0f} ms, "
            f"most {found.side_by_side_s[1] * 1e3:,.0f} ms",
        ),
        Mark(
            "a call alone, 50th and 99th percentile",
            f"{found.latency_ms[0]:.1f} and {found.latency_ms[1]:.1f} ms; before the first swap "
            f"{found.quiet_ms[0]:.1f} and {found.quiet_ms[1]:.1f} ms",
        ),
        Mark(
            "memory, from a tenth of the way to the end",
            f"{found.rss_mib[0]:,.0f} to {found.rss_mib[1]:,.0f} MiB ({grown:+,.0f})",
        ),
    ]


def lists_of(bundle: Path, requests: list[pb.RecommendRequest], folder: Path) -> Lists:
    """What a server of this bundle alone answers."""
    with serving(folder / "server.log", "--bundle", bundle) as served, served.channel() as channel:
        service = RecommendationServiceStub(channel)
        found = [service.Recommend(request, timeout=DEADLINE_S) for request in requests]
    return {
        found[0].bundle_id: {
            one.request_id: tuple(item.item_id for item in one.items) for one in found
        }
    }


def run(
    folder: Path,
    bundles: list[Path],
    *,
    good: int,
    bad: int,
    workers: int = 1,
    callers: int = 3,
    seed: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> Swaps:
    """Exchange `bundles` in turn, `good` times, and point to a damaged one `bad` times between."""
    requests = draw(item_ids(bundles[0]), SHAPE, REQUESTS, seed)
    lists: Lists = {}
    for number, bundle in enumerate(bundles):
        lists |= lists_of(bundle, requests, folder / f"alone-{number}")
    root = folder / "releases"
    ids = [releases.activate(root, bundle, manifest_id).active for bundle in bundles]
    flags = ("--bundle", str(root), "--workers", str(workers))
    with serving(folder / "server" / "server.log", *flags) as served:
        story = _Story(served, root, ids, requests, _Seen(lists), seed, progress)
        return asyncio.run(story.tell(good, bad, callers))


class _Story:
    def __init__(
        self,
        served: Served,
        root: Path,
        ids: list[str],
        requests: list[pb.RecommendRequest],
        seen: _Seen,
        seed: int,
        progress: Callable[[float], None],
    ) -> None:
        self._served = served
        self._root = root
        self._ids = ids
        self._requests = requests
        self._seen = seen
        self._rng = np.random.default_rng(seed)
        self._progress = progress
        self._over = False

    async def tell(self, good: int, bad: int, callers: int) -> Swaps:
        async with contextlib.AsyncExitStack() as opened:
            # Each caller has a connection of its own, so that several workers get some.
            services = [
                RecommendationServiceStub(
                    await opened.enter_async_context(
                        grpc.aio.insecure_channel(self._served.target, options=ALONE)
                    )
                )
                for _ in range(callers + 2)
            ]
            ways = [self._batches, self._stream, *[self._unary] * callers]
            tasks = [
                asyncio.create_task(way(service))
                for way, service in zip(ways, services, strict=True)
            ]
            try:
                await asyncio.sleep(0)
                return await self._exchange(good, bad)
            finally:
                self._over = True
                await asyncio.gather(*tasks)

    async def _exchange(self, good: int, bad: int) -> Swaps:
        seen = self._seen
        while len(seen.took_ms) < 200:
            await asyncio.sleep(0.01)
        quiet = _percentiles(seen.took_ms)
        del seen.took_ms[:]
        kinds = ["good"] * good + ["bad"] * bad
        self._rng.shuffle(kinds)
        taken_up_s: list[float] = []
        beside_s: list[float] = []
        kept = told = damaged = 0
        serving_now = self._ids[-1]
        begun_mib = 0.0
        for number, kind in enumerate(kinds, start=1):
            if kind == "good":
                serving_now = next(one for one in self._ids * 2 if one != serving_now)
                self._ids.append(self._ids.pop(self._ids.index(serving_now)))
                seen.expect(serving_now)
                spent_s = await self._point(serving_now)
                taken_up_s += [] if spent_s is None else [spent_s]
                await self._answers_of(serving_now)
                beside_s.append(seen.side_by_side_s)
            else:
                told_now, kept_now = await self._damage(damaged, serving_now)
                damaged += 1
                told += told_now
                kept += kept_now
            if number == max(1, len(kinds) // 10):
                begun_mib = self._served.rss_mib()
            self._progress(number / len(kinds))
        return Swaps(
            good,
            len(taken_up_s),
            bad,
            kept,
            told,
            seen.answers,
            dict(seen.failed),
            seen.wrong,
            (float(np.median(taken_up_s or [0])), max(taken_up_s, default=0.0)),
            (float(np.median(beside_s or [0])), max(beside_s, default=0.0)),
            quiet,
            _percentiles(seen.took_ms),
            (begun_mib, self._served.rss_mib()),
            seen.example,
        )

    async def _point(self, bundle_id: str) -> float | None:
        """Set the pointer, and wait until all workers serve it; the seconds, or None: not in time."""
        pointer = releases.read_pointer(self._root)
        releases.point(self._root, releases.Pointer(bundle_id, pointer.earlier))
        begun_s = time.monotonic()
        while time.monotonic() < begun_s + TAKEN_UP_S:
            if await self._all_serve(bundle_id):
                return time.monotonic() - begun_s
            await asyncio.sleep(0.02)
        return None

    async def _all_serve(self, bundle_id: str) -> bool:
        """Of several workers each connection has one, so the metric decides."""
        told = await asyncio.to_thread(self._served.metrics)
        current = {
            name.partition('bundle_id="')[2].partition('"')[0]
            for name, value in told.items()
            if name.startswith("equipoise_serving_info{") and value > 0
        }
        return current == {bundle_id}

    async def _damage(self, number: int, serving_now: str) -> tuple[bool, bool]:
        """Point to a damaged release: whether it was told as refused, and the old one still served."""
        name, damage = DAMAGES[number % len(DAMAGES)]
        folder = releases.path_of(self._root, f"damaged-{name}")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(releases.path_of(self._root, serving_now), folder)
        damage(folder)
        if name in ("answers", "inputs", "policy"):  # Under its own name: only its content tells.
            own = releases.path_of(self._root, manifest_id(folder))
            shutil.rmtree(own, ignore_errors=True)
            folder = folder.rename(own)
        before = await self._refused()
        pointer = releases.read_pointer(self._root)
        releases.point(self._root, releases.Pointer(folder.name, pointer.earlier))
        until_s = time.monotonic() + TAKEN_UP_S
        while (told := await self._refused() > before) is False and time.monotonic() < until_s:
            await asyncio.sleep(0.02)
        kept = await self._answers_of(serving_now)
        releases.point(self._root, releases.Pointer(serving_now, pointer.earlier))
        return told, kept

    async def _answers_of(self, bundle_id: str, answers: int = 30) -> bool:
        """Whether so many more answers are all of this release."""
        self._seen.releases.clear()
        until_s = time.monotonic() + TAKEN_UP_S
        while self._seen.releases.total() < answers and time.monotonic() < until_s:
            await asyncio.sleep(0.01)
        return set(self._seen.releases) == {bundle_id}

    async def _refused(self) -> float:
        told = await asyncio.to_thread(self._served.metrics)
        return told.get('equipoise_bundle_swaps_total{outcome="refused"}', 0.0)

    # The callers. They go on until the story is over, whatever becomes of a call.

    def _next(self) -> pb.RecommendRequest:
        return self._requests[int(self._rng.integers(len(self._requests)))]

    async def _unary(self, service: Any) -> None:
        while not self._over:
            begun_s = time.perf_counter()
            try:
                answer = await service.Recommend(self._next(), timeout=DEADLINE_S)
                self._seen.look(answer, begun_s)
            except grpc.aio.AioRpcError as error:
                self._seen.failed[error.code().name] += 1
            self._seen.took_ms.append((time.perf_counter() - begun_s) * 1e3)
            await asyncio.sleep(0.005)

    async def _batches(self, service: Any) -> None:
        while not self._over:
            asked = pb.BatchRecommendRequest(requests=[self._next() for _ in range(BATCH)])
            begun_s = time.perf_counter()
            try:
                answer = await service.BatchRecommend(asked, timeout=DEADLINE_S)
                for outcome in answer.outcomes:
                    self._seen.outcome(outcome, begun_s)
            except grpc.aio.AioRpcError as error:
                self._seen.failed[error.code().name] += BATCH
            await asyncio.sleep(0.02)

    async def _stream(self, service: Any) -> None:
        async def asked() -> AsyncIterator[pb.RecommendStreamRequest]:
            number = 0
            while not self._over:
                number += 1
                yield pb.RecommendStreamRequest(id=number, request=self._next())
                await asyncio.sleep(0.01)

        try:
            async for answer in service.RecommendStream(asked()):
                self._seen.outcome(answer.outcome)
        except grpc.aio.AioRpcError as error:
            self._seen.failed[error.code().name] += 1


def _percentiles(took_ms: list[float]) -> tuple[float, float]:
    middle, high = np.percentile(took_ms or [0.0], (50, 99)).tolist()
    return middle, high
