"""Another release takes over in one step, and of the one before nothing stays in memory."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from pathlib import Path

import grpc
import pytest

from equipoise.oip import grpc_service_pb2 as oip
from equipoise.oip.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server import releases
from server.batcher import Batched
from server.config import ServerSettings
from server.engine import Answer, Degraded, Outcome, RecommendQuery
from server.errors import BundleRefused, QueueFull
from server.events import Event, SqliteEventStore
from server.exposures import ExposureLedger
from server.service.app import Server
from server.service.exchange import Exchange, made
from server.service.release import Current, Job, Release, ReleaseMaker, run_jobs
from strategies.bundles import tiny_bundle, tiny_parts


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("bundles")
    return [(folder / str(n), tiny_bundle(folder / str(n), seed=n).bundle_id) for n in (1, 2)]


def maker_of(
    bundles: list[tuple[Path, str]], store: SqliteEventStore | None = None
) -> ReleaseMaker:
    settings = ServerSettings(bundle=bundles[0][0], clock="data-end")
    return ReleaseMaker(settings, store, ExposureLedger(None), b"k" * 32)


QUERIES = [
    RecommendQuery(count=10, user_id="anyone", policy=policy) for policy in ("tiers", "over-time")
]


def test_waiting_requests_keep_their_release_and_nothing_of_it_stays(
    bundles: list[tuple[Path, str]], tmp_path: Path
) -> None:
    async def main(store: SqliteEventStore) -> None:
        maker = maker_of(bundles, store)
        exchanged: list[tuple[str, str]] = []
        current = Current(made(maker, *bundles[0]), maker.settings)
        exchange = Exchange(
            maker, current, lambda before, now: exchanged.append((before.id, now.id))
        )
        old = weakref.ref(current.release)
        engine = weakref.ref(current.release.engine)
        batcher = current.batcher
        batcher.start()

        async def lists(release: Release) -> list[tuple[str, ...]]:
            jobs = (Job(release, query) for query in QUERIES)
            made_now = await asyncio.gather(*map(batcher.submit, jobs))
            return [one.result.item_ids for one in made_now if isinstance(one.result, Answer)]

        first = await lists(current.release)
        await exchange.prepare(*bundles[1])
        assert current.release.id == bundles[0][1]
        # Queued before, answered after.
        waiting = [batcher.enqueue(Job(current.release, query)) for query in QUERIES]
        exchange.take()
        assert exchanged == [(bundles[0][1], bundles[1][1])]
        late = [(await one.future).result for one in waiting]
        assert [one.item_ids for one in late if isinstance(one, Answer)] == first
        del waiting, late
        await asyncio.sleep(0.01)  # for the callbacks of what was answered
        # Before any other request came.
        assert old() is None
        assert engine() is None
        assert await lists(current.release) != first
        await batcher.close()

    gc.collect()
    gc.disable()  # what only it would find stays for a while
    try:
        with SqliteEventStore(tmp_path / "events.db") as store:
            store.record([Event("e", "anyone", "item-007", 4, 1_400_000_000_000)])
            asyncio.run(main(store))
    finally:
        gc.enable()


def test_what_is_refused_or_dropped_changes_nothing(
    bundles: list[tuple[Path, str]], tmp_path: Path
) -> None:
    async def main(store: SqliteEventStore) -> None:
        maker = maker_of(bundles, store)
        current = Current(made(maker, *bundles[0]), maker.settings)
        exchange = Exchange(maker, current, lambda before, now: pytest.fail("exchanged"))
        with pytest.raises(BundleRefused, match=f"holds {bundles[1][1]}, not {bundles[0][1]}"):
            await exchange.prepare(bundles[1][0], bundles[0][1])
        exchange.take()
        await exchange.prepare(*bundles[1])
        exchange.drop()
        exchange.take()
        assert current.release.id == bundles[0][1]
        await current.batcher.close()

    with SqliteEventStore(tmp_path / "events.db") as store:
        asyncio.run(main(store))


def scored(outcome: Outcome | BaseException) -> tuple[tuple[str, ...], bytes]:
    assert isinstance(outcome, Answer), outcome
    return outcome.item_ids, outcome.scores.tobytes()


def test_of_a_batch_with_lists_of_two_releases_each_is_made_by_its_own(
    bundles: list[tuple[Path, str]],
) -> None:
    async def main() -> None:
        maker = maker_of(bundles)
        old, new = (made(maker, *bundle) for bundle in bundles)
        queries = [RecommendQuery(count=10, policy=policy) for policy in ("none", "tiers")]
        jobs = [Job(release, query) for query in queries for release in (old, new)]
        alone = [scored(run_jobs([job])[0]) for job in jobs]
        assert len(set(alone)) == len(jobs)
        batcher = Current(old, maker.settings).batcher
        waiting = [batcher.enqueue(job) for job in jobs]
        batcher.start()  # not before all of them wait
        batched = [await one.future for one in waiting]
        assert len({one.formed_ns for one in batched}) == 1
        assert [scored(one.result) for one in batched] == alone
        await batcher.close()

    asyncio.run(main())


def test_with_a_release_come_its_best_batch_and_its_fallback_and_with_it_they_go(
    tmp_path: Path,
) -> None:
    late = tiny_parts().policies["tiers"].replace("\n", '\non_late = "fallback"\n', 1)
    tiny_bundle(tmp_path / "plain", best_batch=1)
    tiny_bundle(tmp_path / "late", best_batch=3, policies={"tiers": late})
    query = RecommendQuery(count=5, policy="tiers")

    async def main() -> None:
        settings = ServerSettings(bundle=tmp_path, clock="data-end")
        maker = ReleaseMaker(settings, None, ExposureLedger(None), b"k" * 32)
        plain, falling_back = (maker.make(tmp_path / name) for name in ("plain", "late"))
        current = Current(plain, settings)
        batcher = current.batcher
        batcher._pace.took(10**13)  # hours, so that no deadline below leaves time or passes

        def queued(release: Release) -> list[asyncio.Future[Batched[Outcome]]]:
            return [batcher.enqueue(Job(release, query)).future for _ in range(3)]

        async def sizes(waiting: list[asyncio.Future[Batched[Outcome]]]) -> list[int]:
            return [one.batch_size for one in await asyncio.gather(*waiting)]

        current.swap(falling_back)
        soon_ns = time.monotonic_ns() + 10**12
        waiting = queued(falling_back)
        batcher.check_room(soon_ns)
        instead = batcher.enqueue(Job(falling_back, query), soon_ns).future
        batcher.start()
        answer = (await instead).result
        assert isinstance(answer, Answer)
        assert Degraded.FALLBACK in answer.degraded
        # It took the first place of the first batch.
        assert await sizes(waiting) == [3, 3, 1]

        current.swap(plain)
        waiting = queued(plain)
        with pytest.raises(QueueFull, match="the deadline leaves"):
            batcher.check_room(soon_ns)
        assert await sizes(waiting) == [1, 1, 1]
        await batcher.close()

    asyncio.run(main())


@pytest.mark.slow
def test_a_server_keeps_nothing_of_the_release_before(
    bundles: list[tuple[Path, str]], tmp_path: Path
) -> None:
    """Whatever calls it got, and while it gets no other."""
    root = tmp_path / "root"

    def manifest_id(path: Path) -> str:
        return str(json.loads((path / "manifest.json").read_text())["bundle_id"])

    async def main() -> None:
        settings = ServerSettings(bundle=root, port=0, metrics_port=None, events=tmp_path / "e.db")
        server = Server(settings)
        releases.activate(root, bundles[0][0], manifest_id)
        address = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{address.port}") as channel:
            service = RecommendationServiceStub(channel)
            requests = [pb.RecommendRequest(count=5, user_id="someone") for _ in range(3)]
            await service.Recommend(requests[0])
            await service.BatchRecommend(pb.BatchRecommendRequest(requests=requests))
            stream = service.RecommendStream()
            await stream.write(pb.RecommendStreamRequest(id=1, request=requests[0]))
            await stream.read()
            inference = GRPCInferenceServiceStub(channel)
            await inference.ModelMetadata(oip.ModelMetadataRequest(name="recommend"))
            old = weakref.ref(server._current.release)
            assert server.release == bundles[0][1]
            releases.activate(root, bundles[1][0], manifest_id)
            until_s = asyncio.get_running_loop().time() + 60
            while server.release != bundles[1][1] or old() is not None:
                gc.collect()  # of gRPC's own cycles
                assert asyncio.get_running_loop().time() < until_s, server.release
                await asyncio.sleep(0.05)
            # The stream goes on.
            await stream.write(pb.RecommendStreamRequest(id=2, request=requests[0]))
            answer = await stream.read()
            assert answer.outcome.response.bundle_id == bundles[1][1]
            stream.cancel()
        await server.stop(asyncio.Event())

    asyncio.run(main())
