"""The bytes of requests that a process holds: bounded at the door, and given back on every path."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import urllib.request
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from equipoise.oip.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.config import ServerSettings
from server.errors import NotServing
from server.features import N_FEATURES
from server.service.metrics import ServerMetrics
from server.service.status import wire_error
from server.service.wire import Door
from strategies.live import LiveServer, live_server
from strategies.tensors import infer

pytestmark = pytest.mark.slow
CODE = grpc.StatusCode
LIMIT = 1000
SERVICE = "equipoise.v1.RecommendationService"

Ask = Callable[..., Any]


class Body:
    """A request of so many bytes."""

    def __init__(self, size: int) -> None:
        self.size = size


class Answering:
    """A method that answers when it is told how: "answer", "raise" or "refuse"."""

    def __init__(self) -> None:
        self.parsed = 0
        self.alive: weakref.WeakSet[Body] = weakref.WeakSet()
        self.came = asyncio.Semaphore(0)
        self.how: asyncio.Queue[str] = asyncio.Queue()

    def parse(self, body: bytes) -> Body:
        self.parsed += 1
        request = Body(len(body))
        self.alive.add(request)
        return request

    async def __call__(self, request: Body, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        self.came.release()
        how = await self.how.get()
        if how == "raise":
            raise RuntimeError("as a servicer's mistake would")
        if how == "refuse":
            try:
                raise NotServing("not now")
            except NotServing as error:
                failure = wire_error(error, "")
                await context.abort(failure.code, failure.message, failure.trailers)
        return str(request.size).encode()


def tell(story: Callable[[Ask, Answering, Door], Awaitable[None]]) -> None:
    """With a door of `LIMIT` bytes before one method, over a real socket."""

    async def run() -> None:
        settings = ServerSettings(bundle=Path("b")).model_copy(
            update={"max_bytes_in_flight": LIMIT}
        )
        door, method = Door(ServerMetrics(1), settings), Answering()
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(method, method.parse, bytes)
        guarded: Any = door.onto(server)
        guarded.add_registered_method_handlers(SERVICE, {"Rerank": handler})
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                await story(channel.unary_unary(f"/{SERVICE}/Rerank"), method, door)
            finally:
                await server.stop(None)

    asyncio.run(asyncio.wait_for(run(), 60))


def refusal(error: grpc.aio.AioRpcError) -> tuple[str, int]:
    """The reason of a refused call, and the delay that it was told in both ways."""
    status = rpc_status.from_call(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    delay_ms = int(retry.retry_delay.ToMilliseconds())
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == str(delay_ms)
    return info.reason, delay_ms


@pytest.mark.parametrize("how", ["answer", "refuse"])
def test_a_request_is_gone_when_its_call_is(how: str) -> None:
    """Without the garbage collector, which may come by a hundred messages of 4 MiB later."""

    async def story(ask: Ask, method: Answering, door: Door) -> None:
        await method.how.put(how)
        with contextlib.suppress(grpc.aio.AioRpcError):
            await ask(b"x" * 10)
        # The caller may have its answer a moment before the server is through.
        while method.alive:
            await asyncio.sleep(0.001)
        assert method.parsed == 1

    gc.collect()
    gc.disable()
    try:
        tell(story)
    finally:
        gc.enable()


def test_beyond_the_bound_a_request_is_refused_before_it_is_parsed() -> None:
    async def story(ask: Ask, method: Answering, door: Door) -> None:
        first = ask(b"1" * 600)
        await method.came.acquire()
        assert (door.flight.held, method.parsed) == (600, 1)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(b"2" * 401)
        assert refused.value.code() is CODE.RESOURCE_EXHAUSTED
        reason, delay_ms = refusal(refused.value)
        assert reason == "QUEUE_FULL"
        assert 25 <= delay_ms <= 100
        assert "401 bytes, others hold 600, allowed: 1000" in str(refused.value.details())
        assert (door.flight.held, method.parsed) == (600, 1)
        # To the last byte, and what has none always.
        rest = [ask(b"3" * 400), ask(b"")]
        for _ in rest:
            await method.came.acquire()
        assert door.flight.held == LIMIT
        for _ in (first, *rest):
            method.how.put_nowait("answer")
        assert [await call for call in (first, *rest)] == [b"600", b"400", b"0"]
        assert door.flight.held == 0

    tell(story)


def test_one_alone_may_have_more_than_the_bound() -> None:
    async def story(ask: Ask, method: Answering, door: Door) -> None:
        alone = ask(b"1" * 5000)
        await method.came.acquire()
        assert door.flight.held == 5000
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(b"2")
        method.how.put_nowait("answer")
        assert await alone == b"5000"
        assert door.flight.held == 0

    tell(story)


@pytest.mark.parametrize("how", ["answer", "raise", "refuse", "cancel", "deadline"])
def test_a_call_gives_its_bytes_back_however_it_ends(how: str) -> None:
    async def story(ask: Ask, method: Answering, door: Door) -> None:
        call = ask(b"1" * 600, timeout=0.2 if how == "deadline" else 30)
        await method.came.acquire()
        if how == "cancel":
            call.cancel()
        elif how != "deadline":
            method.how.put_nowait(how)
        await asyncio.wait((asyncio.ensure_future(call.code()),))
        while door.active:
            await asyncio.sleep(0.001)
        assert door.flight.held == 0

    tell(story)


def test_what_a_closing_server_refuses_is_held_and_given_back() -> None:
    async def story(ask: Ask, method: Answering, door: Door) -> None:
        door.closing.set()
        call = ask(b"1" * 600)
        while not door.refused:
            await asyncio.sleep(0.001)
        assert door.flight.held == 600
        door.parted.set()
        assert await call.code() is CODE.UNAVAILABLE
        while door.flight.held:
            await asyncio.sleep(0.001)
        assert (door.flight.held, method.parsed) == (0, 1)

    tell(story)


def test_a_request_that_is_refused_takes_no_room_from_others() -> None:
    async def story(ask: Ask, method: Answering, door: Door) -> None:
        first = ask(b"1" * 600)
        await method.came.acquire()
        door.closing.set()  # so that the refusal is held for a while
        second = ask(b"2" * 401)
        while not door.refused:
            await asyncio.sleep(0.001)
        assert door.flight.held == 600
        door.parted.set()
        assert await second.code() is CODE.UNAVAILABLE
        method.how.put_nowait("answer")
        assert await first == b"600"

    tell(story)


# Of a real server.


def held(live: LiveServer) -> dict[str, float]:
    """What the server holds now."""
    url = f"http://127.0.0.1:{live.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = [line.split() for line in answer.read().decode().splitlines()]
    names = ("equipoise_bytes_in_flight", "equipoise_calls_under_way", "equipoise_queue_depth")
    return {name: float(value) for name, value in (line[:2] for line in lines) if name in names}


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[LiveServer]:
    """A server that has room for few of the storm's requests."""
    folder = tmp_path_factory.mktemp("tight")
    settings = folder / "server.toml"
    settings.write_text("max_bytes_in_flight = 20_000\nmax_batch = 1\n")
    with live_server(folder, bundle_path, "--settings", settings) as server:
        yield server


def heavy(rng: random.Random, **fields: object) -> pb.RecommendRequest:
    """A request of some kilobytes."""
    unknown = [f"unknown-{number}" for number in range(rng.randrange(500))]
    return pb.RecommendRequest(count=3, exclude_item_ids=unknown, **fields)  # type: ignore[arg-type]


class Storm:
    """Calls of every kind, most of which end badly."""

    def __init__(self, channel: grpc.aio.Channel, seed: int) -> None:
        self._channel = channel
        self._rng = random.Random(seed)
        self.told: Counter[str] = Counter()

    async def unary(self) -> str:
        call = RecommendationServiceStub(self._channel).Recommend(
            heavy(self._rng), timeout=self._rng.choice([0.001, 0.01, 30])
        )
        return await self._ended(call)

    async def batch(self) -> str:
        requests = [heavy(self._rng) for _ in range(5)]
        call = RecommendationServiceStub(self._channel).BatchRecommend(
            pb.BatchRecommendRequest(requests=requests), timeout=30
        )
        return await self._ended(call)

    async def nonsense(self) -> str:
        call = self._channel.unary_unary("/equipoise.v1.RecommendationService/Rerank")
        return await self._ended(call(b"\xff" * self._rng.randrange(1, 5000), timeout=30))

    async def stream(self) -> str:
        rng = self._rng

        async def messages() -> AsyncIterator[pb.RecommendStreamRequest]:
            for number in range(30):
                yield pb.RecommendStreamRequest(
                    id=number, request=heavy(rng), timeout_ms=rng.choice([0, 1, 20])
                )

        call = RecommendationServiceStub(self._channel).RecommendStream(messages(), timeout=30)
        return await self._read(
            call, lambda answer: f"{answer.outcome.error.code} on a stream", rng.choice([3, 99])
        )

    async def tensors(self) -> str:
        rng = self._rng

        def asked(number: int) -> Any:
            shape = (1, rng.randrange(1, 200), N_FEATURES)
            request = infer("ranker", {"features": np.ones(shape, np.float32)})
            request.id = str(number)
            return request

        async def messages() -> AsyncIterator[Any]:
            for number in range(30):
                yield asked(number)

        stub = GRPCInferenceServiceStub(self._channel)
        if rng.random() < 0.5:
            return await self._ended(stub.ModelInfer(asked(0), timeout=30))
        expected = iter(range(30))

        def code(answer: Any) -> str:
            assert answer.infer_response.id == str(next(expected))
            told = answer.infer_response.parameters
            name = told["error_code"].string_param if "error_code" in told else "OK"
            return f"{name} on a stream of tensors"

        return await self._read(
            stub.ModelStreamInfer(messages(), timeout=30), code, rng.choice([3, 99])
        )

    async def _read(self, call: Any, of: Callable[[Any], str], most: int) -> str:
        """Read so many answers, then cancel."""
        try:
            async for answer in call:
                self.told[of(answer)] += 1
                most -= 1
                if not most:
                    call.cancel()
        except asyncio.CancelledError:
            pass
        except grpc.aio.AioRpcError as error:
            # grpc.aio's own word where the door refused a stream on which it was still sending.
            own = str(error.details()).startswith("Internal error from Core")
            return "refused while it sent" if own else error.code().name
        return str((await call.code()).name)

    async def _ended(self, call: Any) -> str:
        if self._rng.random() < 0.2:
            await asyncio.sleep(self._rng.random() * 0.01)
            call.cancel()
        await asyncio.wait((asyncio.ensure_future(call.code()),))
        code = (await call.code()).name
        if code == "RESOURCE_EXHAUSTED":
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refusal(refused.value)[0] == "QUEUE_FULL"
        return str(code)

    async def rage(self, calls: int) -> None:
        kinds = [self.unary, self.unary, self.batch, self.nonsense, self.stream, self.tensors]
        for ended in await asyncio.gather(*(self._rng.choice(kinds)() for _ in range(calls))):
            self.told[ended] += 1


def test_after_a_storm_of_calls_that_end_badly_nothing_is_held(tight: LiveServer) -> None:
    async def rage(seed: int) -> Counter[str]:
        async with grpc.aio.insecure_channel(tight.target) as channel:
            storm = Storm(channel, seed)
            await storm.rage(120)
            return storm.told

    told: Counter[str] = Counter()
    for seed in range(4):
        told += asyncio.run(rage(seed))
        for _ in range(2000):
            tight.recommendation.Recommend(pb.RecommendRequest(count=3), timeout=10)
            if not any(held(tight).values()):
                break
    assert held(tight) == {
        "equipoise_bytes_in_flight": 0,
        "equipoise_calls_under_way": 0,
        "equipoise_queue_depth": 0,
    }
    everything = {"OK", "CANCELLED", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED",
                  "0 on a stream", "8 on a stream", "OK on a stream of tensors",
                  "RESOURCE_EXHAUSTED on a stream of tensors"}  # fmt: skip
    assert everything <= set(told), told
    assert "INTERNAL" not in told
    with urllib.request.urlopen(f"http://127.0.0.1:{tight.metrics_port}/metrics") as page:
        assert 'grpc_code="INTERNAL"' not in page.read().decode()
    assert "UNKNOWN" not in told
    assert "Traceback" not in tight.log.read_text()


def test_a_stream_that_does_not_read_leaves_room_for_others(tight: LiveServer) -> None:
    rng = random.Random(0)

    async def messages() -> AsyncIterator[pb.RecommendStreamRequest]:
        while True:
            yield pb.RecommendStreamRequest(request=heavy(rng, with_candidates=True))

    async def ask() -> None:
        async with grpc.aio.insecure_channel(tight.target) as channel:
            service = RecommendationServiceStub(channel)
            lazy = service.RecommendStream(messages(), timeout=60)
            await lazy.read()
            for _ in range(200):
                code = await service.Recommend(heavy(rng), timeout=10).code()
                assert code in (CODE.OK, CODE.RESOURCE_EXHAUSTED)
            while held(tight)["equipoise_bytes_in_flight"]:
                await asyncio.sleep(0)
            lazy.cancel()

    asyncio.run(asyncio.wait_for(ask(), 120))
