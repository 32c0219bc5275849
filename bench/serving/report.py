"""What was measured, as tables for people and as a document for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.serving import goals
from bench.serving.compare import Compared

WHERE = (
    ("decode_ns", "decode and check"),
    ("history_ns", "history: ids to items"),
    ("features_ns", "candidates and model inputs"),
    ("model_ns", "model (its share of the batch)"),
    ("fair_ns", "fair stage and receipt"),
    ("encode_ns", "encode: the list as a message"),
)
COSTS = ("", "in flight", "CPU us a list", "p50 ms", "p99 ms", "lists/s", "caller us")
WAYS = {
    "unary": "Equipoise Recommend",
    "stream": "Equipoise RecommendStream",
    "batch": "Equipoise BatchRecommend",
}
WIDTH = 150
"""Of lines that go into a file."""

Rows = Sequence[Sequence[str]]


def document(found: Compared, growth: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, microseconds a list."""
    told: dict[str, Any] = {
        "model_us": found.model_us,
        "empty_call_us": found.empty_call_us,
        "loads": [
            asdict(cost) | {"name": cost.load.name, "rest_us": cost.rest_us} for cost in found.costs
        ],
        "peers": [
            {
                "name": one.peer.name,
                "title": one.peer.title,
                "goal": one.peer.goal or one.peer.home,
                "asked": one.peer.asked,
                "rounds": one.rounds,
                "reason": one.reason,
                "costs": [asdict(cost) for cost in one.costs],
            }
            for one in found.peers
        ],
        "growth": dict(growth),
    }
    told["goals"] = [
        asdict(row) | {"met": row.met, "verdict": row.verdict} for row in goals.rows(told)
    ]
    return told


def cost_rows(told: Mapping[str, Any]) -> Rows:
    """A line for each way and number in flight, Equipoise's first; what could not be measured too."""

    def line(name: str, in_flight: int, one: Mapping[str, Any]) -> list[str]:
        return [
            name,
            str(in_flight),
            f"{one['cpu_us']:,.0f}",
            f"{one['p50_us'] / 1e3:.2f}",
            f"{one['p99_us'] / 1e3:.2f}",
            f"{one['lists_per_s']:,.0f}",
            f"{one['caller_cpu_us']:.0f}",
        ]

    made = []
    for one in told["loads"]:
        text = ", ids as text" if one["load"].get("text") else ""
        made.append(line(WAYS[one["load"]["way"]] + text, one["load"]["in_flight"], one))
    for peer in told["peers"]:
        name = f"{peer['title']} ({peer['asked']})"
        made += [line(name, one["in_flight"], one) for one in peer["costs"]]
        if peer["reason"]:
            what = f"{peer['rounds']} rounds only" if peer["costs"] else "not measured"
            made.append([name, f"{what}: {peer['reason']}", "", "", "", "", ""])
    return made


def where_rows(told: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Columns and lines of where one list's microseconds go: alone, and in the first batch."""
    # Phases are wall clock: with many in flight they hold what other threads did meanwhile.
    alone = [
        one
        for one in told["loads"]
        if one["load"]["in_flight"] == 1 or one["load"]["way"] == "batch"
    ][:2]
    made = [[words, *(f"{one['phases_us'][name]:.0f}" for one in alone)] for name, words in WHERE]
    made.append(["gRPC and the event loop", *(f"{one['rest_us']:.0f}" for one in alone)])
    made.append(["together: CPU", *(f"{one['cpu_us']:.0f}" for one in alone)])
    waited = (f"{one['phases_us']['queue_ns']:.0f}" for one in alone)
    made.append(["wait in the queue, which is no CPU", *waited])
    return [one["name"] for one in alone], made


def goal_rows(told: Mapping[str, Any]) -> Rows:
    """A line for each goal."""
    return [
        [
            one["name"],
            "" if one["value"] is None else f"{one['value']:.2f}",
            f"{one['sense']} {one['goal']:g}",
            one["verdict"],
            one["note"],
        ]
        for one in told["goals"]
    ]


def met_of(told: Mapping[str, Any]) -> str:
    """How many goals are met, as a sentence."""
    return (
        f"Of {len(told['goals'])} goals {sum(bool(one['met']) for one in told['goals'])} are met."
    )


def growth_rows(told: Mapping[str, Any]) -> Rows:
    """A line for each step."""
    names = (("candidates", "candidates"), ("catalogue", "items, candidates chosen by the server"))
    return [
        [f"{step['size']:,} {words}", f"{step['cpu_us']:,.0f}", f"{step['p50_us'] / 1e3:.2f}"]
        for name, words in names
        for step in told["growth"].get(name, {}).get("steps", ())
    ]


def show(told: Mapping[str, Any]) -> None:
    """All tables."""
    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    _table(console, COSTS, cost_rows(told))
    console.print(
        f"the model alone on one list: {told['model_us'] / 1e3:.2f} ms; "
        f"an empty unary call, 1 in flight: p50 {told['empty_call_us'] / 1e3:.2f} ms\n"
    )
    console.print("where one list's microseconds go")
    columns, lines = where_rows(told)
    _table(console, ["", *columns], lines)
    if grown := growth_rows(told):
        console.print()
        _table(console, ("16 in flight", "CPU us a list", "p50 ms"), grown)
    console.print()
    _table(console, ("goal", "ratio", "wanted", "", "from"), goal_rows(told))
    console.print(met_of(told))


def _table(console: Console, columns: Sequence[str], lines: Rows) -> None:
    table = Table(*columns, box=None)
    for line in lines:
        table.add_row(*line)
    console.print(table)
