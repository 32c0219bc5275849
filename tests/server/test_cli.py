"""The command's own manners: exit codes, one-line errors, and what interrupts it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from server.cli import command

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


def _helps(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    context = click.Context(group, info_name="equipoise", max_content_width=80)
    yield path, group.get_help(context)
    for name in group.list_commands(context):
        inner = group.get_command(context, name)
        assert inner is not None
        if isinstance(inner, click.Group):
            yield from _helps(inner, (*path, name))
        else:
            own = click.Context(inner, info_name=" ".join((*path, name)), max_content_width=80)
            yield (*path, name), inner.get_help(own)


def test_every_help_page_fits_a_terminal_of_80_columns() -> None:
    pages = dict(_helps(command, ("equipoise",)))
    assert ("equipoise", "policy", "check") in pages
    wide = [(" ".join(path), line) for path, page in pages.items()
            for line in page.splitlines() if len(line) > 80]  # fmt: skip
    assert wide == []


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
