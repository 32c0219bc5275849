"""`equipoise serve`: settings in, a serving process out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
Examples:
  equipoise serve --bundle out/demo/bundle --events out/demo/events.db
  equipoise serve --settings server.toml --port 0 --ready-file ready.json
  EQUIPOISE_MAX_QUEUE=64 equipoise serve --bundle B
  equipoise serve --bundle B --workers 4

Settings come from defaults, then the TOML file, then EQUIPOISE_* variables, then flags.
Few have a flag; --show-settings tells all of them.
SIGTERM drains: health says NOT_SERVING, calls under way end, exit code 0. A second one hastens.
Exit code 2: the bundle or a setting was refused, and the line says why."""

WORKER = "server.service.worker"
"""What each process of several runs; the supervisor knows no more of it than its name."""


@click.command("serve", epilog=EXAMPLES)
@click.option(
    "--settings", "settings_file", type=click.Path(path_type=Path), help="A TOML file of settings."
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="The release bundle, or a folder of releases, whose active one is followed.",
)
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
    "--admin-port",
    help="A gRPC port on 127.0.0.1 with channelz and reflection, for operators; 0 takes a free one.  [default: off]",
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
@click.option(
    "--workers",
    type=int,
    help="How many processes serve on the port, one for a core.  [default: 1]",
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
    help="Written when the server serves: JSON with pids and ports.",
)
@click.option(
    "--traces",
    type=click.Choice(["off", "otlp", "console"]),
    help="Where OpenTelemetry traces go: the collector of OTEL_EXPORTER_OTLP_ENDPOINT, or standard output.  [default: off]",
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
def command(settings_file: Path | None, show_settings: bool, **flags: Any) -> int:
    """Serve a release bundle over gRPC."""
    import os

    from server.config import ServerSettings, read_settings
    from server.errors import SettingsRefused

    try:
        settings = read_settings(settings_file, os.environ, flags)
    except SettingsRefused:
        if not show_settings or flags["bundle"]:
            raise
        # To look at them none is needed.
        settings = read_settings(settings_file, os.environ, flags | {"bundle": Path("BUNDLE")})
    if show_settings:
        _show(ServerSettings, settings)
        return 0

    from server.service.logs import configure_logs

    configure_logs(settings.log_level)
    if settings.workers > 1:
        from server.supervisor import supervise

        return supervise(settings, WORKER)

    from server.process import run_serving

    run_serving(_serve(settings))
    return 0


async def _serve(settings: Any) -> None:
    from server.process import StopSignals, keep_what_is_there, on_hang_up
    from server.service.app import Server

    # Heard before the bundle loads: a stop that comes early is obeyed as soon as start() returns.
    signals = StopSignals()
    server = Server(settings)
    on_hang_up(server.look_for_release)
    try:
        await server.prepare()
        keep_what_is_there()
        await server.open()
    except BaseException:
        await server.close()
        raise
    await signals.asked.wait()
    await server.stop(signals.hurry)


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
