"""`python -m bench.gate_trial`: serve, damage, measure, judge, and print which line saw what."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from bench.gate_trial.faults import faults
from bench.gate_trial.measured import damaged, evaluated, slowed
from bench.gate_trial.trial import (
    Row,
    Trial,
    budgets_with_policies,
    document,
    judged,
    row_of,
    table,
)
from bench.whole import write_whole
from server.program import run_program

BUDGETS = Path(__file__).resolve().parents[1] / "budgets/selftest.toml"
SLOWER = 0.2
AT_A_TIME = 2

EXAMPLES = """\b
Examples:
  python -m bench.gate_trial --bundle out/demo/bundle --out out/trial \\
      --data=--dataset --data=complete-journey
  python -m bench.gate_trial --bundle my/bundle --out out/trial \\
      --data=--interactions --data=bought.csv --budgets my/budgets.toml

\b
Exit code 0: each fault was seen by its line, and servers of one bundle raised
no alarm. 1: not so. Writes trial.json and trial.txt, and keeps what each
candidate was judged by; evaluations that are there are not made again."""


@click.command(epilog=EXAMPLES)
@click.option(
    "--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True,
    help="The baseline; trained up to the test window.",
)  # fmt: skip
@click.option(
    "--data", multiple=True, required=True, help="A word of the data's flags; once for each."
)
@click.option(
    "--budgets", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=BUDGETS,
    help="Without [policies].  [default: bench/budgets/selftest.toml]",
)  # fmt: skip
@click.option("--attribute", default="income", show_default=True, help="Of users.")
@click.option("--label", default="under 35K", show_default=True, help="Whose features are lost.")
@click.option("--policy", default="provider-tiers", show_default=True, help="Whose floor is lower.")
@click.option("--group", default="small", show_default=True, help="Its floor.")
@click.option("--only", multiple=True, help="These faults, or 'none'; again for each.")
@click.option(
    "--alike", type=click.IntRange(1, 100), default=10, show_default=True,
    help="Runs of two servers of the one bundle.",
)  # fmt: skip
@click.option("--pairs", type=click.IntRange(3, 60), default=8, show_default=True,
              help="Loads of each server, by turns.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1, 600), default=4.0, show_default=True,
              help="Of each load.")  # fmt: skip
@click.option("--examples", type=click.IntRange(1), default=10, show_default=True,
              help="Of each property of the theorems.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder."
)
def main(
    bundle: Path, data: tuple[str, ...], budgets: Path, attribute: str, label: str, policy: str,
    group: str, only: tuple[str, ...], alike: int, pairs: int, seconds: float, examples: int,
    seed: int, out: Path,
) -> None:  # fmt: skip
    """Plant faults in a bundle, judge each as a release, and say which line saw it."""
    click.echo("evaluating the baseline", err=True)
    quality = evaluated(bundle, out / "baseline/quality", data)
    written = budgets_with_policies(
        budgets, quality, out / "budgets.toml", [policy] if policy else []
    )
    trial = Trial(bundle, quality, written, pairs, seconds, examples, seed)
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        click.echo(table([row]).splitlines()[1], err=True)

    for number in range(alike if not only or "none" in only else 0):
        verdict = judged(trial, bundle, quality, out / f"alike-{number + 1}", number)
        add(row_of(f"none, {number + 1}", "two servers of one bundle", "", verdict))
    planted = [
        fault for fault in faults(attribute, label, policy, group)
        if not only or fault.name in only
    ]  # fmt: skip
    # One after the other: how much slower is a matter of time.
    done = {}
    for fault in planted:
        click.echo(f"damaging: {fault.name}, {fault.told}", err=True)
        spoiled = out / fault.name / "bundle"
        if fault.name == "slower":
            made = slowed(bundle, spoiled, SLOWER, data, seed + 10_000, _say)
        else:
            made = damaged(bundle, spoiled, fault.name, fault.flags, data)
        done[fault.name] = made
        write_whole(out / fault.name / "damage.json", json.dumps(made) + "\n")
    click.echo(f"evaluating {len(planted)} bundles", err=True)
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        evaluations = list(
            pool.map(
                lambda fault: evaluated(
                    out / fault.name / "bundle", out / fault.name / "quality", data
                ),
                planted,
            )
        )
    for number, (fault, found) in enumerate(zip(planted, evaluations, strict=True)):
        folder = out / fault.name
        verdict = judged(trial, folder / "bundle", found, folder, alike + number)
        told = fault.told
        if (ratio := done[fault.name].get("p50_ratio")) is not None:
            told = f"a list takes {ratio - 1:.0%} longer"
        add(row_of(fault.name, told, fault.seen_by, verdict))
    text = table(rows)
    write_whole(out / "trial.json", json.dumps(document(rows, trial), indent=1) + "\n")
    write_whole(out / "trial.txt", text + "\n")
    click.echo(text)
    sys.exit(0 if all(row.right for row in rows) else 1)


def _say(text: str) -> None:
    click.echo(f"  {text}", err=True)


if __name__ == "__main__":
    run_program(main)
