"""An invariants result for people, and its file. Decides nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.invariants.run import told
from bench.whole import write_whole


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write the result as JSON, whole or not at all."""
    write_whole(path, json.dumps(result, indent=1, allow_nan=False) + "\n")


def show(result: Mapping[str, Any]) -> None:
    """What was checked how often, and each violation with its smallest example."""
    console = Console(highlight=False, emoji=False)
    for name, times in result["checked"].items():
        console.print(f"  {name.replace('_', ' ')}: {times:,}", markup=False)
    if not result["tables_known"]:
        console.print(
            "  The policies' bounds are not known without --bundle: their receipts were only "
            "checked for what they say of the lists.",
            markup=False,
        )
    for violation in result["violations"]:
        console.print(
            f"\nBROKEN {violation['invariant']} ({violation['where']}): {violation['what']}",
            style="red",
            markup=False,
        )
        for request in violation["example"]:
            console.print(json.dumps(request), markup=False)
    console.print(told(result), style="bold", markup=False)
