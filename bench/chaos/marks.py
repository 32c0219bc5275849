"""Pass marks: what was measured beside what it should be, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.fairness.conditions import conditions


@dataclass(frozen=True)
class Mark:
    """One row. missed: by how much, in words; empty where the mark is met. pass_mark: empty for what
    is told and has none. void: nothing follows from what was measured, so it is not judged."""

    what: str
    measured: str
    pass_mark: str = ""
    missed: str = ""
    void: bool = False

    @property
    def met(self) -> bool:
        return not self.pass_mark or not (self.missed or self.void)

    @property
    def verdict(self) -> str:
        if not self.pass_mark:
            return ""
        if self.void:
            return "void"
        return f"missed: {self.missed}" if self.missed else "PASS"


def at_most(what: str, value: float, mark: float, unit: str = "", digits: int = 0) -> Mark:
    """A row whose value should be no more than the mark."""
    missed = f"{value - mark:,.{digits}f}{unit} too much" if not value <= mark else ""
    return Mark(what, f"{value:,.{digits}f}{unit}", f"<= {mark:,.{digits}f}{unit}", missed)


def at_least(what: str, value: float, mark: float, unit: str = "", digits: int = 0) -> Mark:
    """A row whose value should be no less than the mark."""
    missed = f"{mark - value:,.{digits}f}{unit} too little" if not value >= mark else ""
    return Mark(what, f"{value:,.{digits}f}{unit}", f">= {mark:,.{digits}f}{unit}", missed)


def all_of(what: str, met: int, of: int) -> Mark:
    """A row of things each of which should be so."""
    return Mark(what, f"{met:,} of {of:,}", "all", "" if met == of else f"{of - met:,} are not")


def none_of(what: str, found: int, told: str = "") -> Mark:
    """A row of things none of which should be."""
    return Mark(what, f"{found:,}", "0", "" if not found else told or f"{found:,} are")


def show(title: str, marks: Sequence[Mark]) -> None:
    """The table."""
    table = Table("", "measured", "mark", "", box=None, title=title, title_justify="left")
    for mark in marks:
        table.add_row(mark.what, mark.measured, mark.pass_mark, mark.verdict)
    Console(markup=False, emoji=False).print(table)


def keep(path: Path, kind: str, marks: Sequence[Mark], seconds: float, **facts: object) -> None:
    """Write the rows with what they were measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "kind": kind,
        "rows": [asdict(mark) | {"verdict": mark.verdict} for mark in marks],
        **facts,
        "measured_on": conditions(seconds),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
