"""What was measured, as tables for people and as a document for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.serving.measure import Measured

WHERE = (
    ("decode_ns", "decode and check"),
    ("history_ns", "history: ids to items"),
    ("features_ns", "candidates and model inputs"),
    ("model_ns", "model (its share of the batch)"),
    ("fair_ns", "fair stage and receipt"),
)


def document(found: Measured) -> dict[str, Any]:
    """Everything, microseconds a list."""
    return {
        "empty_call_us": found.empty_call_us,
        "loads": [
            asdict(cost) | {"name": cost.load.name, "rest_us": cost.rest_us} for cost in found.costs
        ],
    }


def show(found: Measured) -> None:
    """Two tables: what each way costs, and where one list's microseconds go."""
    console = Console()
    table = Table("", "CPU us a list", "p50 ms", "p99 ms", "lists/s", box=None)
    for cost in found.costs:
        table.add_row(
            cost.load.name,
            f"{cost.cpu_us:.0f}",
            f"{cost.p50_us / 1e3:.2f}",
            f"{cost.p99_us / 1e3:.2f}",
            f"{cost.lists_per_s:,.0f}",
        )
    console.print(table)
    console.print(f"an empty unary call, 1 in flight: p50 {found.empty_call_us / 1e3:.2f} ms\n")
    # Phases are wall clock: with many in flight they hold what other threads did meanwhile.
    alone = [cost for cost in found.costs if cost.load.in_flight == 1 or cost.load.way == "batch"][
        :2
    ]
    console.print("where one list's microseconds go")
    where = Table("", *(cost.load.name for cost in alone), box=None)
    for name, words in WHERE:
        where.add_row(words, *(f"{cost.phases_us[name]:.0f}" for cost in alone))
    where.add_row("gRPC, event loop, queue, encode", *(f"{cost.rest_us:.0f}" for cost in alone))
    where.add_row("together: CPU", *(f"{cost.cpu_us:.0f}" for cost in alone))
    console.print(where)
