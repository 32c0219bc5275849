"""`python -m bench.fairness COMMAND`: flags in, tables and exit codes out.

Thin: whatever is heavy is imported when a command runs.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import click

from bench.fairness.extents import DRAWS, GROUPS, LISTS, ROUNDS

FILE = click.Path(path_type=Path, dir_okay=False)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
OUT = click.option("--out", type=FILE, help="Write the result as JSON.")
SEED = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=1, show_default=True,
    help="The same seed, the same draws.",
)  # fmt: skip


@click.group(context_settings={"max_content_width": 100})
@click.pass_context
def main(context: click.Context) -> None:
    """What is claimed of the fair stage, counted."""
    context.obj = time.monotonic()


@main.command()
@click.option("--short", is_flag=True, help="Fewer instances, in seconds.")
@SEED
@OUT
@JSON
def prove(short: bool, seed: int, out: Path | None, as_json: bool) -> None:
    """Lists against brute force, other rules and solvers. Exit code 1: something did not hold."""
    from bench.fairness.lines import Line
    from bench.fairness.prove import BRIEF, LONG
    from bench.fairness.prove import prove as run
    from bench.fairness.report import finish, proof_table
    from bench.progress import bar

    started, lines = time.monotonic(), list[Line]()
    with bar("prove", 1.0) as progress:
        result = run(BRIEF if short else LONG, seed, progress, lines.append)
    seconds = time.monotonic() - started
    title = f"{result['instances']:,} instances, seed {seed}, {seconds:.0f} s"
    finish(result, proof_table(title, lines), out, as_json)
    sys.exit(1 if result["mismatches"] else 0)


@main.command()
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=ROUNDS, show_default=True,
    help="Interleaved rounds of each ratio.",
)  # fmt: skip
@OUT
@JSON
def speed(rounds: int, out: Path | None, as_json: bool) -> None:
    """The stage's time against sorting, with goals. A missed goal is shown, no error."""
    from bench.fairness.report import finish, speed_table
    from bench.fairness.speed import speed as run
    from bench.progress import bar

    with bar("speed", 1.0) as progress:
        rows, result = run(rounds, progress)
    title = f"medians of {rounds} interleaved rounds; {result['missed']} goals missed"
    finish(result, speed_table(title, rows), out, as_json)


@main.command()
@click.option(
    "--draws", type=click.IntRange(1, 1_000_000), default=DRAWS, show_default=True,
    help="Draws for each number of groups.",
)  # fmt: skip
@click.option(
    "--groups", "counts", type=click.IntRange(2, 64), multiple=True,
    help="Numbers of groups.  [default: 2 to 10]",
)  # fmt: skip
@SEED
@OUT
@JSON
def tables(draws: int, counts: tuple[int, ...], seed: int, out: Path | None, as_json: bool) -> None:
    """The KDD 2019 simulation, exact floors beside the paper's rules, and FA*IR's m-tables."""
    from dataclasses import asdict

    from bench.fairness.fa_ir import published_settings
    from bench.fairness.report import console, fa_ir_table, finish, simulation_table
    from bench.fairness.simulation import simulate
    from bench.progress import bar

    with bar("simulation", 1.0) as progress:
        measured = [one for row in simulate(counts or GROUPS, draws, seed, progress) for one in row]
    fa_ir = published_settings()
    result = {
        "kind": "fairness_tables",
        "schema_version": 1,
        "seed": seed,
        "simulation": [asdict(one) for one in measured],
        "fa_ir": [
            {"k": k, "p": p, "alpha": alpha, "plain": plain[1:], "adjusted": adjusted[1:]}
            for (k, p, alpha), (plain, adjusted) in fa_ir.items()
        ],
    }
    if not as_json:
        console().print(fa_ir_table(fa_ir))
    title = f"{draws:,} draws each, lists of 100, seed {seed}"
    finish(result, simulation_table(title, measured), out, as_json)


@main.command()
@click.option(
    "--count", "lists", type=click.IntRange(1, 10**11), default=LISTS, show_default=True,
    help="Lists of the compiled loop in all, those of earlier runs with them.",
)  # fmt: skip
@SEED
@click.option(
    "--state", type=FILE, default=Path("out/fairness/soak-state.json"), show_default=True,
    help="The count so far. Ctrl-C keeps it; the next run goes on.",
)  # fmt: skip
@OUT
@JSON
def soak(lists: int, seed: int, state: Path, out: Path | None, as_json: bool) -> None:
    """Very many lists, by a loop over the server's kernels and with them of every kind through the whole
    stage, none outside its bounds. Exit code 1: one was; 130: interrupted."""
    from dataclasses import asdict

    from bench.fairness.report import finish, soak_table
    from bench.fairness.soak import SOAKED, resumed
    from bench.fairness.soak import soak as run
    from bench.progress import bar

    count, stopped = resumed(state, seed), False
    with bar(f"soak, seed {seed}", lists, left=True) as progress:
        try:
            run(count, state, lists, progress)
        except KeyboardInterrupt:
            stopped = True
    whole = None if stopped else out
    result = {"kind": "fairness_soak", "loop": SOAKED, **asdict(count)}
    finish(result, soak_table(count), whole, as_json)
    if stopped:
        click.echo(f"stopped; the count is kept in {state}", err=True)
    sys.exit(1 if count.violations else 130 if stopped else 0)


@main.command()
@click.option("--module", "modules", multiple=True, help="Of these alone.  [default: all]")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), show_default=True,
    default=Path("out/fairness/mutants"), help="For copies of the sources and the fates so far.",
)  # fmt: skip
@OUT
@JSON
def mutants(modules: tuple[str, ...], folder: Path, out: Path | None, as_json: bool) -> None:
    """Faults planted in the fair stage, one at a time. Exit code 1: too many went unnoticed."""
    from bench.fairness.mutants import MutantsFailed, Settings, hunt, scored
    from bench.fairness.report import finish, mutants_table
    from bench.progress import bar

    settings = Settings.read()
    for unknown in (one for one in modules if one not in settings.modules):
        known = ", ".join(settings.modules)
        raise click.BadParameter(f"got {unknown!r}; allowed: {known}", param_hint="'--module'")
    if importlib.util.find_spec("cosmic_ray") is None:
        raise click.ClickException("needs Cosmic Ray: pip install '.[mutants]', or make mutants")
    with bar("mutants", 1.0, left=True) as progress:
        try:
            fates, seconds = hunt(settings, folder.resolve(), modules or settings.modules, progress)
        except MutantsFailed as failed:
            raise click.ClickException(str(failed)) from failed
    result = scored(fates, seconds)
    finish(result, mutants_table(result), out, as_json)
    for one in result["survivors"] if not as_json else ():
        click.echo(f"{one['module']}:{one['line']}\n  - {one['was']}\n  + {one['becomes']}")
    sys.exit(1 if result["score"] < result["goal"] else 0)


@main.command()
@click.option(
    "--results", type=click.Path(path_type=Path, file_okay=False), show_default=True,
    default=Path("out/fairness"), help="Where the other commands left theirs.",
)  # fmt: skip
def evidence(results: Path) -> None:
    """Keep the results of the other commands in docs/evidence and make docs/fairness-evidence.md of
    them. What was not measured anew stays as it was."""
    from bench.fairness.evidence import PAGE, collect, read, write

    kept = collect(results)
    try:
        write(read())
    except FileNotFoundError as missing:
        raise click.ClickException(
            f"no {missing.filename}: run the command first that leaves it in {results}"
        ) from missing
    found = f"of {', '.join(kept)} from {results}" if kept else f"nothing new in {results}"
    click.echo(f"made {PAGE}: {found}")


if __name__ == "__main__":
    main()
