"""`equipoise events`: look into the event store, and erase a person from it."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import click

from server.commands.parts import Parts

STATS_EXAMPLES = """\b
Examples:
  equipoise events stats out/demo/events.db
  equipoise events stats out/demo/events.db --check --json

Exit code 1: --check found damage. 2: STORE is not an event store."""

ERASE_EXAMPLES = """\b
Examples:
  equipoise events erase out/demo/events.db 17
  equipoise events erase out/demo/events.db 17 --yes

Servers that use the store notice at their next request for this user. It is safe to erase
twice, and the second time finishes what a full disk or a long reader stopped (exit code 1).
Bundles hold no user data, so they need no erasing; copies and backups of the store do."""


PROFILE_EXAMPLES = """\b
Examples:
  equipoise events profile out/demo/events.db 1 --bundle out/demo/bundle
  equipoise events profile out/demo/events.db 1 \\
      --bundle out/demo/bundle --json

What a person may ask to see. Nothing of it is stored: it is computed from the events."""


@click.group(
    "events",
    cls=Parts,
    entry_points="equipoise.commands.events",
    order=("load", "stats", "profile", "erase"),
)
def command() -> None:
    """The event store: every user's history, in one SQLite file.

    \b
    Examples:
      equipoise events load --help                 fill a store from a table
      equipoise events stats out/demo/events.db    how much it holds
      equipoise events profile --help              what it says of one user
      equipoise events erase out/demo/events.db 17  forget user 17
    """


@command.command("stats", epilog=STATS_EXAMPLES)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Also check the file's structure for damage.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def stats(ctx: click.Context, store: Path, check: bool, as_json: bool) -> None:
    """Count the events and users in STORE."""
    from server.events import SqliteEventStore

    with SqliteEventStore(store, create=False) as opened:
        damage = opened.damage() if check else None
        found = opened.stats() if damage is None else None
    facts: dict[str, object] = dataclasses.asdict(found) if found else {}
    if check:
        facts["damage"] = damage
    if as_json:
        click.echo(json.dumps(facts))
    elif found:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in found.events_by_kind.items())
        click.echo(f"events  {found.events:,}" + (f" ({kinds})" if kinds else ""))
        click.echo(f"users   {found.users:,}")
        if found.first_ms is not None and found.last_ms is not None:
            click.echo(f"from    {_moment(found.first_ms)}\nto      {_moment(found.last_ms)}")
        click.echo(f"size    {found.file_bytes / 1e6:,.1f} MB, schema {found.schema_version}")
        if check:
            click.echo("check   no damage found")
    if damage is not None:
        click.echo(f"Error: event store {store} is damaged: {damage}; restore a copy", err=True)
        ctx.exit(1)


@command.command("profile", epilog=PROFILE_EXAMPLES)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("user")
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    required=True,
    help="The bundle whose items and categories to tell it in.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def profile(store: Path, user: str, bundle_path: Path, as_json: bool) -> None:
    """What the history in STORE says of USER, as of the last event: the profile behind the lists."""
    from server.bundle import load_bundle
    from server.engine import resolver_for
    from server.events import SqliteEventStore
    from server.features.profile import user_profile

    bundle = load_bundle(bundle_path)
    with SqliteEventStore(store, create=False) as opened:
        history = resolver_for(bundle)(opened.history(user)).history
    now_ms = int(history.times_ms[-1]) if len(history) else 0
    found = user_profile(history, now_ms, bundle.state)
    facts: dict[str, object] = dataclasses.asdict(found)
    for level, column in (("categories", "category"), ("departments", "department")):
        texts = bundle.items.attributes.get(column)
        if texts is None:
            del facts[level]
            continue
        labels = sorted(set(texts))
        facts[level] = {labels[code]: round(share, 4) for code, share in getattr(found, level)}
    facts["favourites"] = [bundle.items.names[item] for item in found.favourites.tolist()]
    if as_json:
        click.echo(json.dumps({"user": user, "as_of_unix_ms": now_ms, **facts}))
        return
    if not len(history):
        click.echo(f"user {user!r} has no events of items that this bundle knows")
        return
    click.echo(f"as of                {_moment(now_ms)}")
    for name, value in facts.items():
        click.echo(f"{name.replace('_', ' '):<20} {_in_words(value)}")


@command.command("erase", epilog=ERASE_EXAMPLES)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(store: Path, user: str, yes: bool) -> None:
    """Remove every event of USER from STORE, and the bytes from its file.

    The file is rewritten, which takes about a second per hundred megabytes; feedback to a
    running server waits meanwhile.
    """
    from server.events import SqliteEventStore

    with SqliteEventStore(store, create=False) as opened:
        if not yes:
            count = len(opened.history(user))
            click.confirm(f"Erase {count} events of user {user!r} from {store}?", abort=True)
        click.echo(f"erased {opened.erase(user)} events of user {user!r}")


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{label} {share:.0%}" for label, share in value.items())
    if isinstance(value, list):
        return "; ".join(value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
