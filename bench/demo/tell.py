"""The demo's story in the terminal, told from the files that the steps left."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.demo.steps import Done

SHOWN = 20
NAME_WIDTH = 29
MARKS = {"pass": "[green]pass[/]", "fail": "[red]fail[/]"}


def read(out: Path, name: str) -> dict[str, Any]:
    """One result file of the demo."""
    document: dict[str, Any] = json.loads((out / name).read_text(encoding="utf-8"))
    return document


def item_names(out: Path) -> dict[str, str]:
    """Item id -> name, from the bundle."""
    table = read(out, "bundle/items.json")
    return dict(zip(table["ids"], table["names"], strict=True))


def tell(out: Path, done: Sequence[Done], console: Console) -> None:
    """Print the story."""
    lists, names = read(out, "live/lists.json"), item_names(out)
    console.rule("quality: the served list against every baseline")
    quality = (out / "quality" / "quality.txt").read_text(encoding="utf-8")
    # A table that wraps cannot be read.
    console.print(quality.split("\n\nincome")[0], markup=False, soft_wrap=True)
    console.rule("fair lists")
    info = lists["info"]
    console.print(
        f"{info['bundle_id']} served over gRPC, ready in {lists['ready_s']:.1f} s; "
        f"{lists['households_asked']} households asked, "
        f"{lists['mean_places_moved']:.1f} of 20 places moved and "
        f"{lists['mean_utility_kept']:.2%} of the utility kept on average",
        markup=False,
        soft_wrap=True,
    )
    household = lists["households"][0]
    console.print(_side_by_side(household, names))
    console.print(receipt_line(household["after"]["receipt"]), markup=False, soft_wrap=True)
    _loop(lists["closed_loop"], names, console)
    learned = read(out, "learned/manifest.json")["data"]
    console.print(
        f"trained again from the store: {learned['interactions']:,} purchases, "
        f"that one included, up to {_day(learned['until_unix_ms'])}",
        soft_wrap=True,
    )
    same = "the same list for all" if lists["off_is_the_same_for_all"] else "NOT the same list"
    console.print(f"personalisation off: {same}")
    console.rule("load and invariants")
    load, invariants = read(out, "load/load.json"), read(out, "invariants.json")
    console.print(load_line(load), soft_wrap=True)
    console.print(
        f"{sum(invariants['checked'].values()):,} checks of {len(invariants['checked'])} theorems "
        f"by Hypothesis against the live server: {invariants['violation_count']} violations",
        soft_wrap=True,
    )
    console.rule("verdict")
    verdict = read(out, "verdict.json")
    for line in verdict["lines"]:
        mark = MARKS.get(line["status"], f"[yellow]{line['status']}[/]")
        told = escape(f"{line['metric']}: {_value(line)} ({line['bound']})")
        console.print(f"{mark}  {told}", soft_wrap=True)
    console.print(f"the release: [bold]{escape(verdict['status'])}[/]")
    steps = ", ".join(
        f"{d.name} {'unchanged' if d.skipped else f'{d.seconds:.0f} s'}" for d in done
    )
    console.print(f"[dim]{steps}[/]")


def load_line(load: dict[str, Any]) -> str:
    """What the load offered, and what came of it."""
    latency, cpu_us = load["latency_ms"], load["server_cpu_us_per_list"]
    rate = load["scenario"]["stage"][0]["rate_rps"]
    void = f"; void: {load['void_because']}" if load["void_because"] else ""
    return (
        f"{load['requests']:,} requests by {load['driver']}, {rate:.0f} a second, each sent when it "
        f"was due: {load['throughput_rps'] or 0:.0f} lists/s, p50 {_ms(latency['p50'])}, "
        f"p99 {_ms(latency['p99'])}, {load['errors']} failed or wrong; "
        f"server CPU {cpu_us or 0:.0f} us per list{void}"
    )


def _day(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d")


def _ms(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} ms"


def _value(line: dict[str, Any]) -> str:
    if line["value"] is None:
        return str(line["why"])
    # JSON has no infinity: an end that has none is told as text.
    value, low, high = (
        "" if line[name] is None else f"{float(line[name]):.4g}"
        for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]" if low and high else value


def receipt_line(receipt: dict[str, Any]) -> str:
    """One receipt in words."""
    status = receipt["status"].removeprefix("RECEIPT_STATUS_").lower()
    shares = ", ".join(f"{p['group']} {p['exposure_share']:.0%}" for p in receipt["exposure"])
    return (
        f"receipt: policy {receipt['policy']} {receipt['policy_version']} "
        f"({receipt['policy_digest'][:12]}): {status}; {receipt['places_moved']} places moved, "
        f"utility kept {receipt['utility_kept']:.4f}; exposure: {shares}"
    )


def _side_by_side(household: dict[str, Any], names: dict[str, str]) -> Table:
    table = Table(
        "",
        "by score alone",
        "fair",
        "tier",
        "was",
        title=escape(f"household {household['user']}"),
        box=None,
    )
    pairs = zip(
        household["before"]["items"][:SHOWN], household["after"]["items"][:SHOWN], strict=True
    )
    for before, after in pairs:
        moved = after["rank"] != after["rank_by_score"]
        style = "bold green" if after["rank"] < after["rank_by_score"] else ""
        table.add_row(
            str(after["rank"]),
            Text(names.get(before["item_id"], before["item_id"])[:NAME_WIDTH]),
            Text(names.get(after["item_id"], after["item_id"])[:NAME_WIDTH], style),
            Text(after["group"]),
            str(after["rank_by_score"]) if moved else "",
        )  # fmt: skip
    return table


def _loop(loop: dict[str, Any], names: dict[str, str], console: Console) -> None:
    before = loop["rank_before"]
    after = f"at place {loop['rank_after']}" if loop["rank_after"] else "not in it"
    console.print(
        f"household {loop['user']} buys '{names.get(loop['item'], loop['item'])}' "
        f"(place {before}, an item new to it); in the next list it is {after}",
        markup=False,
        soft_wrap=True,
    )
