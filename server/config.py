"""The settings of a server: one frozen model, read once.

Sources, later ones win: defaults, a TOML file, environment variables
`EQUIPOISE_<NAME>`, flags. An unknown key is an error that names the near miss.

>>> read_settings(None, {}, {"bundle": "b", "port": 0}).max_queue
256
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.errors import SettingsRefused, shown

PREFIX = "EQUIPOISE_"
ENVIRONMENT = "the environment"
CAN_BE_OFF = ("metrics_port", "admin_port")

Port = Annotated[int, Field(ge=0, le=65535)]


class ServerSettings(BaseModel):
    """How one server process runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bundle: Path
    """The release bundle (a folder) to serve; or a folder of releases, made by `equipoise bundle
    activate`: then the server follows it to the release that is active."""

    release_poll_s: Annotated[float, Field(gt=0, le=3600)] = 0.25
    """How often it looks for another one. Not used where `bundle` is a bundle."""

    host: str = "127.0.0.1"
    """The address to listen on. 0.0.0.0 or [::] opens the server to the network."""

    port: Port = 50051
    """The gRPC port. 0 takes a free one; see `ready_file`."""

    metrics_port: Port | None = 9464
    """The Prometheus port, on `host`. 0 takes a free one; "off" (None) opens none."""

    admin_port: Port | None = None
    """A gRPC port on 127.0.0.1, whatever `host` is, with channelz, reflection, health and what is
    served, for whoever runs the server; "off" (None) opens none. 0 takes a free one. Each of several
    workers has its own: this one and those after it, or free ones; each tells its own when it
    serves."""

    events: Path | None = None
    """The event store (an SQLite file, made when missing). Without it every request must bring
    its history and RecordFeedback answers UNAVAILABLE."""

    exposures: Path | None = None
    """Where the exposure that amortised policies even out is counted (an SQLite file, made when
    missing, shared by processes). Without it a restart of the server begins from nothing."""

    exposures_flush_s: Annotated[float, Field(gt=0, le=3600)] = 5.0
    """How often it is written and what other processes added is read: what a crash may lose."""

    clock: Literal["wall", "data-end"] = "wall"
    """What "now" means for requests without as_of. "data-end" is the end of the bundle's data:
    for replays of old purchases, which the wall clock would call long forgotten."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """How many processes serve on the port, one for each core that the server may use. 1 is a single
    process; more have a supervisor, which replaces those that die or hang."""

    spare_workers: Annotated[int, Field(ge=0, le=16)] = 1
    """How many more are loaded and wait, to take the place of a dead worker at once. 0 saves their
    memory; then a place is empty for as long as a start takes. Not used with 1 worker."""

    silence_ms: Annotated[int, Field(ge=1_000, le=600_000)] = 5_000
    """A worker whose event loop does not run for so long is killed and replaced; one that a signal
    has stopped is so after 0.3 s. Not used with 1 worker."""

    worker_start_s: Annotated[float, Field(ge=1, le=3600)] = 300.0
    """A worker that takes longer to load is killed. Not used with 1 worker."""

    max_count: Annotated[int, Field(ge=1, le=1000)] = 200
    """The longest list. Higher makes policy tables and the fair stage larger."""

    max_candidates: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """The most candidates of a request. Higher lets one request hold the model for longer."""

    max_history_events: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """The most history events of a request."""

    max_exclusions: Annotated[int, Field(ge=1, le=100_000)] = 10_000
    """The most excluded items of a request."""

    max_feedback_events: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    """The most events of one feedback call: all of them are one transaction."""

    max_message_bytes: Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)] = 4 * 1024 * 1024
    """The largest message; larger ones get RESOURCE_EXHAUSTED before they are parsed."""

    max_bytes_in_flight: Annotated[int, Field(ge=1024, le=64 * 1024**3)] = 64 * 1024 * 1024
    """How many bytes the requests that one process has read and not answered may have together; the
    next gets RESOURCE_EXHAUSTED before it is parsed. One alone may have more."""

    max_unread_bytes: Annotated[int, Field(ge=1024, le=64 * 1024**3)] = 8 * 1024 * 1024
    """How many bytes of answers one connection may leave unread; its next calls get
    RESOURCE_EXHAUSTED before any work. Streams wait instead."""

    max_connection_calls: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """How many calls of one connection are under way at once, streams among them. More wait with
    the caller."""

    keepalive_s: Annotated[float, Field(ge=1, le=86_400)] = 60.0
    """How long a connection may be silent before it is asked whether it is still there; one that
    does not answer within as long, at most 20 s, is closed, and its calls with it."""

    page_key_file: Path | None = None
    """A file with at least 16 random bytes that signs page tokens. Without it each server makes its
    own key: then a page is refused after a restart, and by other replicas."""

    page_token_age_s: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = 3600
    """How long a page token is good for."""

    max_batch_requests: Annotated[int, Field(ge=1, le=1_000)] = 64
    """The most requests of one BatchRecommend. Those that find the queue full are refused alone."""

    max_stream_in_flight: Annotated[int, Field(ge=1, le=10_000)] = 64
    """How many requests of one RecommendStream are under way at once. More wait with the caller."""

    max_pending_calls: Annotated[int, Field(ge=1, le=100_000)] = 100
    """How many calls may wait at the door, before this process has looked at them. gRPC refuses those
    beyond at once, as CANCELLED. Under lasting overload so many always wait: lower it for callers
    with short deadlines, raise it for large bursts."""

    max_queue: Annotated[int, Field(ge=1, le=100_000)] = 256
    """How many requests may wait. Higher turns overload into latency instead of refusals."""

    max_background_queue: Annotated[int, Field(ge=1, le=100_000)] = 64
    """How many of those may be background work (metadata equipoise-priority: batch). It comes last,
    and makes room for other requests when the queue is full."""

    max_batch: Annotated[int, Field(ge=1, le=1024)] | None = None
    """The most requests of one model run; the bundle's measured best when not set."""

    max_labels: Annotated[int, Field(ge=1, le=1000)] = 32
    """How many surfaces and how many experiments become metric labels; the rest is "other"."""

    history_cache_users: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """How many users' histories stay in memory (about 10 KB each)."""

    drain_delay_s: Annotated[float, Field(ge=0, le=300)] = 0.2
    """How long to go on serving after health says NOT_SERVING, so that load balancers notice."""

    drain_grace_s: Annotated[float, Field(ge=0, le=300)] = 10.0
    """How long calls under way may take to end after that, before they are cancelled."""

    ready_file: Path | None = None
    """Written when the server serves: JSON with pid, port, metrics_port and admin_port; with more than one
    worker also `workers`, their pids, written again when they change."""

    traces: Literal["off", "otlp", "console"] = "off"
    """Where OpenTelemetry traces go: "otlp" to the collector that the OTEL_EXPORTER_OTLP_* variables
    name (gRPC), "console" to standard output. Needs the otel extra."""

    traces_ratio: Annotated[float, Field(ge=0, le=1)] | None = None
    """The share of calls that are traced among those that bring no trace; one that brings it
    (metadata traceparent) is traced if its flag says so. When not set OTEL_TRACES_SAMPLER decides."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe log line to write."""


def _of_kubernetes(name: str, value: str) -> bool:
    """Whether it tells of a Service that is called equipoise, as each pod of its namespace gets."""
    if name == f"{PREFIX}PORT":
        return "://" in value
    return name.startswith((f"{PREFIX}SERVICE_HOST", f"{PREFIX}SERVICE_PORT", f"{PREFIX}PORT_"))


def _near(key: str) -> str:
    near = difflib.get_close_matches(key, ServerSettings.model_fields, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_keys(source: str, keys: Mapping[str, Any]) -> None:
    for key in keys:
        if key not in ServerSettings.model_fields:
            # What other files of this kind have sections for.
            hint = "; settings are in no table" if isinstance(keys[key], dict) else _near(key)
            raise SettingsRefused(f"unknown setting {key!r} in {source}{hint}")


def read_settings(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> ServerSettings:
    """Merge the sources and check the result.

    Raises:
        SettingsRefused: an unknown key (with the near miss) or a value out of range.
    """
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    sources: list[tuple[str, Mapping[str, Any]]] = []
    if file is not None:
        try:
            sources.append((str(file), tomllib.loads(file.read_text(encoding="utf-8"))))
        except OSError as error:
            raise SettingsRefused(f"settings file {file}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsRefused(f"settings file {file}: {error}") from error
    variables = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and not _of_kubernetes(name, value)
    }
    sources.append((ENVIRONMENT, variables))
    sources.append(("the flags", {k: v for k, v in flags.items() if v is not None}))
    for name, values in sources:
        _check_keys(name, values)
        for key, value in values.items():
            merged[key] = None if key in CAN_BE_OFF and value == "off" else value
            origin[key] = f"{PREFIX}{key.upper()}" if name == ENVIRONMENT else name
    try:
        return ServerSettings.model_validate(merged)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        key = str(first["loc"][0])
        if first["type"] == "missing":
            raise SettingsRefused(
                f"setting {key!r} is missing: give --{key}, {PREFIX}{key.upper()} or a line in the file"
            ) from invalid
        raise SettingsRefused(
            f"setting {key!r} from {origin.get(key, 'defaults')}: got {shown(first['input'])}; "
            f"{first['msg'][0].lower()}{first['msg'][1:]}"
        ) from invalid
