"""Results for people, as one table, and for machines, as JSON. Decides nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.fairness.conditions import conditions
from bench.fairness.lines import Line
from bench.fairness.simulation import RULES, Measured
from bench.fairness.soak import SOAKED, Count
from bench.fairness.timing import Row, in_words
from bench.whole import write_whole


def console() -> Console:
    """Where tables go; wide enough for one row a line where nobody looks."""
    shown = Console(highlight=False, emoji=False)
    return shown if shown.is_terminal else Console(highlight=False, emoji=False, width=160)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Rows of text; all columns but the first and the last are numbers."""
    made = Table(title=title, title_justify="left")
    for place, name in enumerate(columns):
        made.add_column(name, justify="right" if 0 < place < len(columns) - 1 else "left")
    for row in rows:
        made.add_row(*row)
    return made


def finish(result: Mapping[str, Any], shown: Table, out: Path | None, as_json: bool) -> None:
    """Write the result with where it was measured, print it as a table or as JSON.

    The time is that since the command began: see `bench.fairness.__main__.main`.
    """
    started: float = click.get_current_context().find_root().obj
    whole = {**result, "measured_on": conditions(time.monotonic() - started)}
    text = json.dumps(whole, indent=1, allow_nan=False)
    if out is not None:
        write_whole(out, text + "\n")
    if as_json:
        click.echo(text)
    else:
        console().print(shown)


def proof_table(title: str, lines: Sequence[Line]) -> Table:
    """The lines of a proof, the wrong ones in red."""
    rows = [
        (
            line.check,
            f"{line.instances:,}",
            f"[bold red]{line.mismatches:,}[/]" if line.mismatches else "0",
            f"{line.seconds:.1f}",
            escape(f"{line.note}  first: {line.example}" if line.example else line.note),
        )
        for line in lines
    ]
    return table(title, ("check", "instances", "mismatches", "seconds", "of them"), rows)


def as_plain(line: Line) -> dict[str, Any]:
    """A line as JSON has it."""
    return {name: value for name, value in asdict(line).items() if not name.startswith("_")}


_MET = {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}


def speed_table(title: str, measured: Sequence[Row]) -> Table:
    """The rows of a timing, each with its goal."""
    rows = [
        (
            escape(row.name),
            in_words(row.value),
            escape(row.unit),
            "" if row.goal is None else f"{row.goal:g}",
            _MET[row.met],
            escape(row.note),
        )
        for row in measured
    ]
    return table(title, ("measured", "value", "unit", "goal, at most", "", "from"), rows)


def simulation_table(title: str, measured: Sequence[Measured]) -> Table:
    """The rules of the simulation, by number of groups."""
    rows = [
        (
            str(one.groups),
            f"{one.ndcg:.4f}",
            f"{one.infeasible_index:.2f}",
            f"{one.broken:.1%}",
            f"{one.ndkl:.3f}",
            one.rule,
        )
        for one in measured
    ]
    columns = ("groups", "NDCG", "InfeasibleIndex", "lists broken", "NDKL", "rule")
    made = table(title, columns, rows)
    for place in range(len(RULES) - 1, len(rows), len(RULES)):
        made.rows[place].end_section = True
    return made


def fa_ir_table(tables: Mapping[tuple[int, str, str], tuple[list[int], list[int]]]) -> Table:
    """FA*IR's floors, plain and adjusted, prefix by prefix."""
    rows = [
        (f"{size} {p} {alpha}", kind, " ".join(str(c) for c in floors[1:]))
        for (size, p, alpha), both in tables.items()
        for kind, floors in zip(("plain", "adjusted"), both, strict=True)
    ]
    return table("FA*IR's m-tables", ("k, p, alpha", "", "floors of prefixes 1 to k"), rows)


def soak_table(count: Count) -> Table:
    """The count of a soak, a row for the compiled loop and one for each kind through the whole stage."""
    per_million_s = count.seconds / max(count.lists, 1) * 1e6
    counted = {f"compiled loop: {', '.join(SOAKED)}, drawn bounds": count.loop}
    counted |= {f"whole stage: {kind}": tally for kind, tally in count.stage.items()}
    rows = [
        (
            name,
            f"{tally.lists:,}",
            f"{tally.drew.groups} / {tally.drew.candidates:,} / {tally.drew.places}",
            f"{tally.infeasible:,}",
            f"{tally.not_found:,}",
            f"[bold red]{tally.violations:,}[/]" if tally.violations else "0",
            escape(tally.example),
        )
        for name, tally in counted.items()
    ]
    title = (
        f"lists outside their bounds: seed {count.seed}, {count.seconds:,.0f} s, "
        f"{per_million_s:.1f} s for 10^6 lists; of the loop's {count.partly:,} with a part of the order "
        f"sorted, {count.retried:,} made again"
    )
    columns = (
        "lists of",
        "lists",
        "groups / candidates / places, up to",
        "none keeps",
        "not found",
        "violations",
        "",
    )
    return table(title, columns, rows)


def mutants_table(scored: Mapping[str, Any]) -> Table:
    """Mutants by module; the survivors are printed below it."""
    rows = [
        (module, str(counts["killed"]), str(counts["survived"]), str(counts["equivalent"]), "")
        for module, counts in scored["modules"].items()
    ]
    title = f"{scored['score']:.1%} of the mutants killed; goal: {scored['goal']:.0%}"
    return table(title, ("module", "killed", "survived", "equivalent", ""), rows)
