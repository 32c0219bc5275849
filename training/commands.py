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

from training.options import (
    EXISTING_FOLDER,
    NEW_FILE,
    NEW_FOLDER,
    cache_option,
    dataset_option,
    events_option,
    interactions_option,
    items_option,
    json_option,
    min_users_option,
    prepared_source,
    protocol_option,
    reading_options,
    tables_of_source,
    users_option,
)
from training.train_options import FAMILIES, RunOptions, base_settings, run_options

if TYPE_CHECKING:
    from training.data.reading import Reading

# Enough that a short load repeats few, small enough to read.
REQUESTS = 400

TRAIN_EXAMPLES = """\b
Examples:
  equipoise train --dataset complete-journey --out out/bundle
  equipoise train --interactions bought.csv --items items.csv \\
    --out out/bundle
  equipoise train --interactions orders.tsv --column user=customer \\
    --column time=at --users users.csv --dry-run
  equipoise train --events events.db --items items.csv --final \\
    --out out/bundle
  equipoise train --dataset complete-journey --fair-by income --out out/fair

\b
Interactions: columns user, item, time; optional kind, basket, quantity,
value, rating.
Items: column item; optional name, category_path, provider, brand.
Users: column user; every other column is an attribute, and no feature.
The fourth example learns from feedback too. After a kill the same command
with --resume goes on from the last whole epoch; without it, at the start.
Exit code 2: a table is refused (column, number of rows, an example), a
feature knows the labels, a loss is no number (stage, epoch, step, seed), or
onnxruntime does not give what torch gave. No bundle is written then."""

EVALUATE_EXAMPLES = """\b
Examples:
  equipoise evaluate --bundle out/demo/bundle --dataset complete-journey \\
    --out out/quality
  equipoise evaluate --bundle my/bundle --interactions purchases.csv \\
    --items items.csv --out q

\b
Writes index.html (the whole report in one file, for a browser), quality.json
(every number; read by 'equipoise gate'), model_card.md, per_user.npz,
quality.txt and pictures.
Exit code 2: the bundle learned from events after the cut, or a table is
refused."""

LOAD_EXAMPLES = """\b
Examples:
  equipoise events load --interactions purchases.parquet --store events.db
  equipoise events load --dataset complete-journey --until-week 50 \\
    --store out/demo/events.db

\b
Interactions need the columns user, item and time (timestamps, ISO 8601 text,
or whole s, ms, us or ns since 1970). Event ids are made from the rows, so
loading a file twice adds nothing.
Exit code 2: a table is refused; the message names column, number of rows
and an example."""


@click.command(
    "train", epilog=TRAIN_EXAMPLES, short_help="Train a model and make a release bundle of it."
)
@dataset_option
@interactions_option
@events_option
@protocol_option
@items_option
@users_option
@reading_options
@click.option(
    "--out",
    type=NEW_FOLDER,
    help="The bundle to write (a folder).",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Only describe the data: what is in it, what is dropped, the cuts, groups, warnings.",
)
@click.option("--name", help="The bundle's name.  [default: made from the data's]")
@click.option(
    "--policies",
    type=EXISTING_FOLDER,
    help="Folder of policy documents (see docs/policies.md).  [default: those that come with "
    "Equipoise and fit the data]",
)
@click.option(
    "--default-policy",
    help="The policy for requests that name none.  [default: provider-tiers, or the only one]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="Everything random.  [default: 0, or that of --settings]",
)
@click.option(
    "--final",
    is_flag=True,
    help="Learn from the last weeks too, which are otherwise held out for 'evaluate': for the "
    "release after a passed evaluation.",
)
@click.option(
    "--family",
    type=click.Choice(FAMILIES),
    help="'pairs': features of user and item. 'auto': a sequence model's score among them too, if "
    "validation gains by it; it says so. 'recanet': the gaps between a user's purchases of an item. "
    "The others: a model of histories by itself. Those are there to compare with.  [default: auto, or "
    "pairs with --quick]",
)
@click.option(
    "--no-refit",
    is_flag=True,
    help="Ship what tuning found, which has seen nothing of the validation window: to compare with "
    "published figures.",
)
@click.option("--quick", is_flag=True, help="A small model in little time: not one to ship.")
@run_options
@cache_option
@json_option
def train(
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    protocol: str | None,
    items: Path | None,
    users: Path | None,
    reading: Reading,
    out: Path | None,
    dry_run: bool,
    name: str | None,
    policies: Path | None,
    default_policy: str | None,
    seed: int | None,
    final: bool,
    family: str | None,
    no_refit: bool,
    quick: bool,
    cache: Path | None,
    as_json: bool,
    run: RunOptions,
) -> None:
    """Make a release bundle from purchases: prepare, tune, refit, export, gate, write."""
    from rich.console import Console

    from training.describe_text import describe_and_tell

    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out'; without a bundle: --dry-run.")
    from training import tracking
    from training.device import device_of

    # What can be refused without the data is.
    if final and no_refit:
        raise click.UsageError("--final and --no-refit exclude each other.")
    settings = base_settings(run.settings, quick, seed, family)
    device = device_of(run.device)
    tracker = tracking.require() if run.mlflow else None
    prepared = prepared_source(
        dataset, interactions, events, items, users, cache, protocol, reading
    )
    if out is None or dry_run:
        describe_and_tell(prepared, policies, default_policy, as_json)
        return
    from training.pipeline import Pipeline
    from training.train_output import facts_of, lines_of

    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(str(prepared.cleaning), markup=False)
    source = dataset or (interactions or events or out).stem
    replaced = _bundle_at(out)
    released = Pipeline(prepared, settings, console, fair=run.fair(), device=device).run(
        name=name or _bundle_name(source),
        policies=policies,
        default_policy=default_policy,
        out=out,
        final=final,
        refit=not no_refit,
        resume=run.resume,
        keep_checkpoints=run.keep_checkpoints,
    )
    if as_json:
        click.echo(json.dumps(facts_of(released, out, replaced)))
    else:
        click.echo("\n".join(lines_of(released, out, replaced, final)))
    if tracker is not None:
        tracking.log_run(tracker, released, settings)


def _bundle_at(path: Path) -> str | None:
    """The id of the bundle that stands there now."""
    try:
        return str(json.loads((path / "manifest.json").read_bytes())["bundle_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _bundle_name(source: str) -> str:
    kept = "".join(char if char.isascii() and char.isalnum() else "-" for char in source.lower())
    return kept.strip("-")[:64] or "bundle"


@click.command(
    "evaluate",
    epilog=EVALUATE_EXAMPLES,
    short_help="Measure a bundle's lists on held-out purchases.",
)
@click.option(
    "--bundle",
    "bundle_path",
    type=EXISTING_FOLDER,
    required=True,
    help="The bundle to measure.",
)
@dataset_option
@interactions_option
@events_option
@protocol_option
@items_option
@users_option
@reading_options
@click.option(
    "--out",
    type=NEW_FOLDER,
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
    "--length",
    type=click.IntRange(1, 100),
    default=20,
    show_default=True,
    help="How long lists are: the k of NDCG@k.",
)
@click.option(
    "--group-by",
    help="User attributes to report groups of, such as income,age.  [default: all with few values]",
)
@min_users_option
@click.option("--resamples", type=click.IntRange(100, 100_000), default=2000, show_default=True)
@click.option("--seed", type=int, default=20, show_default=True, help="Seed of the bootstrap.")
@cache_option
@click.option(
    "--requests-out",
    type=NEW_FILE,
    help="Also write requests of the evaluated users (JSON lines), for 'equipoise load'.",
)
@json_option
def evaluate(
    bundle_path: Path,
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    protocol: str | None,
    items: Path | None,
    users: Path | None,
    reading: Reading,
    out: Path,
    on: str,
    length: int,
    group_by: str | None,
    min_users: int,
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
    from training.report import RESULTS_FILE, text, write_file, write_results
    from training.requests import request_lines

    bundle = load_bundle(bundle_path)
    prepared = prepared_source(
        dataset, interactions, events, items, users, cache, protocol, reading
    )
    attributes = (
        None if group_by is None else tuple(n.strip() for n in group_by.split(",") if n.strip())
    )
    how = Protocol(
        on=on, k=length, resamples=resamples, seed=seed, user_attributes=attributes,
        min_users=min_users,
    )  # fmt: skip
    with steps() as on_step:
        evaluation = measure(bundle, prepared, how, on_step)
    written = write_results(evaluation, out)
    if requests_out is not None:
        until_ms = bundle.manifest.data.until_unix_ms
        evaluated = evaluation.per_user["user_id"].tolist()
        lines = request_lines(prepared.dataset.until(until_ms), evaluated, REQUESTS, seed)
        write_file(requests_out, ("\n".join(lines) + "\n").encode())
    if as_json:
        # With the digest of the arrays, which only what was written has.
        written_results = json.loads((out / RESULTS_FILE).read_text(encoding="utf-8"))
        click.echo(json.dumps(written_results, allow_nan=False))
        return
    click.echo(text(evaluation.results))
    click.echo(f"wrote    {', '.join(sorted(path.name for path in written))} into {out}")


@click.command("load", epilog=LOAD_EXAMPLES)
@interactions_option
@reading_options
@dataset_option
@click.option(
    "--store",
    type=NEW_FILE,
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
@cache_option
@json_option
def load_events(
    interactions: Path | None,
    reading: Reading,
    dataset: str | None,
    store: Path,
    until: datetime | None,
    until_week: int | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Fill the event STORE with purchases, through the schema's door.

    A data set by name is cleaned as for training. Of your own table the rows of one item in one
    basket are added up, as training does.
    """
    from server.events import SqliteEventStore
    from training.data.clean import merged_baskets
    from training.data.stored import cut_at, load, until_ms_of
    from training.progress import steps

    tables = tables_of_source(dataset, interactions, cache, reading)
    merged = merged_baskets(tables.interactions)
    rows = cut_at(merged, until_ms_of(tables, until, until_week))
    with SqliteEventStore(store) as opened, steps() as on_step:
        loaded = load(rows, opened, lambda done: on_step("events", done, rows.height))
    facts = {
        "store": str(store),
        "source": tables.source,
        "rows": loaded.rows,
        "recorded": loaded.recorded,
        "duplicates": loaded.duplicates,
        "users": loaded.users,
        "added_up_in_basket": tables.interactions.height - merged.height,
        "left_out_after_cut": merged.height - rows.height,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"read     {loaded.rows:,} events of {loaded.users:,} users from {tables.source}")
    click.echo(f"recorded {loaded.recorded:,} new, {loaded.duplicates:,} known already")


SYNTHETIC_EXAMPLES = """\b
Examples:
  equipoise bundle synthetic --items 20000 --out out/synthetic
  equipoise bundle synthetic --items 1000000 --reads pair-features --out big

For load tests: an untrained model over made-up items. What its lists cost is what those of a
trained model of the same shape cost; what is on them means nothing."""


@click.command("synthetic", epilog=SYNTHETIC_EXAMPLES)
@click.option(
    "--items",
    type=click.IntRange(50, 5_000_000),
    default=20_000,
    show_default=True,
    help="How many items the catalogue has.",
)
@click.option(
    "--reads",
    type=click.Choice(["history", "pair-features"]),
    default="history",
    show_default=True,
    help="What the model reads: a sequence model, or one over pair features.",
)
@click.option(
    "--history-length",
    type=click.IntRange(1, 1_000),
    default=50,
    show_default=True,
    help="How many items of the history a model that reads it gets.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True)
@click.option("--out", type=NEW_FOLDER, required=True, help="The bundle (a folder).")
def synthetic_bundle(items: int, reads: str, history_length: int, seed: int, out: Path) -> None:
    """Make a bundle of a made-up catalogue, to load-test without data."""
    from typing import cast

    from server.bundle import write_bundle
    from training.synthetic import Reads, synthetic_parts

    parts = synthetic_parts(items, cast(Reads, reads), history_length, seed)
    manifest = write_bundle(parts, out)
    click.echo(
        f"{manifest.bundle_id}: {items:,} items, reads {reads}; equipoise serve --bundle {out}"
    )
