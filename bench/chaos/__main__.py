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

ITEMS = 2_000
HISTORY = 50
LONG_HISTORY = 1_000
"""Of so many items the model takes some 3 ms a list: its attention grows with their square."""
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
    sys.exit(1 if strict and not all(mark.met for mark in marks) else 0)


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
    default=ITEMS,
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


@main.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=60, show_default=True)
@click.option("--workers", type=click.IntRange(1, 16), default=1, show_default=True)
@click.option("--retry", is_flag=True, help="Callers with the shipped service config.")
@SEED
@OUT
@STRICT
def overload(
    seconds: float,
    workers: int,
    retry: bool,
    seed: int,
    out: Path | None,
    strict: bool,
) -> None:
    """T4: twice and five times the peak, from an open loop."""  # fmt: skip
    began_s = time.monotonic()
    rows = _overload(seconds, workers, retry, seed, HISTORY)
    kinds = f"{workers} worker(s), {'' if retry else 'no '}retries"
    finish(
        f"overload for {seconds:g} s each, {kinds}", "chaos_overload", rows, began_s, out, strict
    )


@main.command("overload-heavy")
@click.option("--seconds", type=click.FloatRange(min=1), default=60, show_default=True)
@click.option("--retry", is_flag=True, help="Callers with the shipped service config.")
@SEED
@OUT
@STRICT
def overload_heavy(seconds: float, retry: bool, seed: int, out: Path | None, strict: bool) -> None:
    """T4 with a model that takes milliseconds for a list, so that the caller keeps up."""
    began_s = time.monotonic()
    rows = _overload(seconds, 1, retry, seed, LONG_HISTORY)
    finish(
        f"overload of a heavy model for {seconds:g} s each, {'' if retry else 'no '}retries",
        "chaos_overload_heavy", rows, began_s, out, strict,
    )  # fmt: skip


@main.command("overload-fallback")
@click.option("--seconds", type=click.FloatRange(min=1), default=60, show_default=True)
@SEED
@OUT
@STRICT
def overload_fallback(seconds: float, seed: int, out: Path | None, strict: bool) -> None:
    """The same under a policy that declares a fallback list for requests without time."""
    began_s = time.monotonic()
    rows = _overload(seconds, 1, False, seed, LONG_HISTORY, fallback=True)
    finish(
        f"overload of a heavy model for {seconds:g} s each, with a declared fallback",
        "chaos_overload_fallback", rows, began_s, out, strict,
    )  # fmt: skip


def _overload(
    seconds: float,
    workers: int,
    retry: bool,
    seed: int,
    history_length: int,
    *,
    fallback: bool = False,
) -> list[Mark]:
    from bench.chaos.overload import PENDING, run
    from bench.load.work import SERVICE_CONFIG
    from bench.progress import bar
    from bench.served import serving, synthetic_bundle

    def work(folder: Path) -> list[Mark]:
        bundle = synthetic_bundle(folder / "bundle", items=20_000, history_length=history_length)
        settings = folder / "server.toml"
        settings.write_text(f"max_pending_calls = {PENDING}\n", encoding="utf-8")
        flags = ("--bundle", bundle, "--workers", str(workers), "--settings", settings)
        with (
            serving(folder / "server.log", *flags) as served,
            bar("overload", 1.0, left=True) as done,
        ):
            return run(
                served, bundle, seconds=seconds, seed=seed, progress=done,
                fallback=fallback, service_config=str(SERVICE_CONFIG) if retry else "",
            )  # fmt: skip

    rows: list[Mark] = in_folder(work)
    return rows


@main.command()
@click.option("--terms", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--rate", type=click.FloatRange(min=1), default=200, show_default=True)
@SEED
@OUT
@STRICT
def rolling(terms: int, rate: float, seed: int, out: Path | None, strict: bool) -> None:
    """T5: servers and workers stopped with SIGTERM in turn, under an open loop."""
    from bench.chaos.rolling import Roll, run
    from bench.progress import bar
    from bench.served import synthetic_bundle

    began_s = time.monotonic()
    with bar("rolling", 1.0, left=True) as done:
        rows = in_folder(
            lambda folder: run(
                folder,
                Roll(synthetic_bundle(folder / "bundle", items=ITEMS), terms, rate, seed),
                done,
            )
        )
    finish(
        f"{terms} rolling SIGTERMs at {rate:g} a second",
        "chaos_rolling",
        rows,
        began_s,
        out,
        strict,
    )


@main.command()
@click.option("--times", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--rate", type=click.FloatRange(min=1), default=200, show_default=True)
@SEED
@OUT
@STRICT
def crashes(times: int, rate: float, seed: int, out: Path | None, strict: bool) -> None:
    """T7: workers killed and stopped under load, and a server that stands still."""
    from bench.chaos.crashes import run
    from bench.progress import bar
    from bench.served import synthetic_bundle

    began_s = time.monotonic()
    with bar("crashes", 1.0, left=True) as done:
        rows = in_folder(
            lambda folder: run(
                folder,
                synthetic_bundle(folder / "bundle", items=ITEMS),
                times=times,
                rate=rate,
                seed=seed,
                progress=done,
            )
        )
    title = f"{times} workers killed and {times} stopped at {rate:g} a second"
    finish(title, "chaos_crashes", rows, began_s, out, strict)


@main.command()
@click.option("--calls", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--workers", type=click.IntRange(1, 16), default=1, show_default=True)
@SEED
@OUT
@STRICT
def deadlines(calls: int, workers: int, seed: int, out: Path | None, strict: bool) -> None:
    """T8: calls whose time ends, or whose caller leaves, at every stage."""
    from bench.chaos.deadlines import run
    from bench.progress import bar
    from bench.served import serving, synthetic_bundle

    began_s = time.monotonic()

    def work(folder: Path) -> list[Mark]:
        bundle = synthetic_bundle(folder / "bundle", items=ITEMS)
        flags = ("--bundle", str(bundle), "--workers", str(workers))
        with (
            serving(folder / "server.log", *flags) as served,
            bar("deadlines", 1.0, left=True) as done,
        ):
            return run(served, bundle, calls=calls, seed=seed, progress=done)

    finish(
        f"{calls:,} calls whose time ends anywhere, {workers} worker(s)", "chaos_deadlines",
        in_folder(work), began_s, out, strict,
    )  # fmt: skip


@main.command()
@click.option(
    "--results", type=click.Path(path_type=Path), default=Path("out/chaos"), show_default=True
)
def evidence(results: Path) -> None:
    """Keep results in docs/evidence and make docs/reliability.md of them."""
    from bench.chaos.evidence import PAGE, collect, read, write

    found = collect(results)
    if not read():
        raise click.ClickException(f"{results} has no results: run make chaos first")
    write(read())
    click.echo(f"made {PAGE.name}: of {', '.join(found) or 'nothing new'} from {results}")


if __name__ == "__main__":
    main()
