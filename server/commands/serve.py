"""`equipoise serve`: settings in, a serving process out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
Examples:
  equipoise serve --bundle out/demo/bundle --events out/demo/events.db
  equipoise serve --settings server.toml --port 0 --ready-file ready.json
  EQUIPOISE_MAX_QUEUE=64 equipoise serve --bundle B

Settings come from defaults, then the TOML file, then EQUIPOISE_* variables, then flags.
SIGTERM drains: health says NOT_SERVING, calls under way end, exit code 0.
Exit code 2: the bundle or a setting was refused, and the line says why."""


@click.command("serve", epilog=EXAMPLES)
@click.option(
    "--settings", "settings_file", type=click.Path(path_type=Path), help="A TOML file of settings."
)
@click.option("--bundle", type=click.Path(path_type=Path), help="The release bundle (a folder).")
@click.option(
    "--events", type=click.Path(path_type=Path), help="The event store; made when missing."
)
@click.option("--host", help="The address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="The gRPC port; 0 takes a free one.  [default: 50051]")
@click.option(
    "--metrics-port",
    help="The Prometheus port; 0 takes a free one, 'off' opens none.  [default: 9464]",
)
@click.option(
    "--exposures",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The exposure ledger of amortised policies.  [default: in memory]",
)
@click.option(
    "--clock",
    type=click.Choice(["wall", "data-end"]),
    help="What 'now' means without as_of: the wall clock, or the end of the bundle's data (for replays).  [default: wall]",
)
@click.option(
    "--page-key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key that signs page tokens, the same for all replicas.  [default: a new one]",
)
@click.option("--max-queue", type=int, help="How many requests may wait.  [default: 256]")
@click.option(
    "--max-batch",
    type=int,
    help="The most requests of one model run.  [default: the bundle's best]",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="Written when the server serves: JSON with pid and ports.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="The least severe log line.  [default: info]",
)
@click.option(
    "--show-settings",
    is_flag=True,
    help="Print every setting with its value and meaning as TOML, and stop.",
)
def command(settings_file: Path | None, show_settings: bool, **flags: Any) -> None:
    """Serve a release bundle over gRPC."""
    import os

    from server.config import ServerSettings, read_settings

    settings = read_settings(settings_file, os.environ, flags)
    if show_settings:
        _show(ServerSettings, settings)
        return

    import asyncio
    import sys

    # While a Python thread is busy, the thread that waits for onnxruntime gets its turn only
    # after this long; the default of 5 ms would be most of a request's latency.
    sys.setswitchinterval(1e-4)
    from server.service.logs import configure_logs

    configure_logs(settings.log_level)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Any) -> None:
    import asyncio
    import signal

    from server.service.app import Server

    asked_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Explicit handlers, so that it also stops as process 1 of a container. They are in place
    # before the bundle loads: a stop that comes early is obeyed as soon as start() returns.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    server = Server(settings)
    try:
        await server.start()
    except BaseException:
        await server.close()
        raise
    await asked_to_stop.wait()
    await server.stop()


def _show(model: Any, settings: Any) -> None:
    for name, field in model.model_fields.items():
        for line in (field.description or "").splitlines():
            click.echo(f"# {line.strip()}")
        value = getattr(settings, name)
        if value is None:
            click.echo(f"# {name} is not set\n")
        else:
            text = value if isinstance(value, (int, float)) else f'"{value}"'
            click.echo(f"{name} = {text}\n")
