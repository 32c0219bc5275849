"""One headless load: its driver in processes of their own, bounded, then its result.

Owns the processes and the files. `load.json` is written last; it names the digest of its samples, so
that a half-replaced pair is refused by the gate. A load that dies half-way leaves its driver's log, and
no result: neither its own nor that of a load before it.

    result = run_load(Plan(target="127.0.0.1:50051", scenario=scenario, out=Path("out/load")))
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.load.answers import Answers
from bench.load.prepare import prepare
from bench.load.repeated import repeated
from bench.load.requests import read_requests
from bench.load.samples import Samples, SamplesRefused, merged, read_samples
from bench.load.scenario import Scenario
from bench.load.summary import Run, summarise
from bench.load.validity import judged
from bench.load.work import Facts, Part
from bench.machine import machine
from bench.refused import InputRefused
from bench.target import check_target, serving_info
from bench.whole import write_whole
from server.errors import EquipoiseError

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# What a run may take beyond its duration: starting Python, spawning users, ending calls.
START_S = 60.0
POLL_S = 0.1
STOP_S = 10.0
LEAD_NS = 200_000_000
"""From the last process's word that it is ready to the first request."""

SAMPLES = "samples.parquet"

Driver = Literal["client", "locust"]


class LoadFailed(EquipoiseError):
    """The load did not run to its end."""


@dataclass(frozen=True)
class Plan:
    """One load.

    driver: who sends; a closed loop is locust's. processes: how many of them share it. server_pid: of a
    server on this machine, to count its CPU time.
    """

    target: str
    out: Path
    scenario: Scenario
    driver: Driver = "client"
    processes: int = 1
    server_pid: int | None = None
    allow_remote: bool = False


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children so far.

    Raises:
        InputRefused: there is no such process.
    """
    try:
        root = psutil.Process(pid)
        total = 0.0
        for process in [root, *root.children(recursive=True)]:
            times = process.cpu_times()
            total += times.user + times.system
    except psutil.NoSuchProcess as error:
        raise InputRefused("--server-pid", "", f"there is no process {pid}") from error
    return total


def cpu_since(pid: int | None, before_s: float | None) -> float | None:
    """What it used since then; None where it was not asked for, or where the process is gone: a server
    that died under load is what the load is to tell."""
    if pid is None or before_s is None:
        return None
    try:
        return cpu_seconds(pid) - before_s
    except InputRefused:
        return None


def run_load(
    plan: Plan, progress: Callable[[float], None] = lambda elapsed_s: None
) -> dict[str, Any]:
    """Run a load and write `load.json`, `samples.parquet`, `requests.jsonl`, `answers.json` and the
    driver's log to `out`; of locust `locust.html` too. Results of an earlier load there are removed first.

    progress: called now and then with the seconds since the start.

    Raises:
        InputRefused: the target is not allowed or does not answer, or a request file is refused.
        LoadFailed: the driver failed, or made no request.
    """
    if plan.scenario.loop == "closed" and plan.driver != "locust":
        raise InputRefused("--driver", "", f"got {plan.driver!r}; a closed loop is locust's")
    check_target(plan.target, allow_remote=plan.allow_remote)
    if plan.scenario.requests.file is not None:
        read_requests(plan.scenario.requests.file)
    # A load that fails from here on must not leave the result of one before it, which a gate would take.
    for name in ("load.json", SAMPLES):
        (plan.out / name).unlink(missing_ok=True)
    serving_info(plan.target)
    cpu_before_s = None if plan.server_pid is None else cpu_seconds(plan.server_pid)
    work = prepare(plan.scenario, plan.target, plan.out, processes=plan.processes)
    if plan.server_pid is not None:
        cpu_before_s = cpu_seconds(plan.server_pid)
    started_ms = time.time_ns() // 1_000_000
    parts = [Part.of(work, number) for number in range(plan.processes)]
    path = plan.out / ".work.json"
    work.write(path)
    try:
        drive = _locust if plan.driver == "locust" else _clients
        drive(plan, path, progress)
        cpu_s = cpu_since(plan.server_pid, cpu_before_s)
        samples, facts = _parts(parts, plan)
        requests = read_requests(Path(work.requests))
        samples = samples.with_groups([request.groups for request in requests])
        answers = Answers.read(Path(work.answers))
        samples, compared = samples.with_exposure(answers.exposure), len(answers)
        validity = judged(samples, plan.scenario, facts, compared)
        if plan.scenario.check.repeats:
            validity = validity.and_also(repeated(work, requests, plan.scenario.check.repeats))
        run = Run(
            plan.target, work.served.bundle_id, work.served.model_digest, plan.driver, plan.processes,
            plan.scenario, hashlib.sha256(Path(work.requests).read_bytes()).hexdigest(),
            validity, started_ms, cpu_s,
        )  # fmt: skip
        content = samples.to_bytes()
        result = summarise(samples, run)
        result["machine"] = machine()
        result["samples"] = SAMPLES
        result["samples_sha256"] = hashlib.sha256(content).hexdigest()
        write_whole(plan.out / SAMPLES, content)
    finally:
        path.unlink(missing_ok=True)
        for part in parts:
            part.samples.unlink(missing_ok=True)
            part.facts.unlink(missing_ok=True)
    write_whole(plan.out / "load.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _parts(parts: list[Part], plan: Plan) -> tuple[Samples, list[Facts]]:
    try:
        samples = merged([read_samples(part.samples) for part in parts])
        facts = [Facts(**json.loads(part.facts.read_text())) for part in parts]
    except (SamplesRefused, OSError, ValueError) as error:
        raise LoadFailed(
            f"the driver left no whole samples: {error}; {_tail(_log(plan))}"
        ) from error
    if not len(samples):
        raise LoadFailed(f"no request was made: {_tail(_log(plan))}")
    return samples, facts


def _log(plan: Plan) -> Path:
    return plan.out / f"{plan.driver}.log"


def _limit_s(plan: Plan) -> float:
    return plan.scenario.duration_s + START_S + plan.scenario.deadline_ms / 1000


def _clients(plan: Plan, work: Path, progress: Callable[[float], None]) -> None:
    """The open loop's own client, all its processes from one instant on."""
    processes: list[subprocess.Popen[str]] = []
    with _log(plan).open("w") as log:
        try:
            for number in range(plan.processes):
                processes.append(  # noqa: PERF401 - one that cannot start must not leave the others
                    subprocess.Popen(
                        [sys.executable, "-m", "bench.load.client", str(work), str(number)],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    )
                )  # fmt: skip
            for process in processes:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise LoadFailed(f"the client did not begin: {_tail(_log(plan))}")
            start_ns = time.monotonic_ns() + LEAD_NS
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(f"{start_ns}\n")
                process.stdin.flush()
            for process in processes:
                _wait(process, plan, progress)
        finally:
            for process in processes:
                _end(process)


def _locust(plan: Plan, work: Path, progress: Callable[[float], None]) -> None:
    scenario = plan.scenario
    command = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
        "--host", plan.target, "--work", str(work), "--skip-log-setup",
        "--stop-timeout", str(scenario.deadline_ms // 1000 + 1),
        "--html", str(plan.out / "locust.html"),
    ]  # fmt: skip
    if scenario.loop == "open":
        # One user of each process sends all that is due, and what is still under way may end.
        lasts_s = int(scenario.duration_s + scenario.deadline_ms / 1000 + 2)
        command += ["-u", str(plan.processes), "-r", str(plan.processes), "-t", f"{lasts_s}s"]
    if plan.processes > 1:
        command += ["--processes", str(plan.processes)]
    if plan.allow_remote:
        command.append("--allow-remote")
    with _log(plan).open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait(process, plan, progress)
    finally:
        _end(process)


def _wait(process: subprocess.Popen[Any], plan: Plan, progress: Callable[[float], None]) -> None:
    started, limit_s = time.monotonic(), _limit_s(plan)
    while True:
        try:
            code = process.wait(POLL_S)
            break
        except subprocess.TimeoutExpired:
            elapsed_s = time.monotonic() - started
            progress(elapsed_s)
            if elapsed_s > limit_s:
                raise LoadFailed(
                    f"{plan.driver} did not end within {limit_s:.0f} s; its log is {_log(plan)}"
                ) from None
    if code != 0:
        raise LoadFailed(f"{plan.driver} ended with code {code}: {_tail(_log(plan))}")


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' | '.join(lines[-3:])} (its log is {log})"
