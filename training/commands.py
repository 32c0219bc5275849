"""The commands that training adds to `equipoise`: train, evaluate, events load.

Owns options and what is printed. Whatever is heavy (torch, polars) is imported when a
command runs, so that `--help` is quick.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from training.data.prepare import Prepared
    from training.data.tables import Tables

COMPLETE_JOURNEY = "complete-journey"
# Enough that a short load repeats few, small enough to read.
REQUESTS = 400

TRAIN_EXAMPLES = """\b
Examples:
  equipoise train --dataset complete-journey --out out/bundle
  equipoise train --interactions bought.parquet --items items.csv --out out/bundle
  equipoise train --events events.db --items items.csv --out out/bundle   learn from feedback

\b
Interactions: columns user, item, time; optional kind, basket, quantity, value.
Items: column item; optional name, category_path, provider, brand.
Exit code 2: a table is refused (column, number of rows, an example), or onnxruntime does not
give what torch gave. No bundle is written then."""

EVALUATE_EXAMPLES = """\b
Examples:
  equipoise evaluate --bundle out/demo/bundle --dataset complete-journey --out out/quality
  equipoise evaluate --bundle my/bundle --interactions purchases.csv --items items.csv --out q

\b
Writes quality.json (read by 'equipoise gate'), per_user.npz, quality.txt and pictures.
Exit code 2: the bundle learned from events after the cut, or a table is refused."""

LOAD_EXAMPLES = """\b
Examples:
  equipoise events load --interactions purchases.parquet --store events.db
  equipoise events load --dataset complete-journey --until-week 50 --store out/demo/events.db

\b
Interactions need the columns user, item and time (timestamps, ISO 8601 text, or whole s, ms, us
or ns since 1970). Event ids are made from the rows, so loading a file twice adds nothing.
Exit code 2: a table is refused; the message names column, number of rows and an example."""


@click.command("train", epilog=TRAIN_EXAMPLES)
@click.option("--dataset", type=click.Choice([COMPLETE_JOURNEY]), help="A data set by name.")
@click.option(
    "--interactions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Or your own: a .parquet or .csv table with user, item, time.",
)
@click.option(
    "--events",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Or an event store: what was loaded and what feedback added.",
)
@click.option(
    "--items",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Items of your own data: item, name, category_path, provider, brand.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The bundle to write (a folder).",
)
@click.option("--name", help="The bundle's name.  [default: made from the data's]")
@click.option(
    "--policies",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of policy documents.  [default: those that come with Equipoise]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Everything random.")
@click.option("--quick", is_flag=True, help="A small model in little time: not one to ship.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps the prepared data set, to start faster the next time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def train(
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    items: Path | None,
    out: Path,
    name: str | None,
    policies: Path | None,
    seed: int,
    quick: bool,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Make a release bundle from purchases: prepare, tune, refit, export, gate, write."""
    from rich.console import Console

    from training.pipeline import Pipeline
    from training.release import SHOP_POLICIES
    from training.settings import TrainSettings

    if events is None:
        prepared = _prepared(dataset, interactions, items, None, cache)
    elif dataset is None and interactions is None:
        prepared = _learned(events, items)
    else:
        raise click.UsageError("Give one of --dataset, --interactions and --events.")
    console = Console(stderr=True, highlight=False)
    console.print(str(prepared.cleaning))
    source = dataset or (interactions or events or out).stem
    settings = TrainSettings.quick(seed) if quick else TrainSettings(seed=seed)
    released = Pipeline(prepared, settings, console).run(
        name=name or _bundle_name(source), policies=policies or SHOP_POLICIES, out=out
    )
    facts = {
        "bundle_id": released.manifest.bundle_id,
        "out": str(out),
        "validation_ndcg_at_20": released.validation_ndcg_at_20,
        "best_epoch": released.best_epoch,
        "parity_max_difference": released.parity,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"bundle   {facts['bundle_id']} in {out}")
    click.echo(
        f"quality  validation NDCG@20 {released.validation_ndcg_at_20:.4f} "
        f"(epoch {released.best_epoch})"
    )
    click.echo(f"parity   torch and onnxruntime differ by {released.parity:.1e} at most")


def _bundle_name(source: str) -> str:
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in source.lower())
    return kept.strip("-")[:64] or "bundle"


def _learned(store: Path, items: Path | None) -> Prepared:
    from server.events import SqliteEventStore
    from training.data.prepare import prepare_tables
    from training.data.stored import tables_of
    from training.data.tables import read_items

    described = read_items(items) if items is not None else None
    with SqliteEventStore(store, create=False) as opened:
        return prepare_tables(tables_of(opened, described))


@click.command("evaluate", epilog=EVALUATE_EXAMPLES)
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="The bundle to measure.",
)
@click.option("--dataset", type=click.Choice([COMPLETE_JOURNEY]), help="A data set by name.")
@click.option(
    "--interactions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Or your own: a .parquet or .csv table with user, item, time.",
)
@click.option(
    "--items",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Items of your own data: item, name, category_path, provider, brand.",
)
@click.option(
    "--users",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Users of your own data: user and attributes to report groups by.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the results; made if missing.",
)
@click.option(
    "--on",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Which held-out part; validation while something is still being tuned.",
)
@click.option(
    "--group-by",
    default="income,age,household_size",
    show_default=True,
    help="User attributes to report groups of, where the data has them.",
)
@click.option("--resamples", type=click.IntRange(100, 100_000), default=2000, show_default=True)
@click.option("--seed", type=int, default=20, show_default=True, help="Seed of the bootstrap.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps the prepared data set, to start faster the next time.",
)
@click.option(
    "--requests-out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write requests of the evaluated users (JSON lines), for 'equipoise load'.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, not as a table.")
def evaluate(
    bundle_path: Path,
    dataset: str | None,
    interactions: Path | None,
    items: Path | None,
    users: Path | None,
    out: Path,
    on: str,
    group_by: str,
    resamples: int,
    seed: int,
    cache: Path | None,
    requests_out: Path | None,
    as_json: bool,
) -> None:
    """Measure a bundle on held-out purchases, against every baseline, with intervals.

    Lists are made by the engine that serves them: candidates, features, onnxruntime, fair stage.
    """
    from server.bundle import load_bundle
    from training.evaluate import Protocol
    from training.evaluate import evaluate as measure
    from training.progress import steps
    from training.report import text, write_file, write_results
    from training.requests import request_lines

    bundle = load_bundle(bundle_path)
    prepared = _prepared(dataset, interactions, items, users, cache)
    attributes = tuple(name.strip() for name in group_by.split(",") if name.strip())
    protocol = Protocol(on=on, resamples=resamples, seed=seed, user_attributes=attributes)
    with steps() as on_step:
        evaluation = measure(bundle, prepared, protocol, on_step)
    written = write_results(evaluation, out)
    if requests_out is not None:
        until_ms = bundle.manifest.data.until_unix_ms
        lines = request_lines(prepared.dataset.until(until_ms), REQUESTS, seed)
        write_file(requests_out, ("\n".join(lines) + "\n").encode())
    if as_json:
        click.echo(json.dumps(evaluation.results, allow_nan=False))
        return
    click.echo(text(evaluation.results))
    click.echo(f"wrote    {', '.join(sorted(path.name for path in written))} into {out}")


@click.command("load", epilog=LOAD_EXAMPLES)
@click.option(
    "--interactions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A .parquet or .csv table with user, item, time.",
)
@click.option("--dataset", type=click.Choice([COMPLETE_JOURNEY]), help="Or a data set by name.")
@click.option(
    "--store",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The event store; made if missing.",
)
@click.option(
    "--until",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="Leave out events after this instant (UTC).",
)
@click.option(
    "--until-week",
    type=click.IntRange(1, 53),
    help="The same by week number, for data sets that have one.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps the prepared data set, to start faster the next time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def load_events(
    interactions: Path | None,
    dataset: str | None,
    store: Path,
    until: datetime | None,
    until_week: int | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Fill the event STORE with purchases, through the schema's door.

    A data set by name is cleaned as for training; your own table is taken as it is.
    """
    from server.events import SqliteEventStore
    from training.data.stored import cut_at, load, until_ms_of
    from training.progress import steps

    tables = _tables(dataset, interactions, cache)
    rows = cut_at(tables.interactions, until_ms_of(tables, until, until_week))
    with SqliteEventStore(store) as opened, steps() as on_step:
        loaded = load(rows, opened, lambda done: on_step("events", done, rows.height))
    facts = {
        "store": str(store),
        "source": tables.source,
        "rows": loaded.rows,
        "recorded": loaded.recorded,
        "duplicates": loaded.duplicates,
        "users": loaded.users,
        "left_out_after_cut": tables.interactions.height - rows.height,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"read     {loaded.rows:,} events of {loaded.users:,} users from {tables.source}")
    click.echo(f"recorded {loaded.recorded:,} new, {loaded.duplicates:,} known already")


def _one_source(dataset: str | None, interactions: Path | None) -> None:
    if (dataset is None) == (interactions is None):
        raise click.UsageError("Give one of --dataset and --interactions.")


def _tables(dataset: str | None, interactions: Path | None, cache: Path | None) -> Tables:
    from training.data.prepare import prepare_complete_journey
    from training.data.tables import read_tables

    _one_source(dataset, interactions)
    if interactions is not None:
        return read_tables(interactions)
    return prepare_complete_journey(cache).tables


def _prepared(
    dataset: str | None,
    interactions: Path | None,
    items: Path | None,
    users: Path | None,
    cache: Path | None,
) -> Prepared:
    from training.data.prepare import prepare_complete_journey, prepare_files

    _one_source(dataset, interactions)
    if interactions is not None:
        return prepare_files(interactions, items, users)
    if items is not None or users is not None:
        raise click.UsageError("--items and --users go with --interactions.")
    return prepare_complete_journey(cache)
