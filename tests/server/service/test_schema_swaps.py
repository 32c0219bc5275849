"""A bundle is exchanged for one whose model reads other inputs, while callers go on as before."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from bench.served import Served, serving
from equipoise.oip import grpc_service_pb2 as oip
from equipoise.oip.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server import releases
from server.bundle import BundleParts, load_bundle, ports_of, write_bundle
from server.config import ServerSettings
from server.engine import Outcome
from server.engine.together import least_together
from server.errors import InvalidField, ItemNumbersStale
from server.exposures import ExposureLedger
from server.features import N_FEATURES
from server.model import OnnxScorer
from server.service.decode import Limits
from server.service.lists import Call, ListMaker
from server.service.metrics import ServerMetrics
from server.service.oip import follower
from server.service.oip.infer import Inference
from server.service.release import Current, Job, ReleaseMaker, run_jobs
from strategies.bundles import DATA_UNTIL_MS, sequence_parts, tiny_parts
from strategies.live import failure_of
from strategies.tensors import infer, outputs

pytestmark = pytest.mark.slow
CANDIDATES = 7
SWAPS = 10


@dataclass(frozen=True)
class Schema:
    """A bundle, inputs that its model reads, the scores that it gives, and what others say of them."""

    path: Path
    id: str
    inputs: dict[str, NDArray[Any]]
    scores: NDArray[np.float32]

    def asked(self, *, raw: bool, pinned: bool = False) -> oip.ModelInferRequest:
        request = infer("ranker", dict(self.inputs), raw=raw)
        if pinned:
            request.parameters["bundle_id"].string_param = self.id
        return request

    def is_answer(self, response: oip.ModelInferResponse) -> bool:
        assert response.parameters["bundle_id"].string_param == self.id
        return outputs(response)["scores"].tobytes() == self.scores.tobytes()


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> list[Schema]:
    """Two that read histories of different lengths, and one that reads features."""
    folder, rng = tmp_path_factory.mktemp("schemas"), np.random.default_rng(0)
    items = rng.integers(1, 60, (1, CANDIDATES)).astype(np.int32)

    def schema(name: str, parts: BundleParts, inputs: dict[str, NDArray[Any]]) -> Schema:
        path = folder / name
        bundle_id = write_bundle(parts, path).bundle_id
        bundle = load_bundle(path)
        scorer = OnnxScorer(bundle.model, ports_of(bundle.manifest.model))
        one = {port: values[0] for port, values in inputs.items()}
        (scores,) = scorer.score_lists([one], least_together(scorer, bundle.golden_inputs))
        return Schema(path, bundle_id, inputs, scores[np.newaxis])

    def history(length: int) -> dict[str, NDArray[Any]]:
        return {"history": rng.integers(1, 60, (1, length)).astype(np.int32), "candidates": items}

    features = rng.normal(0, 1, (1, CANDIDATES, N_FEATURES)).astype(np.float32)
    return [
        schema("5", sequence_parts(1, 5), history(5)),
        schema("9", sequence_parts(2, 9), history(9)),
        schema("features", tiny_parts(3), {"features": features}),
    ]


REFUSALS = {
    (0, 1): "inputs[0].shape: got [1, 5], allowed: ",
    (1, 0): "inputs[0].shape: got [1, 9], allowed: ",
    (0, 2): "inputs[0].name: got 'history', allowed: features",
    (1, 2): "inputs[0].name: got 'history', allowed: features",
    (2, 0): "inputs[0].name: got 'features', allowed: candidates, history",
    (2, 1): "inputs[0].name: got 'features', allowed: candidates, history",
}
"""What a request for one schema is told where another serves."""


@pytest.mark.parametrize(("before", "after"), [(0, 1), (0, 2), (2, 0)])
def test_what_was_queued_is_answered_by_its_bundle_and_what_comes_later_is_told(
    schemas: list[Schema], before: int, after: int
) -> None:
    old, new = schemas[before], schemas[after]
    go, running = threading.Event(), threading.Event()

    def run(jobs: Sequence[Job]) -> Sequence[Outcome | BaseException]:
        running.set()
        assert go.wait(60)
        return run_jobs(jobs)

    async def scenario() -> None:
        settings = ServerSettings(bundle=old.path)
        maker = ReleaseMaker(settings, None, ExposureLedger(None), b"k" * 32)
        current = Current(maker.make(old.path), settings, run)
        current.batcher.start()
        lists = ListMaker(current, Limits.of(settings), ServerMetrics(1))
        inference = Inference(follower(current, lists), settings)

        async def call(request: oip.ModelInferRequest) -> oip.ModelInferResponse:
            return await inference.infer(request, Call.begun("", None))

        # One in the batch that runs, and those that wait, which share the next with the others.
        early = [asyncio.create_task(call(old.asked(raw=raw))) for raw in (False, True, True)]
        await asyncio.to_thread(running.wait, 60)
        await asyncio.sleep(0)
        current.swap(maker.make(new.path))
        for raw in (False, True):
            with pytest.raises(InvalidField) as refused:
                await call(old.asked(raw=raw))
            assert REFUSALS[before, after] in str(refused.value)
            with pytest.raises(ItemNumbersStale, match=f"allowed: {new.id}, the bundle that"):
                await call(old.asked(raw=raw, pinned=True))
        late = [asyncio.create_task(call(new.asked(raw=raw, pinned=True))) for raw in (False, True)]
        await asyncio.sleep(0)
        go.set()
        assert all(map(old.is_answer, await asyncio.gather(*early)))
        assert all(map(new.is_answer, await asyncio.gather(*late)))
        await current.batcher.close()

    try:
        asyncio.run(scenario())
    finally:
        go.set()


# A real server.


class Callers:
    """Callers who know one schema each and go on whatever serves, until the block ends."""

    def __init__(self, served: Served, schemas: list[Schema]) -> None:
        self._served = served
        self._schemas = schemas
        self._ids = [schema.id for schema in schemas]
        self._over = threading.Event()
        self.told: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        kinds = [self._list, self._rerank] + [
            lambda channel, place=place, way=way: self._infer(channel, place, way)
            for place in range(len(schemas))
            for way in ("typed", "raw", "stream")
        ]
        self._threads = [threading.Thread(target=self._work, args=(kind,)) for kind in kinds]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, kind: Callable[[grpc.Channel], None]) -> None:
        with self._served.channel() as channel:
            try:
                kind(channel)
            except Exception as error:
                self.wrong.append(repr(error)[:1000])

    def _going(self) -> Iterator[None]:
        while not self._over.wait(0.02):
            yield

    def _list(self, channel: grpc.Channel) -> None:
        service = RecommendationServiceStub(channel)
        for _ in self._going():
            asked = pb.RecommendRequest(count=5, as_of_unix_ms=DATA_UNTIL_MS)
            answer = service.Recommend(asked, timeout=30)
            assert len(answer.items) == 5
            self.told["Recommend", answer.bundle_id] += 1

    def _rerank(self, channel: grpc.Channel) -> None:
        service = RecommendationServiceStub(channel)
        asked = pb.RerankRequest(count=3)
        for place in range(6):
            asked.candidates.add(item_id=f"item-{place:03}", score=place)
        for _ in self._going():
            answer = service.Rerank(asked, timeout=30)
            assert len(answer.items) == 3
            self.told["Rerank", answer.bundle_id] += 1

    def _infer(self, channel: grpc.Channel, place: int, way: str) -> None:
        own = self._schemas[place]
        request = own.asked(raw=way == "raw")
        stub = GRPCInferenceServiceStub(channel)
        if way == "stream":
            answers = stub.ModelStreamInfer((request for _ in self._going()), timeout=600)
            for answer in answers:
                if answer.error_message:
                    code = answer.infer_response.parameters["error_code"].string_param
                    self._refused(place, code, answer.error_message)
                else:
                    assert own.is_answer(answer.infer_response)
                    self.told[way, own.id] += 1
            return
        for _ in self._going():
            try:
                response = stub.ModelInfer(request, timeout=30)
            except grpc.RpcError as error:
                self._refused(place, error.code().name, str(error.details()))
            else:
                assert own.is_answer(response)
                self.told[way, own.id] += 1

    def _refused(self, place: int, code: str, message: str) -> None:
        known = [text for (one, _), text in REFUSALS.items() if one == place]
        assert code == "INVALID_ARGUMENT", (code, message)
        assert any(text in message for text in known), message
        self.told["refused", self._ids[place]] += 1


def bundle_id(bundle: Path) -> str:
    return str(json.loads((bundle / "manifest.json").read_text())["bundle_id"])


def until(true: Callable[[], bool], served: Served) -> None:
    until_s = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until_s, served.log.read_text()
        time.sleep(0.02)


def test_ten_changes_of_schema_under_load_lose_no_call_no_worker_and_no_memory(
    schemas: list[Schema], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    releases.activate(root, schemas[0].path, bundle_id)
    settings = tmp_path / "server.toml"
    settings.write_text("workers = 2\nspare_workers = 0\n")
    flags = ("--bundle", str(root), "--settings", str(settings))
    with serving(tmp_path / "s.log", *flags) as served:
        workers, used_mib = served.workers, []
        with Callers(served, schemas) as callers:
            for number in range(1, SWAPS + 1):
                own = schemas[number % len(schemas)]
                ways = [(way, own.id) for way in ("Recommend", "Rerank", "typed", "raw", "stream")]
                counted = dict(callers.told)
                releases.activate(root, own.path, bundle_id)
                until(
                    lambda ways=ways, counted=counted: bool(callers.wrong) or all(
                        callers.told[way] > counted.get(way, 0) + 5 for way in ways
                    ),
                    served,
                )  # fmt: skip
                assert callers.wrong == []
                used_mib.append(served.rss_mib())
        assert callers.wrong == []
        assert all(callers.told["refused", schema.id] for schema in schemas)
        assert served.workers == workers
        metrics = served.metrics()
        assert metrics['equipoise_bundle_swaps_total{outcome="swapped"}'] == SWAPS
        assert not any(value for name, value in metrics.items() if "worker_restarts_total" in name)
        # That nothing is kept of a release is tested elsewhere, with one process: these are small.
        assert max(used_mib[-3:]) < max(used_mib[:4]) + 25, used_mib
        with served.channel() as channel:
            error, details = failure_of(
                lambda: GRPCInferenceServiceStub(channel).ModelInfer(
                    schemas[0].asked(raw=True, pinned=True), timeout=10
                )
            )
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert details[0].reason == "ITEM_NUMBERS_STALE"
