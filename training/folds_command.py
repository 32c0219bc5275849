"""The command `equipoise cross-validate`: options, and what is printed.

Whatever is heavy is imported when the command runs, so that `--help` is quick.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.options import (
    COMPLETE_JOURNEY,
    LEAVE_ONE_OUT,
    NEW_FOLDER,
    SEQUENCES,
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
from training.train_options import FAMILIES, base_settings

if TYPE_CHECKING:
    from training.data.reading import Reading

EXAMPLES = """\b
Examples:
  equipoise cross-validate --interactions bought.csv --items items.csv \\
    --folds 3 --out out/folds
  equipoise cross-validate --dataset complete-journey --quick --out out/folds

\b
Trains anew for each fold: that many times as long as 'equipoise train'.
Fold 1 is one test window before the cuts of 'train' and 'evaluate', fold 2
two, and so on; the test window of 'evaluate' is not looked at.
Writes folds.json, folds.txt, index.html and the bundle of each fold.
Exit code 2: the data does not reach back far enough, or a table is refused."""


@click.command(
    "cross-validate",
    epilog=EXAMPLES,
    short_help="Train and measure at several earlier moments.",
)
@dataset_option
@interactions_option
@events_option
@protocol_option
@items_option
@reading_options
@click.option(
    "--folds",
    type=click.IntRange(1, 20),
    default=3,
    show_default=True,
    help="How many earlier moments: more show better how quality moves with time.",
)
@click.option(
    "--out",
    type=NEW_FOLDER,
    required=True,
    help="Folder for results and bundles; made if missing.",
)
@click.option(
    "--length",
    type=click.IntRange(1, 100),
    default=20,
    show_default=True,
    help="How long lists are: the k of NDCG@k.",
)
@click.option(
    "--family",
    type=click.Choice(FAMILIES),
    default="pairs",
    show_default=True,
    help="As for 'equipoise train'; each fold trains it anew.",
)
@click.option(
    "--quick", is_flag=True, help="A small model in little time, as for 'equipoise train'."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Everything random.")
@cache_option
@json_option
def cross_validate(
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    protocol: str | None,
    items: Path | None,
    reading: Reading,
    folds: int,
    out: Path,
    length: int,
    family: str,
    quick: bool,
    seed: int,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Rolling origin: the same training at earlier moments, each measured on what came next.

    One row for each fold, against the baseline that is best there; then mean and spread.
    """
    from rich.console import Console

    from training.folds import FoldProtocol
    from training.folds import cross_validate as measure
    from training.pages.page import folds_page
    from training.progress import steps
    from training.report import PAGE_FILE, write_file

    prepared = prepared_source(dataset, interactions, events, items, None, cache, protocol, reading)
    settings = base_settings(None, quick, seed, family)
    in_order = protocol == LEAVE_ONE_OUT or (
        interactions is not None and interactions.suffix == SEQUENCES
    )
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, highlight=False, emoji=False)
    with steps() as on_step:
        document = measure(
            prepared,
            settings,
            n_folds=folds,
            min_item_purchases=_min_purchases(dataset, in_order),
            work=out,
            console=console,
            protocol=FoldProtocol(k=length),
            on_step=on_step,
            on_fold=lambda row: console.print(f"fold {row['fold']}: done", markup=False),
        )
    told = text(document)
    write_file(out / "folds.txt", told.encode())
    write_file(out / PAGE_FILE, folds_page(document).encode())
    written = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_file(out / "folds.json", written.encode())
    if as_json:
        click.echo(json.dumps(document, allow_nan=False))
        return
    click.echo(told)
    click.echo(f"wrote    folds.json, folds.txt and {PAGE_FILE} into {out}")


def _min_purchases(dataset: str | None, in_order: bool) -> int:
    """How often an item must have been bought, as the preparation of that source asks."""
    import inspect

    from training.data.prepare import prepare_complete_journey, prepare_tables

    if in_order:
        return 1
    of = prepare_complete_journey if dataset == COMPLETE_JOURNEY else prepare_tables
    return int(inspect.signature(of).parameters["min_item_purchases"].default)


def text(document: dict[str, Any]) -> str:
    """The folds as a table for a terminal."""
    from training.pages.figures import TITLES
    from training.pages.words import number, span

    k = document["protocol"]["k"]
    lines = [
        f"data     {document['dataset']['source']}; {document['protocol']['split']}",
        f"folds    {document['protocol']['n_folds']}, each {document['protocol']['step_days']:.0f} days "
        "before the next; oldest first",
        "",
        f"{'learned until':<15}{'users':>7}  {f'NDCG@{k}':<8}{'best baseline there':<42}{'lead':<9}",
    ]
    metric = f"ndcg_at_{k}"
    for row in document["folds"]:
        mine, other, gap = (
            row["metrics"][f"{metric}{which}"]
            for which in ("", "_best_baseline", "_minus_best_baseline")
        )
        best = f"{number(other['value'])} {TITLES[other['name']]}"
        lines.append(
            f"{row['cut_day']:<15}{row['n_users']:>7,}  {number(mine['value']):<8}{best:<42}"
            f"{number(gap['value'], signed=True)} {span(gap)}"
        )
    lines += ["", f"{'over folds':<30}{'mean':>10}{'spread':>10}{'lowest':>10}{'highest':>10}"]
    for name, title in (
        (f"ndcg_at_{k}", f"NDCG@{k}"),
        (f"ndcg_at_{k}_minus_best_baseline", "  lead over best baseline"),
        (f"first_basket_recall_at_{k}", f"first-basket recall@{k}"),
        (f"first_basket_recall_at_{k}_minus_best_baseline", "  lead over best baseline"),
        (f"novel_ndcg_at_{k}", f"novel NDCG@{k}"),
        (f"novel_ndcg_at_{k}_minus_best_baseline", "  lead over best baseline"),
    ):
        one = document["over_folds"][name]
        cells = "".join(
            f"{number(one[key]):>10}" for key in ("mean", "spread", "lowest", "highest")
        )
        lines.append(f"{title:<30}{cells}")
    return "\n".join(lines) + "\n"
