"""`python -m bench.chaos COMMAND`: faults and overload on purpose, with pass marks.

Thin: whatever is heavy is imported when a command runs. Exit code 0 whatever the marks say, unless
`--strict` is given: the table tells by how much a mark was missed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bench.chaos.marks import Mark

OUT = click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows as JSON."
)
STRICT = click.option("--strict", is_flag=True, help="Exit code 1 when a mark was missed.")
SEED = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True,
    help="The same seed, the same requests and order of faults.",
)  # fmt: skip


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """What the server promises under faults and overload, tried."""


def finish(
    title: str, kind: str, marks: Sequence[Mark], began_s: float, out: Path | None, strict: bool
) -> None:
    """Show the rows, write them, and exit."""
    from bench.chaos.marks import keep, show

    seconds = time.monotonic() - began_s
    show(f"{title}, {seconds:.0f} s", marks)
    if out is not None:
        keep(out, kind, marks, seconds, title=title)
    sys.exit(1 if strict and any(mark.missed for mark in marks) else 0)


def in_folder(work: Callable[[Path], Any]) -> Any:
    """Do it in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="equipoise-chaos-") as folder:
        return work(Path(folder))


@main.command()
@click.option("--good", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--bad", type=click.IntRange(min=0), default=50, show_default=True)
@click.option("--workers", type=click.IntRange(1, 16), default=1, show_default=True)
@click.option(
    "--items",
    type=click.IntRange(1_000, 2_000_000),
    default=2_000,
    show_default=True,
    help="How many items a release knows: larger ones take longer to load beside the callers.",
)
@SEED
@OUT
@STRICT
def swaps(
    good: int, bad: int, workers: int, items: int, seed: int, out: Path | None, strict: bool
) -> None:
    """T3: releases exchanged under load, good ones and damaged ones."""
    from bench.chaos.swaps import make_bundles, marks, run
    from bench.progress import bar

    began_s = time.monotonic()
    with bar("swaps", 1.0, left=True) as progress:
        found = in_folder(
            lambda folder: run(
                folder, make_bundles(folder, items=items), good=good, bad=bad, workers=workers, seed=seed,
                progress=progress,
            )
        )  # fmt: skip
    title = f"{good} good swaps and {bad} damaged releases under load, {workers} worker(s)"
    finish(title, "chaos_swaps", marks(found), began_s, out, strict)


if __name__ == "__main__":
    main()
