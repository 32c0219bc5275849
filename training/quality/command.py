"""The command `equipoise quality`: options, and what is printed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.options import (
    NEW_FOLDER,
    cache_option,
    dataset_option,
    events_option,
    interactions_option,
    items_option,
    json_option,
    prepared_source,
    protocol_option,
    reading_options,
    users_option,
)

if TYPE_CHECKING:
    from training.data.reading import Reading

EXAMPLES = """\b
Examples:
  equipoise quality --dataset complete-journey --fair-by income --out out/cj
  equipoise quality --interactions bought.csv --items items.csv --out out/mine
  equipoise quality --interactions seqs.txt --length 10 --rows auto --out q

\b
Eight baselines, the article's two towers and its formula, SASRec, the ranker
over pair features, what validation chooses (each with its refit stated), fair
losses, feature groups, seeds and policies. As long as so many trainings:
what is measured is kept in OUT/rows, so the same command goes on after a
stop.
Writes quality-table.json and quality-table.txt."""


@click.command(
    "quality", epilog=EXAMPLES, short_help="Every baseline and every model family, in one table."
)
@dataset_option
@interactions_option
@events_option
@protocol_option
@items_option
@users_option
@reading_options
@click.option("--out", type=NEW_FOLDER, required=True, help="Folder for results and bundles.")
@click.option(
    "--length", type=click.IntRange(1, 100), default=20, show_default=True, help="The k of NDCG@k."
)
@click.option(
    "--fair-by", help="Also train with fair losses by this user attribute, such as income."
)
@click.option(
    "--rows",
    help="Only these, with commas between; the baselines are always there.  [default: all]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 20),
    default=3,
    show_default=True,
    help="Seeds of the ranker: how much a figure moves by chance.",
)
@click.option("--resamples", type=click.IntRange(100, 100_000), default=2000, show_default=True)
@click.option("--quick", is_flag=True, help="Small models, one seed: to try the command out.")
@cache_option
@json_option
def quality(
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    protocol: str | None,
    items: Path | None,
    users: Path | None,
    reading: Reading,
    out: Path,
    length: int,
    fair_by: str | None,
    rows: str | None,
    seeds: int,
    resamples: int,
    quick: bool,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Train and measure everything on one collection: the test window is looked at once, at the end."""
    from rich.console import Console

    from training.progress import steps
    from training.quality.measured import Asked
    from training.quality.run import Plan, run
    from training.quality.table import text
    from training.report import write_file
    from training.settings import SequenceSettings, TrainSettings

    settings, sequence = TrainSettings(), SequenceSettings()
    if quick:
        settings, sequence = TrainSettings.quick(), replace(sequence, epochs=2, steps=20)
    plan = Plan(
        settings,
        sequence,
        fair_by,
        tuple(name.strip() for name in (rows or "").split(",") if name.strip()),
        1 if quick else seeds,
        resamples,
    )
    plan.rows()
    prepared = prepared_source(
        dataset, interactions, events, items, users, cache, protocol, reading
    )
    console = Console(stderr=True, highlight=False, emoji=False)
    with steps() as on_step:
        made = run(Asked(prepared, length), plan, out, console, on_step)
    written = json.dumps(made, indent=1, allow_nan=False)
    write_file(out / "quality-table.json", (written + "\n").encode())
    write_file(out / "quality-table.txt", (text(made) + "\n").encode())
    click.echo(json.dumps(made, allow_nan=False) if as_json else text(made))
