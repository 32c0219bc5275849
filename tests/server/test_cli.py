"""The command's own manners: exit codes, one-line errors, and what interrupts it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

EQUIPOISE = [sys.executable, "-m", "server.cli"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so_and_exits_130(how: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [*EQUIPOISE, "recommend", "--target", target, "--user", "1", "--timeout-s", "100"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        silent.settimeout(60)
        connection, _ = silent.accept()  # it is waiting for an answer now
        with connection:
            process.send_signal(how)
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.strip().splitlines() == ["interrupted"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--version"], 0, ""),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["recommend", "--count", "many"], 2, "'many' is not a valid integer"),
        (["bundle", "verify", "/does/not/exist"], 2, "/does/not/exist"),
    ],
)
def test_exit_codes_are_those_documented(arguments: list[str], code: int, says: str) -> None:
    done = subprocess.run(
        [*EQUIPOISE, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
