"""A server process of the demo's own: started, waited for, stopped.

`python -m bench.demo.serving` is what `make serve` runs: it leaves the server in
the foreground and says how to call it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


class Terminated(BaseException):
    """SIGTERM: unlike Ctrl-C, only this process got it, so that its children must be told."""


def stop_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that no server is left behind."""

    def stop(_signum: int, _frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


@dataclass(frozen=True)
class Live:
    """A server that serves."""

    port: int
    metrics_port: int
    pid: int
    ready_s: float

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


def equipoise(*arguments: str | Path) -> list[str]:
    """The command line of an `equipoise` subcommand in this environment."""
    return [sys.executable, "-m", "server.cli", *map(str, arguments)]


def copy_store(source: Path, target: Path) -> None:
    """A consistent copy of an event store, so that a demo's feedback does not pile up."""
    target.unlink(missing_ok=True)
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
    target.chmod(0o600)


@contextlib.contextmanager
def server(bundle: Path, events: Path, log: Path, *flags: str) -> Iterator[Live]:
    """Run a server until the block ends; its log goes to a file. flags: others of `equipoise serve`.

    Raises:
        click.ClickException: it did not come up, with the end of its log.
    """
    with tempfile.TemporaryDirectory() as folder, log.open("wb") as log_file:
        ready = Path(folder) / "ready.json"
        command = equipoise(
            "serve", "--bundle", bundle, "--events", events, "--clock", "data-end",
            "--port", "0", "--metrics-port", "0", "--ready-file", ready, *flags,
        )  # fmt: skip
        started = time.monotonic()
        process = subprocess.Popen(
            command, stderr=log_file, stdout=log_file, start_new_session=True
        )
        try:
            while not ready.exists():
                if process.poll() is not None or time.monotonic() - started > READY_TIMEOUT_S:
                    tail = log.read_text(errors="replace").strip().splitlines()[-3:]
                    raise click.ClickException(
                        f"the server did not come up (its log is {log}): " + " | ".join(tail)
                    )
                time.sleep(0.02)
            ports = json.loads(ready.read_text(encoding="utf-8"))
            yield Live(
                port=ports["port"],
                metrics_port=ports["metrics_port"],
                pid=process.pid,
                ready_s=time.monotonic() - started,
            )
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _say(port: int, metrics_port: int, bundle: Path) -> str:
    """How to call the server, with the programs of this environment."""
    programs = Path(sys.executable).parent
    if programs.is_relative_to(Path.cwd()):
        programs = programs.relative_to(Path.cwd())
    target = f"127.0.0.1:{port}"
    method = "equipoise.v1.RecommendationService/Recommend"
    return (
        f"serving {bundle} on {target}, metrics on http://127.0.0.1:{metrics_port}/metrics; "
        "Ctrl-C stops it.\nFrom another terminal:\n\n"
        f"  {programs}/equipoise recommend --target {target} --user 1 --names {bundle}\n"
        f"  {programs}/buf curl --protocol grpc --http2-prior-knowledge \\\n"
        f'    --data \'{{"user_id": "1", "count": 5}}\' http://{target}/{method}\n'
        f"  {programs}/locust -f bench/load/locustfile.py --host {target}   (then open its page)\n"
    )


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option("--port", default=50051, show_default=True)
@click.option("--metrics-port", default=9464, show_default=True)
def main(out: Path, port: int, metrics_port: int) -> None:
    """Serve the demo's bundle and say how to call it; Ctrl-C stops it."""
    bundle, store = out / "bundle", out / "serve-events.db"
    if not store.exists():
        copy_store(out / "events.db", store)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        process = subprocess.Popen(
            equipoise(
                "serve", "--bundle", bundle, "--events", store, "--clock", "data-end",
                "--port", str(port), "--metrics-port", str(metrics_port), "--ready-file", ready,
            )
        )  # fmt: skip
        try:
            while process.poll() is None and not ready.exists():
                time.sleep(0.02)
            if ready.exists():
                ports = json.loads(ready.read_text(encoding="utf-8"))
                click.echo(_say(ports["port"], ports["metrics_port"], bundle))
            sys.exit(process.wait())
        except Terminated:
            process.terminate()
            sys.exit(process.wait(STOP_TIMEOUT_S))
        except KeyboardInterrupt:
            # The terminal sent the signal to the server too: it drains.
            sys.exit(process.wait(STOP_TIMEOUT_S))


if __name__ == "__main__":
    stop_on_sigterm()
    main()
