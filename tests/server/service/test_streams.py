"""Many lists on one call: the same lists as alone, errors of one's own, nobody held up."""

from __future__ import annotations

import itertools
import queue
import re
import signal
import urllib.request
from pathlib import Path

import grpc
import pytest

from equipoise.v1 import errors_pb2
from equipoise.v1 import recommendation_pb2 as pb
from strategies.live import LiveServer, live_server

pytestmark = pytest.mark.slow


def request(items: list[str], number: int = 0, **fields: object) -> pb.RecommendRequest:
    history = [
        pb.HistoryEvent(item_id=items[(number + day) % len(items)], time_unix_ms=day, kind=4)
        for day in range(1, 4)
    ]
    return pb.RecommendRequest(
        **{
            "request_id": f"r-{number}",
            "count": 5,
            "as_of_unix_ms": 10,
            "history": history,
            **fields,
        }
    )


def essence(response: pb.RecommendResponse) -> bytes:
    """All but the times."""
    own = pb.RecommendResponse()
    own.CopyFrom(response)
    own.ClearField("phases")
    return own.SerializeToString(deterministic=True)


def batch(live: LiveServer, *requests: pb.RecommendRequest) -> list[pb.RecommendOutcome]:
    answer = live.recommendation.BatchRecommend(
        pb.BatchRecommendRequest(requests=requests), timeout=30
    )
    return list(answer.outcomes)


def test_a_batch_gives_in_order_what_each_request_gets_alone(
    live: LiveServer, known_items: list[str]
) -> None:
    requests = [request(known_items, number) for number in range(20)]
    alone = [essence(live.recommendation.Recommend(one, timeout=5)) for one in requests]
    assert len(set(alone)) == 20
    assert [essence(outcome.response) for outcome in batch(live, *requests)] == alone


def test_an_error_in_a_batch_is_one_requests_own(live: LiveServer, known_items: list[str]) -> None:
    bad = request(known_items, 1, count=0)
    unknown = request(known_items, 2, policy="no-such")
    outcomes = batch(live, request(known_items, 0), bad, unknown, request(known_items, 3))
    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == [
        "response", "error", "error", "response",
    ]  # fmt: skip
    first, second = outcomes[1].error, outcomes[2].error
    assert (first.code, first.reason) == (3, errors_pb2.ERROR_REASON_INVALID_FIELD)
    assert first.request_id == "r-1"
    assert [(wrong.field, wrong.description) for wrong in first.field_violations] == [
        ("count", "got 0, allowed: 1 to 200")
    ]
    assert (second.code, second.reason) == (5, errors_pb2.ERROR_REASON_UNKNOWN_POLICY)
    assert "no-such" in second.message


@pytest.mark.parametrize("size", [0, 65])
def test_the_size_of_a_batch_is_bounded(live: LiveServer, size: int) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        batch(live, *[pb.RecommendRequest(count=1)] * size)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == f"requests: got '{size} entries', allowed: 1 to 64"


def test_a_batch_longer_than_the_queue_is_refused_in_part(
    tmp_path: Path, bundle_path: Path, known_items: list[str]
) -> None:
    with live_server(tmp_path, bundle_path, "--max-queue", "4", "--max-batch", "1") as small:
        outcomes = batch(small, *[request(known_items, number) for number in range(64)])
    errors = [outcome.error for outcome in outcomes if outcome.HasField("error")]
    assert 1 <= len(errors) < 64
    assert {(error.code, error.reason) for error in errors} == {
        (grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], errors_pb2.ERROR_REASON_QUEUE_FULL)
    }
    assert all(error.retry_delay_ms > 0 for error in errors)


def test_a_stream_gives_what_each_request_gets_alone(
    live: LiveServer, known_items: list[str]
) -> None:
    requests = {2**64 - 1 - number: request(known_items, number) for number in range(150)}
    answers = live.recommendation.RecommendStream(
        (pb.RecommendStreamRequest(id=id, request=one) for id, one in requests.items()),
        timeout=60,
    )
    got = {answer.id: essence(answer.outcome.response) for answer in answers}
    alone = {
        id: essence(live.recommendation.Recommend(one, timeout=5)) for id, one in requests.items()
    }
    assert got == alone


def test_an_error_on_a_stream_leaves_the_stream_open(
    live: LiveServer, known_items: list[str]
) -> None:
    sent: queue.SimpleQueue[pb.RecommendStreamRequest | None] = queue.SimpleQueue()
    answers = live.recommendation.RecommendStream(iter(sent.get, None), timeout=30)
    sent.put(pb.RecommendStreamRequest(id=1))
    assert next(answers).outcome.error.field_violations[0].field == "count"
    sent.put(pb.RecommendStreamRequest(id=2, request=request(known_items)))
    answer = next(answers)
    assert (answer.id, len(answer.outcome.response.items)) == (2, 5)
    sent.put(None)
    assert list(answers) == []


def test_bytes_that_do_not_parse_end_the_stream_after_what_came_before(
    live: LiveServer, known_items: list[str]
) -> None:
    raw = live.channel.stream_stream(
        "/equipoise.v1.RecommendationService/RecommendStream",
        request_serializer=bytes,
        response_deserializer=pb.RecommendStreamResponse.FromString,
    )
    good = pb.RecommendStreamRequest(id=7, request=request(known_items)).SerializeToString()
    answers = raw(iter([good, b"\xff\xff\xff"]), timeout=30)
    assert next(answers).id == 7
    with pytest.raises(grpc.RpcError) as refused:
        next(answers)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "bytes that do not parse" in str(refused.value.details())


def streamed(live: LiveServer) -> int:
    """How many requests on streams the server has answered."""
    with urllib.request.urlopen(f"http://127.0.0.1:{live.metrics_port}/metrics") as page:
        text = page.read().decode()
    found = re.search(
        r'equipoise_requests_total{grpc_code="OK",grpc_method="RecommendStream"} (\S+)', text
    )
    return int(float(found[1])) if found else 0


def test_for_a_caller_who_does_not_read_no_more_lists_are_made(
    live: LiveServer, known_items: list[str]
) -> None:
    """Else what he does not read would fill the server's memory."""
    long = request(known_items, count=100, with_candidates=True)
    endless = (pb.RecommendStreamRequest(id=id, request=long) for id in itertools.count())
    lazy = live.recommendation.RecommendStream(endless, timeout=120)
    made, still = 0, 0
    while still < 50:  # as seen over so many calls of another caller
        live.recommendation.Recommend(request(known_items), timeout=5)
        before, made = made, streamed(live)
        still = still + 1 if made == before > 0 else 0
        assert made < 50_000
    assert next(lazy).id >= 0
    lazy.cancel()
    assert len(live.recommendation.Recommend(request(known_items), timeout=5).items) == 5


def test_a_request_on_a_stream_has_a_deadline_of_its_own(
    tmp_path: Path, bundle_path: Path, known_items: list[str]
) -> None:
    with live_server(tmp_path, bundle_path, "--max-batch", "1") as live:
        heavy = [
            pb.RecommendStreamRequest(
                id=id, request=request(known_items, id, count=100), timeout_ms=1 if id else 0
            )
            for id in range(40)
        ]
        answers = list(live.recommendation.RecommendStream(iter(heavy), timeout=30))
    assert sorted(answer.id for answer in answers) == list(range(40))
    codes = {answer.id: answer.outcome.error.code for answer in answers}
    assert codes[0] == 0
    late = {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert {0} < set(codes.values()) <= {0} | {code.value[0] for code in late}


def test_a_drain_answers_what_was_read_and_ends_the_stream(
    tmp_path: Path, bundle_path: Path, known_items: list[str]
) -> None:
    with live_server(tmp_path, bundle_path) as live:
        sent: queue.SimpleQueue[pb.RecommendStreamRequest | None] = queue.SimpleQueue()
        answers = live.recommendation.RecommendStream(iter(sent.get, None), timeout=30)
        sent.put(pb.RecommendStreamRequest(id=1, request=request(known_items)))
        assert next(answers).id == 1
        live.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        sent.put(None)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "another replica" in str(ended.value.details())
        assert live.process.wait(30) == 0


def test_a_cancelled_stream_leaves_nothing_behind(live: LiveServer, known_items: list[str]) -> None:
    for _ in range(5):
        many = (
            pb.RecommendStreamRequest(id=id, request=request(known_items, id)) for id in range(500)
        )
        answers = live.recommendation.RecommendStream(many, timeout=30)
        next(answers)
        answers.cancel()
    assert len(live.recommendation.Recommend(request(known_items), timeout=5).items) == 5
