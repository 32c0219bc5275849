"""The command `equipoise audit`: options, and what is printed.

Whatever is heavy is imported when the command runs, so that `--help` is quick.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.options import (
    EXISTING_FOLDER,
    NEW_FOLDER,
    cache_option,
    dataset_option,
    events_option,
    interactions_option,
    items_option,
    json_option,
    min_users_option,
    prepared_source,
    reading_options,
    users_option,
)

if TYPE_CHECKING:
    from training.data.reading import Reading

EXAMPLES = """\b
Examples:
  equipoise audit --bundle out/demo/bundle --dataset complete-journey \\
    --out out/audit
  equipoise audit --bundle my/bundle --interactions bought.csv \\
    --items items.csv --users users.csv --out a
  equipoise audit --bundle out/demo/bundle --dataset complete-journey \\
    --tradeoff --out out/audit

\b
Prints a summary; writes audit.json, audit.md (every table) and pictures.
User attributes are read here and nowhere else.
Exit code 2: the bundle learned from events after the cut, has no such
policy, or a table is refused."""


@click.command("audit", epilog=EXAMPLES)
@click.option(
    "--bundle", "bundle_path", type=EXISTING_FOLDER, required=True, help="The bundle to audit."
)
@dataset_option
@interactions_option
@events_option
@items_option
@users_option
@reading_options
@click.option("--policy", "policies", multiple=True, help="A policy to audit.  [default: all]")
@click.option(
    "--out", type=NEW_FOLDER, required=True, help="Folder for the results; made if missing."
)
@click.option(
    "--on",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Which held-out part.",
)
@click.option(
    "--group-by",
    help="User attributes, such as income,age; their pairs are intersections.  "
    "[default: all with few values]",
)
@min_users_option
@click.option(
    "--tradeoff", is_flag=True, help="Also sweep every kind of policy over its parameter."
)
@click.option(
    "--tradeoff-users",
    type=click.IntRange(1),
    default=300,
    show_default=True,
    help="Users drawn for the sweeps: more is steadier, and slower in proportion.",
)
@click.option("--resamples", type=click.IntRange(100, 100_000), default=2000, show_default=True)
@click.option("--seed", type=int, default=20, show_default=True, help="Everything random.")
@cache_option
@json_option
def audit(
    bundle_path: Path,
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    items: Path | None,
    users: Path | None,
    reading: Reading,
    policies: tuple[str, ...],
    out: Path,
    on: str,
    group_by: str | None,
    min_users: int,
    tradeoff: bool,
    tradeoff_users: int,
    resamples: int,
    seed: int,
    cache: Path | None,
    as_json: bool,
) -> None:
    """What every policy does to groups of items and to groups of users, on held-out purchases.

    Lists are made by the engine that serves them. Item side before and after; quality for each
    group of users and each pair of attributes, the worst with an interval that holds for all.
    """
    from server.bundle import load_bundle
    from training.audit.audit import Protocol
    from training.audit.audit import audit as measure
    from training.audit.report import DOCUMENT_FILE, TEXT_FILE, write_audit
    from training.audit.summary import summary
    from training.progress import steps

    bundle = load_bundle(bundle_path)
    prepared = prepared_source(dataset, interactions, events, items, users, cache, reading=reading)
    protocol = Protocol(
        on=on,
        policies=policies,
        min_users=min_users,
        resamples=resamples,
        seed=seed,
        user_attributes=None
        if group_by is None
        else tuple(n.strip() for n in group_by.split(",") if n.strip()),
        tradeoff_users=tradeoff_users if tradeoff else 0,
    )
    with steps() as on_step:
        document = measure(bundle, prepared, protocol, on_step)
    written = write_audit(document, out)
    if as_json:
        click.echo(json.dumps(document, allow_nan=False))
        return
    click.echo(summary(document))
    click.echo(f"\nwrote    {out / TEXT_FILE}, with every table of every policy")
    click.echo(f"         and {len(written) - 1} files beside it: {DOCUMENT_FILE} and pictures")
