"""`make serve`: the demo's server in the foreground, and how to call it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from bench.served import Terminated, equipoise, stop_on_sigterm

STOP_TIMEOUT_S = 20.0


def copy_store(source: Path, target: Path) -> None:
    """A consistent copy of an event store, so that a demo's feedback does not pile up."""
    target.unlink(missing_ok=True)
    with (
        contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
    target.chmod(0o600)


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
            # The terminal sent the signal to the server too: it drains. Whoever sent it to this
            # process alone has the server stopped as well.
            with contextlib.suppress(subprocess.TimeoutExpired):
                sys.exit(process.wait(STOP_TIMEOUT_S))
            process.terminate()
            sys.exit(process.wait(STOP_TIMEOUT_S))


if __name__ == "__main__":
    stop_on_sigterm()
    main()
