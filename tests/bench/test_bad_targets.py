"""What is no server of Equipoise, hangs, dies or lies about the time: one line, and the right exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import strategies as st

from bench import target as target_module
from bench.invariants import callers, run
from bench.invariants.callers import ServerGone
from bench.invariants.claims import Claims, Violation
from bench.load import prepare as prepare_module
from bench.load.prepare import prepare
from bench.load.runner import cpu_since
from bench.load.samples import Recorder, Sample
from bench.load.scenario import Scenario
from bench.load.validity import judged
from bench.load.work import Facts
from bench.refused import InputRefused
from bench.whole import write_whole
from equipoise.v1 import serving_pb2
from server.cli import main

PATIENCE_S = 0.3
Answer = Callable[[Any, grpc.ServicerContext], bytes] | None


@contextlib.contextmanager
def plain(greeting: bytes | None) -> Iterator[str]:
    """A TCP server that says `greeting` and no more; None: nothing at all, as if it hung."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(server.accept()[0])
                    kept[-1].sendall(greeting or b"")

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in kept:
            connection.close()


@contextlib.contextmanager
def other(answers: dict[str, Answer]) -> Iterator[str]:
    """A gRPC server of these methods, by the end of their names."""

    class Methods(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            answer = answers.get(str(details.method).rpartition("/")[2])
            return None if answer is None else grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(4), handlers=(Methods(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


TARGETS: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[str]], str]] = {
    "speaks something else": (lambda: plain(b"220 mail ready\r\n"), "UNAVAILABLE"),
    "accepts and says nothing": (lambda: plain(None), "no answer within 0.3 s; does it hang?"),
    "has other methods": (lambda: other({}), "not as a server of Equipoise"),
    "answers no message": (
        lambda: other({"GetServingInfo": lambda request, context: b"\xff"}),
        "not as a server of Equipoise",
    ),
    "answers nothing": (
        lambda: other({"GetServingInfo": lambda request, context: b""}),
        "it names no bundle, so it is no server of Equipoise",
    ),
}


@pytest.mark.parametrize("command", ["load", "invariants"])
@pytest.mark.parametrize("kind", TARGETS)
def test_a_target_that_is_no_server_of_equipoise_is_refused_in_one_line(
    kind: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(target_module, "INFO_TIMEOUT_S", PATIENCE_S)
    made, told = TARGETS[kind]
    with made() as target:
        out = str(tmp_path / "out")
        monkeypatch.setattr(sys, "argv", ["equipoise", command, "--target", target, "--out", out])
        with pytest.raises(SystemExit) as done:
            main()
    seen = capsys.readouterr().err.strip()
    assert done.value.code == 2
    assert seen.startswith(f"Error: --target: {target}: ")
    assert told in seen
    assert len(seen.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_server_that_hangs_before_a_load_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each of the hundreds of answers that are to be compared."""
    monkeypatch.setattr(prepare_module, "SETUP_TIMEOUT_S", PATIENCE_S)
    requests = tmp_path / "r.jsonl"
    requests.write_text("".join(f'{{"user_id": "{user}"}}\n' for user in range(40)))
    scenario = Scenario.model_validate(
        {"schema_version": 1, "name": "s", "stage": [{"rate_rps": 30, "duration_s": 1}],
         "requests": {"file": requests}}
    )  # fmt: skip
    info = serving_pb2.GetServingInfoResponse(bundle_id="b").SerializeToString()
    asked, over = [], threading.Event()

    def hang(request: Any, context: grpc.ServicerContext) -> bytes:
        asked.append(request)
        over.wait()
        return b""

    with other({"GetServingInfo": lambda request, context: info, "Recommend": hang}) as target:
        with pytest.raises(InputRefused, match="DEADLINE_EXCEEDED"):
            prepare(scenario, target, tmp_path / "out", processes=1)
        over.set()
    assert len(asked) == 1


class Gone(grpc.RpcError):
    """As a channel raises it."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.DEADLINE_EXCEEDED

    def details(self) -> str:
        return "Deadline Exceeded"


def test_a_call_that_hangs_ends_the_invariants_at_once() -> None:
    calls = []

    def method(request: Any, timeout: float) -> Any:
        calls.append(timeout)
        raise Gone

    with pytest.raises(ServerGone, match="DEADLINE_EXCEEDED"):
        callers._call(method, None)
    assert len(calls) == 1


@pytest.mark.parametrize("violates", [False, True])
def test_a_server_that_goes_away_is_not_asked_again_and_what_was_found_stands(
    violates: bool,
) -> None:
    """Hypothesis would try to make the example small, with each call as slow as the first."""
    claims, asked = Claims(), 0

    def holds(example: int) -> None:
        nonlocal asked
        asked += 1
        if asked > 20:
            raise ServerGone("gone")
        claims.that("small", not violates or asked < 15, "it is not")

    found: list[Violation] = []
    prop = run.Property("somewhere", st.integers(), holds)
    with pytest.raises(ServerGone):
        run.search(prop, claims, 100, 1, lambda: None, found)
    assert asked == 21
    assert [violation.invariant for violation in found] == ["small"] * violates


def test_a_server_that_died_under_load_has_no_processor_time_and_no_error() -> None:
    assert cpu_since(2**22 + 1, 3.0) is None
    assert cpu_since(None, None) is None
    used = cpu_since(os.getpid(), 0.0)
    assert used is not None
    assert used > 0


def test_a_wall_clock_that_is_set_during_a_load_voids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario.model_validate(
        {"schema_version": 1, "name": "s", "stage": [{"rate_rps": 30, "duration_s": 1}]}
    )
    recorder, now_ns = Recorder(), [10**18]
    recorder.add(Sample(0, 0, 1_000_000, "Recommend", "OK", 20, 1, 0, "r"))
    monkeypatch.setattr("bench.load.work.time.time_ns", lambda: now_ns[0])
    facts = Facts(due=1)
    facts.begin()
    now_ns[0] -= 3600 * 10**9
    facts.end()
    found = judged(recorder.samples(), scenario, [facts], 0)
    assert not found.valid
    assert "the wall clock moved by 3600" in found.why


def test_a_full_disk_names_the_file_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_whole(tmp_path / "load.json", "{}")
    assert raised.value.filename == str(tmp_path / "load.json")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_does_not_begin_leaves_no_result_of_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next step of a pipeline would decide on it."""
    for name in ("load.json", "samples.parquet", "invariants.json"):
        (tmp_path / name).write_text("{}")
    for words in (
        ["load", "--rate", "5", "--duration", "1", "--out", str(tmp_path)],
        ["invariants", "--out", str(tmp_path / "invariants.json")],
    ):
        monkeypatch.setattr(sys, "argv", ["equipoise", *words, "--target", "127.0.0.1:1"])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
    assert list(tmp_path.glob("*.json")) == list(tmp_path.glob("*.parquet")) == []
