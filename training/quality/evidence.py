"""The page of quality tables: what `equipoise quality` measured, as Markdown. Measures nothing.

    make quality-evidence TABLES="complete-journey=out/quality/complete-journey beauty=..."

keeps the tables of these folders in docs/evidence and makes docs/quality-evidence.md of all that are
kept there, so that no number stands in it which the command did not print.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from server.errors import Refused
from training.checkpoints import write_whole
from training.quality.kept import ROOT
from training.quality.table import text

FOLDER = ROOT / "docs" / "evidence"
PAGE = ROOT / "docs" / "quality-evidence.md"
PREFIX = "quality-"
TABLE = "quality-table.json"

HEAD = """# What the models reach

Made by `make quality-evidence` of the tables in `docs/evidence`, which `make quality` and `equipoise quality` wrote; [models.md](models.md) says what stands behind each row. All models have the same settings everywhere, and what a run chooses it chooses on validation, before it looks at the test window. Each table is of the code of the day on which it was measured. *Refit*: whether the model also learned from the validation window once it was tuned. A row that a table does not have was not measured there. Tables without a line that begins with * are of before baselines could leave out what their user has: where nothing is bought twice, as on Beauty, the novel column is what they reach so, and what a model has to beat. Time and memory are of the training process on a machine with two cores that had other work."""


def page(tables: dict[str, dict[str, Any]]) -> str:
    """The Markdown page of documents by name."""
    parts = [HEAD]
    for name, made in tables.items():
        parts += [f"## {name}", f"```text\n{text(made)}\n```"]
    return "\n\n".join(parts) + "\n"


def kept(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The documents in a folder by their names, in order."""
    return {
        path.stem.removeprefix(PREFIX): json.loads(path.read_text())
        for path in sorted(folder.glob(f"{PREFIX}*.json"))
    }


def keep(name: str, run: Path, folder: Path = FOLDER) -> None:
    """Take the table of a run's folder.

    Raises:
        Refused: there is none, or it is no table of quality.
    """
    source = run / TABLE
    try:
        raw = source.read_bytes()
        kind = json.loads(raw)["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(f"{source}: no table of 'equipoise quality': {error}") from error
    if kind != "quality-table":
        raise Refused(f"{source}: kind: got {kind!r}, allowed: 'quality-table'")
    write_whole(folder / f"{PREFIX}{name}.json", raw, "the table")


def main(arguments: list[str]) -> None:
    """NAME=FOLDER for each table that is new."""
    for argument in arguments:
        name, equals, folder = argument.partition("=")
        if not equals or not name or not folder:
            raise Refused(f"got {argument!r}, allowed: NAME=FOLDER of a run of 'equipoise quality'")
        keep(name, Path(folder))
    write_whole(PAGE, page(kept()).encode(), "the page")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refused as refused:
        sys.exit(f"error: {refused}")
