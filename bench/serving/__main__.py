"""`python -m bench.serving`: flags in, tables out."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import click


@click.command(context_settings={"max_content_width": 80})
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--short", is_flag=True, help="A round of few lists: does it run?")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def main(rounds: int, short: bool, seed: int, out: Path | None, as_json: bool) -> None:
    """What a list costs in a live server, by the way it is asked for."""
    from bench.progress import bar
    from bench.serving.measure import LOADS, measure
    from bench.serving.report import document, show
    from bench.whole import write_whole

    loads = LOADS
    if short:
        loads, rounds = tuple(replace(load, lists=64) for load in LOADS), 1
    with tempfile.TemporaryDirectory() as folder, bar("bench-serving", 1.0) as progress:
        found = measure(Path(folder), loads, rounds, seed, progress)
    told = document(found) | {"seed": seed, "rounds": rounds}
    if out is not None:
        write_whole(out, json.dumps(told, indent=1))
    if as_json:
        click.echo(json.dumps(told))
    else:
        show(found)


if __name__ == "__main__":
    main()
