"""`python -m training.scale`: flags in, table out."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import click

from server.errors import Refused
from training.scale.report import document, lines

LEAST, MOST = 5_000, 10**9


def _sizes(_context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    found = []
    for one in text.split(","):
        try:
            events = int(float(one))
        except (ValueError, OverflowError):
            events = -1
        if not LEAST <= events <= MOST:
            raise click.BadParameter(
                f"got {one.strip()!r}, allowed: numbers of events from {LEAST:,} to {MOST:,} with "
                "commas between, such as 1e5,1e6",
                param=option,
            )
        found.append(events)
    return tuple(sorted(set(found)))


@click.command(context_settings={"max_content_width": 90})
@click.option(
    "--sizes", default="1e5,1e6,1e7", show_default=True, callback=_sizes,
    help="Numbers of events; users and items are a hundredth of them each.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option(
    "--limit-minutes", type=click.FloatRange(0.05, 24 * 60), default=90, show_default=True,
    help="A size that takes longer is ended, and said to be.",
)  # fmt: skip
@click.option(
    "--family", type=click.Choice(["auto", "pairs"]), default="auto", show_default=True,
    help="As for 'equipoise train'.",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="Train with --quick: does it run?")
@click.option("--again", is_flag=True, help="Measure what stands in OUT already once more.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("out/training/scale.json"),
    show_default=True, help="The results, written after each size: a run that was ended goes on there.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def main(
    sizes: tuple[int, ...],
    seed: int,
    limit_minutes: float,
    family: str,
    quick: bool,
    again: bool,
    out: Path,
    as_json: bool,
) -> None:
    """What `equipoise train` takes on made-up shops of several sizes: time by part, memory, growth."""
    from training.checkpoints import write_whole

    # Or the training that is measured would outlive this program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = {} if again else _stored(out, family, quick, seed)
    work = out.with_name(f".{out.stem}-work")
    work.mkdir(exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise click.ClickException(f"another run is at work in {work}") from None
        try:
            for events in sizes:
                if events in rows:
                    click.echo(f"{events:,} events: from {out} (--again measures anew)", err=True)
                    continue
                click.echo(f"{events:,} events: training", err=True)
                rows[events] = _measured(
                    events, work / str(events), family, quick, seed, limit_minutes
                )
                write_whole(out, _document(rows, sorted(rows)), "what was measured")
        except Refused as refused:
            raise click.ClickException(str(refused)) from refused
        finally:
            shutil.rmtree(work, ignore_errors=True)
    told = document([rows[events] for events in sizes])
    click.echo(json.dumps(told) if as_json else "\n".join(lines(told)))


def _measured(
    events: int, folder: Path, family: str, quick: bool, seed: int, minutes: float
) -> dict[str, Any]:
    from training.scale.measure import measured
    from training.scale.shop import Size

    # Of a run that was killed.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        return measured(
            Size.of(events), folder, family=family, quick=quick, seed=seed, limit_s=minutes * 60
        ).as_json()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _document(rows: dict[int, dict[str, Any]], sizes: list[int]) -> bytes:
    return (json.dumps(document([rows[events] for events in sizes]), indent=1) + "\n").encode()


def _stored(out: Path, family: str, quick: bool, seed: int) -> dict[int, dict[str, Any]]:
    """What an earlier run measured in the same way, by events; what was not done in time is tried again."""
    try:
        rows = json.loads(out.read_text())["sizes"]
        return {
            int(row["events"]): row
            for row in rows
            if (row["family"], row["quick"], row["seed"], row["in_time"])
            == (family, quick, seed, True)
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


if __name__ == "__main__":
    main()
