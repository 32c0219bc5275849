"""A whole load against a real server: locust in its own process, samples, result, gate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from bench.gate import read_results
from bench.load.runner import Plan, run_load
from bench.load.samples import read_samples
from bench.load.scenario import Scenario
from bench.refused import InputRefused
from equipoise.v1 import recommendation_pb2 as pb
from strategies import tampering
from strategies.live import LiveServer

pytestmark = pytest.mark.slow


def closed(users: int = 4, duration_s: float = 4, **changes: Any) -> Scenario:
    stage = {"users": users, "duration_s": duration_s}
    return scenario(loop="closed", deadline_ms=5000, stage=[stage], **changes)


def scenario(**changes: Any) -> Scenario:
    return Scenario.model_validate({"schema_version": 1, "name": "test"} | changes)


def plan(target: str, out: Path, of: Scenario | None = None, **changes: Any) -> Plan:
    of = of or closed()
    driver = "locust" if of.loop == "closed" else "client"
    return Plan(**{"target": target, "out": out, "scenario": of, "driver": driver} | changes)


def test_a_load_leaves_samples_and_a_result_that_the_gate_reads(
    live: LiveServer, tmp_path: Path
) -> None:
    result = run_load(plan(live.target, tmp_path, server_pid=live.process.pid))
    assert result["requests"] > 50
    assert result["errors"] == 0
    assert result["by_status"] == {"OK": result["requests"]}
    assert result["bundle_id"].startswith("tiny-")
    assert 10 < result["server_cpu_us_per_list"] < 1e6
    samples = read_samples(tmp_path / "samples.parquet")
    assert len(samples) == result["requests"]
    assert len(set(samples.texts("request_id"))) == len(samples)
    # Drawn requests differ in how many items they ask for.
    assert len(set(samples.numbers("items").tolist())) > 2
    assert result["answers_compared"] == samples.frame["checked"].sum() > 0
    assert json.loads((tmp_path / "load.json").read_text()) == result
    read = read_results([tmp_path / "load.json"])[0]
    assert read.latencies_ms is not None
    assert len(read.latencies_ms) == result["requests"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "load.json",
        "samples.parquet",
        "requests.jsonl",
        "answers.json",
        "locust.html",
        "locust.log",
    }


def test_samples_of_another_run_are_refused_by_the_gate(live: LiveServer, tmp_path: Path) -> None:
    run_load(plan(live.target, tmp_path))
    (tmp_path / "samples.parquet").write_bytes((tmp_path / "samples.parquet").read_bytes() + b"x")
    with pytest.raises(InputRefused, match="not the file"):
        read_results([tmp_path / "load.json"])


def test_wrong_answers_and_refusals_have_rows_of_their_own(
    live: LiveServer, tmp_path: Path
) -> None:
    def fault(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(response, pb.RecommendResponse) and request.request_id:
            kind = int(request.request_id.rpartition("-")[2]) % 4
            if kind == 1:
                tampering.one_short(request, response)
            elif kind == 2:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return response

    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"user_id": "a", "count": 4}\n{"user_id": "b", "count": 7}\n')
    with tampering.tampered(live.channel, fault) as target:
        of = closed(requests={"file": requests})
        result = run_load(plan(target, tmp_path / "out", of))
    tiers = result["exposure"]["provider_tier"]
    assert tiers.keys() == {"large", "medium", "small"}
    for told in tiers.values():
        assert 0 < told["in_time"] == told["answered"] < told["accepted"] < 1
    statuses = result["by_status"]
    assert set(statuses) == {"OK", "WRONG_LENGTH", "RESOURCE_EXHAUSTED"}
    assert result["errors"] == statuses["WRONG_LENGTH"] + statuses["RESOURCE_EXHAUSTED"]
    assert 0.3 < result["error_ratio"] < 0.7
    assert result["latency_ms"]["p90"] is None
    report = (tmp_path / "out" / "locust.html").read_text()
    assert "Recommend RESOURCE_EXHAUSTED" in report


def test_a_load_is_refused_before_locust_starts(live: LiveServer, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    for changes, told in (
        ({"scenario": closed(requests={"file": bad})}, "needs a user_id"),
        ({"target": "10.0.0.1:5"}, "allow-remote"),
        ({"target": "127.0.0.1:1"}, "is a server up"),
        ({"server_pid": 2**22 + 1}, "no process"),
    ):
        with pytest.raises(InputRefused, match=told):
            run_load(replace(plan(live.target, tmp_path / "out"), **changes))
    assert not (tmp_path / "out" / "locust.log").exists()


def test_an_interrupted_load_leaves_no_result_and_no_process(
    live: LiveServer, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "server.cli", "load", "--target", live.target, "--users", "2",
        "--duration", "60", "--out", str(tmp_path),
    ]  # fmt: skip
    for name in ("load.json", "samples.parquet"):
        (tmp_path / name).write_text("of a load before")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 90
    children: list[psutil.Process] = []
    while not children and time.monotonic() < deadline:
        children = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "locust" in " ".join(child.cmdline())
        ]
    assert children
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    assert not (tmp_path / "load.json").exists()
    assert not list(tmp_path.glob("*.parquet"))
    assert not (tmp_path / ".work.json").exists()


def test_the_command_prints_json_and_never_imports_locust(live: LiveServer, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom server.cli import command\n"
        f"try:\n    command({['load', '--target', live.target, '--users', '2', '--duration', '5', '--out', str(tmp_path), '--json']!r})\n"
        "except SystemExit as done:\n    assert done.code in (None, 0, 3)\n"
        "assert 'locust' not in sys.modules and 'gevent' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["kind"] == "load"
