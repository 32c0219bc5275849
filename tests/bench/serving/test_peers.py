"""The parts of the comparison that need no peer: environments, verdicts, callers, what is told."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from bench.serving import goals, report
from bench.serving.__main__ import MAIN, main
from bench.serving.calls import Calls, Shape, draw_arrays
from bench.serving.compare import Compared, PeerCost, PeerResult, environments, peer_costs
from bench.serving.growth import Step, fitted
from bench.serving.measure import LOADS, cost
from bench.serving.peers import peer as peers_module
from bench.serving.peers.environment import MARKER, Unavailable, environment, last_words, pins
from bench.serving.peers.loop import WrongAnswer, drive
from bench.serving.peers.peer import PEERS, Peer, running
from bench.serving.processes import Tree, foreign_listeners, free_port

PHASES = dict.fromkeys(
    ("decode_ns", "queue_ns", "history_ns", "features_ns", "model_ns", "fair_ns", "encode_ns"), 10.0
)


# Requirements and environments.


@pytest.mark.parametrize("peer", PEERS, ids=lambda one: one.name)
def test_every_peer_is_pinned_to_the_last_package(peer: Peer) -> None:
    lines = pins(peer.requirements)
    names = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    assert {"numpy", "numba", "onnxruntime", "pydantic", "psutil", "uvloop"} <= names
    assert any(line.startswith(MAIN[peer.home]) for line in lines)
    assert lines == [
        line for line in peer.requirements.read_text(encoding="utf-8").splitlines() if line
    ]


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "numpy==2.*", "-r other.txt", "a @ file:b"])
def test_what_is_no_exact_pin_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"# ours\nray==2.60.0  # fine\n{line}\n")
    with pytest.raises(Unavailable, match="allowed: name==version"):
        pins(tmp_path / "requirements.txt")


class Installer:
    """Does what `venv` and `pip` leave behind, or fails at the step that it is told."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.fails_at = ""

    def __call__(self, command: Sequence[str], timeout_s: float) -> None:
        step = "pip" if "pip" in command else "venv"
        self.commands.append(step)
        if step == self.fails_at:
            raise Unavailable("no matching distribution")
        if step == "venv":
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()


def test_an_environment_is_made_once_and_anew_when_its_pins_change(tmp_path: Path) -> None:
    requirements, run = tmp_path / "requirements.txt", Installer()
    requirements.write_text("a==1\nb==2\n")
    python = environment(tmp_path / "peers", "one", requirements, run)
    assert python == tmp_path / "peers" / "one" / "bin" / "python"
    assert run.commands == ["venv", "pip"]
    environment(tmp_path / "peers", "one", requirements, run)
    requirements.write_text("b==2\n# a note\na==1\n")
    environment(tmp_path / "peers", "one", requirements, run)
    assert run.commands == ["venv", "pip"]
    (python.parent / "left-over").touch()
    requirements.write_text("a==1\nb==3\n")
    environment(tmp_path / "peers", "one", requirements, run)
    assert run.commands == ["venv", "pip"] * 2
    assert not (python.parent / "left-over").exists()


def test_a_half_made_environment_is_not_used(tmp_path: Path) -> None:
    requirements, run = tmp_path / "requirements.txt", Installer()
    requirements.write_text("a==1\n")
    run.fails_at = "pip"
    for _ in range(2):
        with pytest.raises(Unavailable, match="no matching distribution"):
            environment(tmp_path, "one", requirements, run)
    assert (tmp_path / "one" / "bin" / "python").exists()
    assert not (tmp_path / "one" / MARKER).exists()
    run.fails_at = ""
    environment(tmp_path, "one", requirements, run)
    assert run.commands == ["venv", "pip"] * 3


def test_a_failed_install_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(root: Path, name: str, requirements: Path) -> Path:
        if name == "triton":
            raise Unavailable("pip install: no space left")
        return root / name

    monkeypatch.setattr("bench.serving.compare.environment", fake)
    said: list[str] = []
    found = environments(PEERS, tmp_path, said.append)
    assert str(found["triton"]) == "pip install: no space left"
    assert found["triton-text"] is found["triton"]
    assert found["pytriton"] == tmp_path / "pytriton"
    assert said == [f"{PEERS[0].title}: pip install: no space left"]


def test_the_reason_in_a_log() -> None:
    log = "starting\nError: no such model\nbye\n\n"
    assert last_words(log) == "Error: no such model"
    assert last_words("one\ntwo\n") == "two"
    assert last_words("") == "it said nothing"


# Callers.


class Echo:
    """Answers with what is expected, but for one call."""

    def __init__(self, calls: Calls, wrong: int = -1) -> None:
        self._calls, self._wrong = calls, wrong
        self.under_way = self.most = 0

    def prepare(self, calls: Calls) -> None: ...

    async def ask(self, number: int) -> Any:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        expected = self._calls.expected[number]
        return expected[::-1] if number == self._wrong else expected

    def read(self, answer: Any) -> list[int]:
        found: list[int] = answer.tolist()
        return found

    async def close(self) -> None: ...


def _calls() -> Calls:
    history, candidates = draw_arrays(500, Shape(), 8, seed=1)
    return Calls(history, candidates, candidates[:, :20])


def test_a_caller_keeps_so_many_in_flight_and_counts_its_lists(tmp_path: Path) -> None:
    calls = _calls()
    calls.save(tmp_path / "calls.npz")
    calls = Calls.load(str(tmp_path / "calls.npz"))
    echo = Echo(calls)
    found = asyncio.run(drive(echo, calls, in_flight=3, seconds=60, lists=50))
    assert found["lists"] == 50
    assert echo.most == 3
    assert 0 < found["latency_us"][0] <= found["latency_us"][1]


def test_a_caller_finds_a_list_in_another_order() -> None:
    calls = _calls()
    with pytest.raises(WrongAnswer, match="call 5: got"):
        asyncio.run(drive(Echo(calls, wrong=5), calls, in_flight=2, seconds=60, lists=50))


def test_no_candidate_was_bought() -> None:
    history, candidates = draw_arrays(300, Shape(), 50, seed=2)
    for bought, asked in zip(history, candidates, strict=True):
        assert len(set(asked.tolist())) == 200
        assert not np.isin(asked, bought).any()


# A peer that does not work.


def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, caller: str) -> Peer:
    """A peer made of two programs that this test writes."""
    package = tmp_path / "bench" / "serving" / "peers"
    (package / "fake").mkdir(parents=True)
    for folder in (package / "fake", package, package.parent, package.parents[1]):
        (folder / "__init__.py").touch()
    (package / "fake" / "server.py").write_text(server)
    (package / "caller.py").write_text(caller)
    monkeypatch.setattr(peers_module, "ROOT", tmp_path)
    return Peer("fake", "Fake", "nothing", "bench.serving.peers.caller")


WAITS = "import time\ntime.sleep(600)\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "caller", "why"),
    [
        ("raise SystemExit('ImportError: no libpython')", WAITS, "ended with 1: ImportError"),
        (WAITS, "raise SystemExit('WrongAnswer: got [1]')", "caller ended: WrongAnswer"),
        (WAITS, "print('ready', flush=True)\n" + WAITS, r"is listened on by \[None\]"),
    ],
)
def test_a_peer_that_does_not_start_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str, caller: str, why: str
) -> None:
    peer = _fake(tmp_path, monkeypatch, server, caller)
    python = Path(sys.executable)
    before = set(psutil.Process().children(recursive=True))
    with (
        pytest.raises(Unavailable, match=why),
        running(peer, python, tmp_path, tmp_path / "calls.npz", tmp_path / "logs"),
    ):
        pass
    assert set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.slow
def test_a_tree_counts_a_child_that_ended_and_stops_one_that_was_orphaned() -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.run([sys.executable, '-c', {burn!r}])\n"
        f"left = subprocess.Popen([sys.executable, '-c', {WAITS!r}], start_new_session=True)\n"
        "print(left.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as one:
        tree = Tree(one.pid)
        assert one.stdout is not None
        left = psutil.Process(int(one.stdout.readline()))
        spent_us = tree.cpu_us()
        tree.stop()
        # Counted in ticks of 10 ms, of two processes; without the child it is the start alone.
        assert spent_us >= 400_000
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


def test_a_port_is_its_servers_alone() -> None:
    me = [psutil.Process()]
    assert foreign_listeners(free_port(), me) == [None]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        assert foreign_listeners(port, me) == []
        assert foreign_listeners(port, []) == [me[0].pid]


# What is told.


def _round(cpu_us: float, p50_us: float = 1_000.0, p99_us: float = 2_000.0) -> dict[str, Any]:
    return {
        "cpu_us": cpu_us,
        "latency_us": [p50_us, p99_us],
        "lists": 100,
        "seconds": 1.0,
        "caller_cpu_us": 50.0,
        "phases_us": PHASES,
    }


def _told(**of_peers: Any) -> dict[str, Any]:
    """A document where Equipoise takes 100 us a list, and peers, by their folder, what is given."""
    costs = tuple(cost(load, [_round(100.0, p50_us=700.0)]) for load in LOADS)
    results = []
    for peer in PEERS:
        told = of_peers.get(peer.home, 100.0)
        if isinstance(told, str):
            results.append(PeerResult(peer, 0, (), told))
        else:
            rounds = [[_round(told)] * 3]
            results.append(PeerResult(peer, 1, peer_costs(rounds)))
    found = Compared(costs, tuple(results), model_us=100.0, empty_call_us=250.0)
    return report.document(found, {})


def _verdicts(told: dict[str, Any]) -> dict[str, str]:
    return {row["name"]: row["verdict"] for row in told["goals"]}


def test_verdicts_say_pass_or_by_how_much() -> None:
    told = _verdicts(_told(triton=125.0, mlserver=300.0, litserve=400.0, ray=1_500.0))
    assert told["Recommend, 16 in flight: CPU / Triton's"] == "PASS"
    # 0.8 where 0.65 and 0.5 are wanted.
    assert told["RecommendStream, 16 in flight: CPU / Triton's"] == "missed by 23%"
    assert told["BatchRecommend, 64 in flight: CPU / Triton's"] == "missed by 60%"
    assert told["CPU of MLServer / of Recommend, 64 in flight"] == "PASS"
    assert told["CPU of LitServe / of Recommend, 1 in flight"] == "missed by 25%"
    assert told["CPU of Ray Serve / of Recommend, 16 in flight"] == "PASS"
    # 700 / (100 + 250) is just what is allowed.
    assert told["Recommend, 1 in flight: p50 / (model alone + an empty unary call)"] == "PASS"


def test_a_slower_p99_than_tritons_is_a_miss() -> None:
    told = _told()
    assert _verdicts(told)["Recommend, 64 in flight: p99 / Triton's"] == "PASS"
    told["peers"][0]["costs"][2]["p99_us"] = 1_600.0
    [row] = [
        row for row in goals.rows(told) if row.name == "Recommend, 64 in flight: p99 / Triton's"
    ]
    assert row.verdict == "missed by 25%"
    assert row.met is False


def test_a_peer_counts_with_its_best_settings_but_not_with_more_work() -> None:
    told = _told(triton=200.0)
    by_name = {one["name"]: one for one in told["peers"]}
    for name, us in (("triton-delay", 125.0), ("triton-text", 10.0)):
        by_name[name]["costs"][1] |= {"cpu_us": us, "p99_us": us}
    found = {row.name: row.value for row in goals.rows(told)}
    assert found["Recommend, 16 in flight: CPU / Triton's"] == pytest.approx(100 / 125)
    assert found["Recommend, 64 in flight: CPU / Triton's"] == pytest.approx(100 / 200)
    assert found["Recommend, 16 in flight: p99 / Triton's"] == pytest.approx(2_000 / 125)


def test_a_peer_that_was_not_measured_is_neither_met_nor_missed_and_its_reason_is_told() -> None:
    told = _told(ray="the server ended with 1: no space")
    rows = [row for row in told["goals"] if row["name"].startswith("CPU of Ray Serve /")]
    assert [row["verdict"] for row in rows] == ["not measured"] * 3
    assert {row["note"] for row in rows} == {"the server ended with 1: no space"}
    assert {row["met"] for row in rows} == {None}
    lines = [line for line in report.cost_rows(told) if line[0] == "Ray Serve (gRPC)"]
    assert lines == [
        ["Ray Serve (gRPC)", "not measured: the server ended with 1: no space", *[""] * 5]
    ]


def test_figures_are_medians_of_rounds() -> None:
    rounds = [[_round(us)] * 3 for us in (900.0, 100.0, 200.0)]
    first, *_ = peer_costs(rounds)
    assert first == PeerCost(1, 300, 200.0, 1_000.0, 2_000.0, 100.0, 50.0)
    assert peer_costs([]) == ()


def test_growth_finds_what_is_not_linear() -> None:
    sizes = (100, 300, 1_000, 3_000, 10_000)
    square = fitted([Step(n, 100 + n * n / 1e3, 0, 0) for n in sizes])
    assert square["power"] > 1.8
    line = fitted([Step(n, 100 + n / 5, 0, 0) for n in sizes])
    assert (line["fixed_us"], line["each_us"]) == pytest.approx((100, 0.2))
    told = _told() | {"growth": {"candidates": square}}
    assert goals.rows(told)[-1].met is False


def test_an_unknown_peer_is_refused_with_those_there_are() -> None:
    ran = CliRunner().invoke(main, ["--peers", "triton,rey"])
    assert ran.exit_code == 2
    assert "got 'rey', allowed: triton," in ran.output
    assert "did you mean 'ray'?" in ran.output


def test_the_document_can_be_written() -> None:
    assert json.loads(json.dumps(_told()))["peers"][0]["costs"][0]["in_flight"] == 1
