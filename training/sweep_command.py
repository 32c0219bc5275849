"""`equipoise sweep`: the best train settings on validation, as a file for `equipoise train --settings`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from training.options import (
    EXISTING_FILE,
    NEW_FILE,
    cache_option,
    dataset_option,
    events_option,
    interactions_option,
    items_option,
    json_option,
    prepared_source,
    protocol_option,
    reading_options,
)
from training.train_options import base_settings

if TYPE_CHECKING:
    from training.data.reading import Reading

EXAMPLES = """\b
Examples:
  equipoise sweep --dataset complete-journey --trials 40 --out best.toml
  equipoise train --dataset complete-journey --settings best.toml \\
    --out out/bundle

\b
Swept are learning_rate, weight_decay, hidden and lists_per_step of the
ranker; the first trial is the settings at the start. Only the validation
window is looked at. A sweep that is stopped goes on with the same command,
from OUT.study.db, to the same trials."""


@click.command(
    "sweep", epilog=EXAMPLES, short_help="Look for better train settings, on validation only."
)
@dataset_option
@interactions_option
@events_option
@protocol_option
@items_option
@reading_options
@click.option(
    "--out",
    type=NEW_FILE,
    required=True,
    help="The best settings: a .toml, or a .json.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 10_000),
    default=30,
    show_default=True,
    help="How many settings to try, those of an earlier start included.",
)
@click.option("--study", type=NEW_FILE, help="Optuna's database.  [default: OUT.study.db]")
@click.option("--settings", type=EXISTING_FILE, help="A file of settings to start from.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Everything random.  [default: 0]")
@click.option("--quick", is_flag=True, help="Start from the small settings of 'train --quick'.")
@cache_option
@json_option
def sweep(
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    protocol: str | None,
    items: Path | None,
    reading: Reading,
    out: Path,
    trials: int,
    study: Path | None,
    settings: Path | None,
    seed: int | None,
    quick: bool,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Try settings of the ranker with Optuna, and write the best as a file for 'train --settings'."""
    from rich.console import Console

    from training.checkpoints import write_whole
    from training.pipeline import Pipeline
    from training.settings_file import settings_text
    from training.sweep import sweep as look_for

    base = base_settings(settings, quick, seed, "pairs")
    prepared = prepared_source(dataset, interactions, events, items, None, cache, protocol, reading)
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(str(prepared.cleaning), markup=False)
    pipeline = Pipeline(prepared, base, console)
    tuning, validation = pipeline.lists.tuning()
    found = look_for(
        tuning, validation, base, trials, study or out.with_name(f"{out.name}.study.db"),
        pipeline.data_key(),
        lambda text: console.print(text, markup=False, emoji=False),
    )  # fmt: skip
    write_whole(out, settings_text(found.best, out.suffix).encode(), "the best settings")
    if as_json:
        facts = {
            "out": str(out),
            "validation_ndcg_at_20": found.ndcg,
            "validation_ndcg_at_20_at_start": found.ndcg_at_start,
            "validation_users": len(validation),
            "trials": found.trials,
            "given_up": found.given_up,
        }
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"best     validation NDCG@20 {found.ndcg:.4f}, {found.ndcg_at_start:.4f} at the start; "
        f"{found.trials} trials, {found.given_up} of them given up early"
    )
    click.echo("         the best of so many is a little lucky: 'evaluate' tells what it is worth")
    click.echo(settings_text(found.best, out.suffix).rstrip())
    click.echo(f"wrote    {out}")
