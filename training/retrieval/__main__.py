"""`python -m training.retrieval`: flags in, table out."""

from __future__ import annotations

import json
from pathlib import Path

import click

LEAST, MOST = 1_000, 1_500_000


def _sizes(_context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    found = []
    for one in text.split(","):
        try:
            items = int(float(one))
        except (ValueError, OverflowError):
            items = -1
        if not LEAST <= items <= MOST:
            raise click.BadParameter(
                f"got {one.strip()!r}, allowed: numbers of items from {LEAST:,} to {MOST:,} with commas "
                "between, such as 2e4,2e5",
                param=option,
            )
        found.append(items)
    return tuple(sorted(set(found)))


@click.command(context_settings={"max_content_width": 90})
@click.option("--sizes", default="2e4,2e5,1e6", show_default=True, callback=_sizes, help="Items.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures as JSON."
)
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def main(sizes: tuple[int, ...], seed: int, out: Path | None, as_json: bool) -> None:
    """Candidates from made-up catalogues of several sizes: recall against exact search, and time."""
    from training.checkpoints import write_whole
    from training.retrieval.measure import lines, measured

    rows = [measured(items, seed, lambda what: click.echo(what, err=True)) for items in sizes]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, (json.dumps({"sizes": rows}, indent=1) + "\n").encode(), "the figures")
    click.echo(json.dumps({"sizes": rows}) if as_json else "\n".join(lines(rows)))


if __name__ == "__main__":
    main()
