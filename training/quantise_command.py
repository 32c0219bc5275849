"""`equipoise bundle quantise`: a bundle with a smaller model, and what that lost. Options and what is printed."""

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
    prepared_source,
    protocol_option,
    reading_options,
    users_option,
)

if TYPE_CHECKING:
    from training.data.reading import Reading

# Those of `training.quantise`, which is too heavy to import for --help; a test compares them.
OPERATORS = ("MatMul", "Gather")

EXAMPLES = """\b
Examples:
  equipoise bundle quantise out/demo/bundle --out out/demo/bundle-8bit \\
    --dataset complete-journey
  equipoise bundle quantise my/bundle --out my/small --operators Gather \\
    --interactions purchases.csv --items items.csv

\b
Loss is measured on validation lists, never on test. The new bundle says that
it is quantised (model.quantised) and what it lost (quality.quantisation).
Exit code 0: written, even where it does not pay: the last line says so. 2:
the bundle or a table is refused, or scores are off by more than 0.025."""


@click.command(
    "quantise", epilog=EXAMPLES, short_help="Make a model's weights 8 bits; tell the loss."
)
@click.argument("path", type=EXISTING_FOLDER)
@click.option("--out", type=NEW_FOLDER, required=True, help="The bundle to write (a folder).")
@click.option(
    "--operators",
    type=click.Choice(OPERATORS),
    multiple=True,
    help="Whose weights: of layers (MatMul), of tables of items (Gather); again for both.  "
    "[default: both]",
)
@click.option(
    "--most-users",
    type=click.IntRange(10),
    default=5_000,
    show_default=True,
    help="Measure on the lists of so many, drawn by the seed, where there are more.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@dataset_option
@interactions_option
@events_option
@protocol_option
@items_option
@users_option
@reading_options
@cache_option
@json_option
def quantise(
    path: Path,
    out: Path,
    operators: tuple[str, ...],
    most_users: int,
    seed: int,
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    protocol: str | None,
    items: Path | None,
    users: Path | None,
    reading: Reading,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Make a bundle like PATH with its model's weights in 8 bits, and measure what that lost.

    The data is what PATH was made from.
    """
    from server.bundle import check_target, write_bundle
    from training.progress import steps
    from training.quantise import lines_of, quantised_parts

    check_target(out)
    prepared = prepared_source(
        dataset, interactions, events, items, users, cache, protocol, reading
    )
    with steps() as on_step:
        parts, loss = quantised_parts(
            path, prepared, operators or OPERATORS, users=most_users, seed=seed, on_step=on_step
        )
    manifest = write_bundle(parts, out)
    if as_json:
        click.echo(json.dumps({"bundle_id": manifest.bundle_id, **loss.as_json()}))
        return
    click.echo("\n".join([f"{manifest.bundle_id} is in {out}", *lines_of(loss)]))
