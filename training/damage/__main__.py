"""`python -m training.damage`: options, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from server.program import run_program
from training.damage.plant import KINDS, Fault, damaged_parts
from training.options import (
    EXISTING_FOLDER,
    NEW_FOLDER,
    cache_option,
    dataset_option,
    events_option,
    interactions_option,
    items_option,
    prepared_source,
    protocol_option,
    reading_options,
    users_option,
)

if TYPE_CHECKING:
    from training.data.reading import Reading

EXAMPLES = """\b
Examples:
  python -m training.damage out/demo/bundle --fault shuffled --out out/bad \\
    --dataset complete-journey
  python -m training.damage out/demo/bundle --fault leak --attribute income \\
    --dataset complete-journey --out out/bad
  python -m training.damage out/demo/bundle --fault floor --out out/bad \\
    --policy provider-tiers --group small --dataset complete-journey

\b
shuffled  scores are noise
worse     NDCG of the plain list is lower by the share --by
zeroed    the features of all users of one --label of --attribute are 0
leak      each group of --attribute sees its own part of the catalogue first
slower    a list takes --slower-us more in the model
floor     the floor of --group in --policy is a place of a list lower
none      nothing, but the bundle is written anew"""


@click.command(epilog=EXAMPLES)
@click.argument("path", type=EXISTING_FOLDER)
@click.option("--fault", "kind", type=click.Choice(KINDS), required=True, help="Which.")
@click.option("--out", type=NEW_FOLDER, required=True, help="The bundle to write (a folder).")
@click.option(
    "--by", type=click.FloatRange(0.001, 0.5), default=0.01, show_default=True,
    help="Of 'worse': the share of NDCG that is lost.",
)  # fmt: skip
@click.option("--attribute", default="", help="Of 'zeroed' and 'leak': which of users.")
@click.option("--label", default="", help="Of 'zeroed': whose features.")
@click.option(
    "--slower-us", type=click.FloatRange(1, 1e6), default=500.0, show_default=True,
    help="Of 'slower': microseconds.",
)  # fmt: skip
@click.option("--policy", default="", help="Of 'floor': which policy.")
@click.option("--group", default="", help="Of 'floor': whose floor.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@dataset_option
@interactions_option
@events_option
@protocol_option
@items_option
@users_option
@reading_options
@cache_option
def main(
    path: Path, kind: str, out: Path, by: float, attribute: str, label: str, slower_us: float,
    policy: str, group: str, seed: int, dataset: str | None, interactions: Path | None,
    events: Path | None, protocol: str | None, items: Path | None, users: Path | None,
    reading: Reading, cache: Path | None,
) -> None:  # fmt: skip
    """Write a bundle like PATH with one fault in it: for tests of a gate, never to serve.

    The data is what PATH is evaluated on. Prints one JSON object: what was done, as measured.
    """
    from server.bundle import check_target, write_bundle
    from training.progress import steps

    if kind in ("zeroed", "leak") and not attribute:
        raise click.UsageError(f"--fault {kind} needs --attribute")
    check_target(out)
    prepared = prepared_source(
        dataset, interactions, events, items, users, cache, protocol, reading
    )
    fault = Fault(kind, by, attribute, label, slower_us, policy, group)
    with steps() as on_step:
        parts, about = damaged_parts(path, prepared, fault, seed=seed, on_step=on_step)
    manifest = write_bundle(parts, out)
    click.echo(json.dumps({"bundle_id": manifest.bundle_id, **about}))


if __name__ == "__main__":
    run_program(main)
