"""An invariants result for people, and its file. Decides nothing."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.invariants.run import told
from bench.whole import write_asked

CURL = ("buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge")


def write(result: Mapping[str, Any], path: Path) -> None:
    """Write the result as JSON, whole or not at all. Raises InputRefused: it cannot be written."""
    write_asked("--out", path, json.dumps(result, indent=1, allow_nan=False) + "\n")


def call_of(target: str, method: str, request: Mapping[str, Any]) -> str:
    """A request as a line for a shell, to see for oneself.

    >>> print(call_of("127.0.0.1:1", "Rerank", {"count": 2})[-78:])
    -d '{"count": 2}' http://127.0.0.1:1/equipoise.v1.RecommendationService/Rerank
    """
    url = f"http://{target}/equipoise.v1.RecommendationService/{method}"
    return shlex.join([*CURL, "-d", json.dumps(request), url])


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
        for method, request in zip(violation["methods"], violation["example"], strict=True):
            console.print(
                call_of(str(result["target"]), method, request), markup=False, soft_wrap=True
            )
    console.print(told(result), style="bold", markup=False)
