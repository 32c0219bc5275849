"""The parts of a load without a server: requests, samples, answers, summary, targets."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from bench.load.answers import Answers, Served, exposure_of, fingerprint, wrong_with
from bench.load.requests import parse_requests, read_requests, read_users
from bench.load.samples import OK, Recorder, Sample, Samples, SamplesRefused, read_samples
from bench.load.scenario import Scenario
from bench.load.summary import Run, summarise
from bench.load.validity import Validity
from bench.refused import InputRefused
from bench.target import check_target
from equipoise.v1 import recommendation_pb2 as pb

SCENARIO = Scenario.model_validate(
    {"schema_version": 1, "name": "some", "stage": [{"rate_rps": 10, "duration_s": 10}]}
)
RUN = Run(
    "127.0.0.1:1", "shop-1", "d" * 64, "client", 1, SCENARIO, "e" * 64, Validity(()), 1_000, None
)


def samples_of(*rows: tuple[str, float]) -> Samples:
    recorder = Recorder()
    for number, (outcome, latency_ms) in enumerate(rows):
        due = 10**9 + number
        ended = due + int(latency_ms * 1e6)
        recorder.add(Sample(due, due, ended, "Recommend", outcome, 20, 1, number, f"r-{number}"))
    return recorder.samples()


def test_a_request_line_becomes_the_message_it_says() -> None:
    line = (
        '{"user_id": "7", "history": [{"item_id": "a", "time_unix_ms": 5, "quantity": 2}],'
        ' "count": 9, "policy": "tiers", "as_of_unix_ms": 11}'
    )
    message = parse_requests([line, "", '{"user_id": "8"}'], "f")[0].message("r-1")
    assert (message.request_id, message.user_id, message.count) == ("r-1", "7", 9)
    assert (message.policy, message.as_of_unix_ms) == ("tiers", 11)
    event = message.history[0]
    assert (event.item_id, event.time_unix_ms, event.quantity) == ("a", 5, 2)
    assert event.kind == pb.EVENT_KIND_PURCHASE


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{}", "needs a user_id or a history"),
        ('{"user": "7"}', "user: unknown key; did you mean 'user_id'"),
        ('{"user_id": "7", "count": 0}', "count: got 0"),
        ('{"user_id": "7", "count": "many"}', "count: got 'many'"),
        ('{"history": [{"item_id": "a"}]}', "history.0.time_unix_ms: is missing"),
        ('{"history": [{"item_id": "a", "time_unix_ms": -1}]}', "time_unix_ms: got -1"),
        ("7", "got 7"),
        ("not json", "not JSON"),
    ],
)
def test_a_malformed_request_line_is_refused_with_its_number(line: str, told: str) -> None:
    with pytest.raises(InputRefused) as refused:
        parse_requests(['{"user_id": "1"}', "", line], "requests.jsonl")
    assert "requests.jsonl, line 3" in str(refused.value)
    assert told in str(refused.value)


def test_files_without_requests_or_absent_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    for read in (read_requests, read_users):
        with pytest.raises(InputRefused, match="holds no request"):
            read(tmp_path / "empty")
        with pytest.raises(InputRefused, match="No such file"):
            read(tmp_path / "absent")
    (tmp_path / "users").write_text("17\n\n18\n")
    assert [request.user_id for request in read_users(tmp_path / "users")] == ["17", "18"]


@given(
    st.lists(
        st.tuples(st.sampled_from([OK, "UNAVAILABLE", "WRONG_LENGTH"]), st.floats(0.001, 500)),
        max_size=40,
    )
)
def test_samples_survive_the_file_and_count_a_failure_as_infinite(
    rows: list[tuple[str, float]],
) -> None:
    samples = samples_of(*rows)
    again = Samples(pl.read_parquet(samples.to_bytes()))
    assert again.by_outcome() == samples.by_outcome()
    expected = [
        latency if outcome == OK else math.inf
        for outcome, latency in ((o, int(ms * 1e6) / 1e6) for o, ms in rows)
    ]
    assert again.latencies_ms().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"plain text"])
def test_a_file_that_holds_no_samples_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.parquet").write_bytes(content)
    with pytest.raises(SamplesRefused):
        read_samples(tmp_path / "s.parquet")


def test_samples_with_a_column_missing_or_of_another_kind_are_refused() -> None:
    frame = samples_of((OK, 1.0), (OK, 2.0)).frame
    with pytest.raises(SamplesRefused, match="no column 'method'"):
        Samples(frame.drop("method"))
    with pytest.raises(SamplesRefused, match="column 'items' is Float64"):
        Samples(frame.with_columns(pl.col("items").cast(pl.Float64)))
    with pytest.raises(SamplesRefused, match="1 nulls"):
        Samples(frame.with_columns(pl.when(pl.col("request") > 0).then(pl.col("request"))))


def test_latency_counts_from_when_a_request_was_due_and_service_from_when_it_was_sent() -> None:
    recorder = Recorder()
    recorder.add(Sample(1_000_000, 3_000_000, 8_000_000, "Recommend", OK, 20, 1, 0, "a"))
    recorder.add(Sample(0, 0, 2_000_000, "Recommend", "UNAVAILABLE", 0, 0, 1, "b"))
    samples = recorder.samples()
    assert samples.latencies_ms().tolist() == [math.inf, 7.0]  # in the order in which they were due
    assert samples.service_ms().tolist() == [math.inf, 5.0]
    told = samples.with_groups([{"income": "low"}, {"sex": "f"}])
    assert told.attributes == ("income", "sex")
    assert told.groups("income").tolist() == ["", "low"]
    cold = Recorder()
    cold.add(Sample(0, 0, 1, "Recommend", OK, 20, 1, -1, "c"))
    assert cold.samples().with_groups([{"income": "low"}]).groups("income").tolist() == [""]


def test_refusals_and_answers_have_rows_of_their_own_and_groups_their_counts() -> None:
    rows = [(OK, 50.0)] * 10 + [("RESOURCE_EXHAUSTED", 0.5)] * 90
    samples = samples_of(*rows).with_groups(
        [{"income": "low" if n % 2 else "high"} for n in range(100)]
    )
    summary = summarise(samples, RUN)
    assert summary["rows"]["Recommend RESOURCE_EXHAUSTED"]["p99"] == 0.5
    assert summary["rows"]["Recommend OK"]["p50"] == 50
    assert summary["latency_ms"]["p50"] is None
    low = summary["groups"]["income"]["low"]
    assert (low["requests"], low["errors"], low["refused"]) == (50, 45, 45)
    assert summary["goodput_rps"] == pytest.approx(10 / summary["measured_s"], rel=1e-3)


def test_a_summary_counts_failures_as_infinitely_slow() -> None:
    summary = summarise(samples_of(*[(OK, 10.0)] * 98, *[("UNAVAILABLE", 0.1)] * 2), RUN)
    assert (summary["requests"], summary["errors"], summary["error_ratio"]) == (100, 2, 0.02)
    assert summary["by_status"] == {"OK": 98, "UNAVAILABLE": 2}
    latency = summary["latency_ms"]
    assert (latency["p90"], latency["p99"], latency["max"], latency["mean"]) == (
        10,
        None,
        None,
        None,
    )
    assert summary["latency_ok_ms"]["p99"] == 10
    assert summary["receipts"] == {"MET": 98, "INFEASIBLE": 0, "SKIPPED": 0, "NOT_FOUND": 0}
    json.dumps(summary, allow_nan=False)


def test_a_summary_of_nothing_has_no_percentile_instead_of_zero() -> None:
    summary = summarise(samples_of(), RUN)
    assert summary["latency_ms"]["p99"] is None
    assert summary["error_ratio"] is None
    assert summary["throughput_rps"] is None


def test_percentiles_are_ranks_and_the_histogram_agrees() -> None:
    summary = summarise(samples_of(*[(OK, float(n)) for n in range(1, 101)]), RUN)
    latency = summary["latency_ms"]
    assert (latency["p50"], latency["p90"], latency["p99"], latency["max"]) == (50, 90, 99, 100)
    histogram = HdrHistogram.decode(summary["histogram_us"])
    assert base64.b64decode(summary["histogram_us"])
    assert histogram.get_total_count() == 100
    assert histogram.get_value_at_percentile(99) == pytest.approx(99_000, rel=2e-3)


def test_cpu_per_list_is_over_right_answers_only() -> None:
    import dataclasses

    run = dataclasses.replace(RUN, server_cpu_s=0.5)
    summary = summarise(samples_of((OK, 1.0), ("UNAVAILABLE", 1.0)), run)
    assert summary["server_cpu_us_per_list"] == 500_000
    assert summarise(samples_of(("UNAVAILABLE", 1.0)), run)["server_cpu_us_per_list"] is None


def right(count: int = 3, bundle_id: str = "shop-1") -> pb.RecommendResponse:
    return pb.RecommendResponse(
        request_id="r",
        items=[pb.RankedItem(rank=n + 1, item_id=f"i{n}") for n in range(count)],
        receipt=pb.FairnessReceipt(status=pb.RECEIPT_STATUS_MET),
        bundle_id=bundle_id,
        model_digest="m",
    )


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda r: None, None),
        (lambda r: r.items.pop(), "WRONG_LENGTH"),
        (lambda r: r.ClearField("items"), "WRONG_LENGTH"),
        (lambda r: setattr(r.items[0], "item_id", "i1"), "DUPLICATE_ITEM"),
        (lambda r: setattr(r, "bundle_id", "shop-2"), "OTHER_BUNDLE"),
        (lambda r: setattr(r, "model_digest", "n"), "OTHER_BUNDLE"),
        (lambda r: r.ClearField("receipt"), "NO_RECEIPT"),
        (lambda r: setattr(r, "request_id", "s"), "OTHER_REQUEST"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_told_by_name(spoil: object, name: str | None) -> None:
    response = right()
    spoil(response)  # type: ignore[operator]
    assert wrong_with("r", 3, response, Served("shop-1", "m", 60)) == name


def test_an_answer_is_compared_but_for_what_belongs_to_the_call(tmp_path: Path) -> None:
    Answers({4: fingerprint(right())}).write(tmp_path / "answers.json")
    answers = Answers.read(tmp_path / "answers.json")
    again = right()
    again.request_id = "another"
    again.phases.queue_ns = 7
    again.next_page_token = "t"
    assert answers.wrong_with(4, again) is None
    again.items[0].score = 0.5
    assert answers.wrong_with(4, again) == "OTHER_LIST"
    assert answers.wrong_with(5, again) is None
    assert (4 in answers, 5 in answers) == (True, False)


def test_what_lists_give_to_groups_comes_along_with_their_samples(tmp_path: Path) -> None:
    response = right(3)
    response.receipt.group_table = "tier"
    for item, group in zip(response.items, ("small", "large", "small"), strict=True):
        item.group = group
    told = exposure_of(response)
    assert told == {
        "tier": {"small": pytest.approx(1 + 1 / 2), "large": pytest.approx(0.63093, abs=1e-5)}
    }
    Answers({}, {1: told, 2: {"tier": {"large": 2.0}}}).write(tmp_path / "answers.json")
    exposure = Answers.read(tmp_path / "answers.json").exposure
    recorder = Recorder()
    for place, request in enumerate([1, 0, 2, -1, 1]):
        recorder.add(Sample(place, place, place + 5, "Recommend", "OK", 3, 1, request, f"r{place}"))
    recorder.samples().with_exposure(exposure).write(tmp_path / "s.parquet")
    read = read_samples(tmp_path / "s.parquet").exposure()
    assert np.allclose(read["tier"]["small"], [1.5, np.nan, 0, np.nan, 1.5], equal_nan=True)
    assert np.allclose(read["tier"]["large"], [0.63093, np.nan, 2, np.nan, 0.63093], equal_nan=True)
    assert recorder.samples().with_exposure({}).exposure() == {}


def test_a_list_may_be_shorter_only_than_the_catalogue() -> None:
    assert wrong_with("", 9, right(3), Served("shop-1", "m", 3)) is None
    short = right(3)
    short.degraded_reasons.append(pb.DEGRADED_REASON_SHORT_LIST)
    assert wrong_with("", 9, short, Served("shop-1", "m", 60)) == "WRONG_LENGTH"


@pytest.mark.parametrize("target", ["127.0.0.1:5", "127.9.9.9:5", "[::1]:5", "localhost:5"])
def test_this_machine_may_be_loaded(target: str) -> None:
    check_target(target, allow_remote=False)
    assert target


@pytest.mark.parametrize("target", ["10.0.0.1:5", "shop.example:443", "localhost.evil.example:1"])
def test_other_machines_are_refused_unless_allowed(target: str) -> None:
    with pytest.raises(InputRefused, match="allow-remote"):
        check_target(target, allow_remote=False)
    check_target(target, allow_remote=True)


@pytest.mark.parametrize("target", ["127.0.0.1", ":5", "127.0.0.1:http", "unix:/run/x", ""])
def test_a_target_of_another_form_is_refused(target: str) -> None:
    with pytest.raises(InputRefused, match="allowed: HOST:PORT"):
        check_target(target, allow_remote=True)
