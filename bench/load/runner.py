"""One headless load: locust in a process of its own, bounded, then its result.

Owns the process and the files. `load.json` is written last; it names the digest
of its samples, so that a half-replaced pair is refused by the gate.

    result = run_load(Plan(target="127.0.0.1:50051", users=16, duration_s=15, out=Path("out/load")))
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
from typing import Any

import psutil

from bench.load.requests import read_requests, read_users
from bench.load.samples import SamplesRefused, read_samples
from bench.load.summary import Run, summarise
from bench.refused import InputRefused
from bench.target import check_target, serving_info
from bench.whole import write_whole
from server.errors import EquipoiseError

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# What a run may take beyond its duration: starting Python, spawning users, ending calls.
START_S = 60.0
POLL_S = 0.1
STOP_S = 10.0


class LoadFailed(EquipoiseError):
    """The load did not run to its end."""


@dataclass(frozen=True)
class Plan:
    """One load.

    requests, users_file: what to ask; with neither, requests are drawn from items that the server
    returns. users: how many ask at a time. spawn_rate: users started per second; None starts all
    at once. server_pid: of a server on this machine, to count its CPU time.
    """

    target: str
    out: Path
    users: int
    duration_s: int
    requests: Path | None = None
    users_file: Path | None = None
    spawn_rate: float | None = None
    deadline_ms: int = 5000
    seed: int = 1
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


def _command(plan: Plan, samples: Path, html: Path) -> list[str]:
    command = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary",
        "--host", plan.target, "-u", str(plan.users), "-r", str(plan.spawn_rate or plan.users),
        "-t", f"{plan.duration_s}s", "--stop-timeout", str(plan.deadline_ms // 1000 + 1),
        "--samples-out", str(samples), "--deadline-ms", str(plan.deadline_ms),
        "--seed", str(plan.seed), "--html", str(html), "--skip-log-setup",
    ]  # fmt: skip
    if plan.requests is not None:
        command += ["--requests", str(plan.requests)]
    if plan.users_file is not None:
        command += ["--users-file", str(plan.users_file)]
    if plan.allow_remote:
        command.append("--allow-remote")
    return command


def _run_locust(
    command: list[str], log: Path, limit_s: float, progress: Callable[[float], None]
) -> int:
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        while True:
            try:
                return process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                elapsed_s = time.monotonic() - started
                progress(elapsed_s)
                if elapsed_s > limit_s:
                    raise LoadFailed(
                        f"locust did not end within {limit_s:.0f} s; its log is {log}"
                    ) from None
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run_load(
    plan: Plan, progress: Callable[[float], None] = lambda elapsed_s: None
) -> dict[str, Any]:
    """Run a load and write `load.json`, `samples.npz`, `locust.html` and `locust.log` to `out`.

    progress: called now and then with the seconds since the start.

    Raises:
        InputRefused: the target is not allowed or does not answer, or a request file is refused.
        LoadFailed: locust failed, or made no request.
    """
    check_target(plan.target, allow_remote=plan.allow_remote)
    if plan.requests is not None:
        read_requests(plan.requests)
    elif plan.users_file is not None:
        read_users(plan.users_file)
    info = serving_info(plan.target)
    plan.out.mkdir(parents=True, exist_ok=True)
    aside, log = plan.out / ".samples.partial.npz", plan.out / "locust.log"
    limit_s = (
        plan.duration_s
        + START_S
        + plan.deadline_ms / 1000
        + plan.users / (plan.spawn_rate or plan.users)
    )
    cpu_before_s = None if plan.server_pid is None else cpu_seconds(plan.server_pid)
    try:
        code = _run_locust(_command(plan, aside, plan.out / "locust.html"), log, limit_s, progress)
        cpu_s = None
        if plan.server_pid is not None and cpu_before_s is not None:
            cpu_s = cpu_seconds(plan.server_pid) - cpu_before_s
        if code != 0 or not aside.is_file():
            raise LoadFailed(f"locust ended with code {code}: {_tail(log)}")
        samples = read_samples(aside)
        if not len(samples):
            raise LoadFailed(f"locust made no request: {_tail(log)}")
        run = Run(
            plan.target, info.bundle_id, info.model.digest, plan.users, plan.duration_s,
            plan.spawn_rate or plan.users, plan.seed, plan.deadline_ms, cpu_s,
        )  # fmt: skip
        result = summarise(samples, run)
        result["samples"] = "samples.npz"
        result["samples_sha256"] = hashlib.sha256(aside.read_bytes()).hexdigest()
        aside.replace(plan.out / "samples.npz")
    except SamplesRefused as refused:
        raise LoadFailed(f"the samples of the run are damaged: {refused}") from refused
    finally:
        aside.unlink(missing_ok=True)
    write_whole(plan.out / "load.json", json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{' | '.join(lines[-3:])} (its log is {log})"
