"""The description of data for a terminal, or as JSON.

Owns the words and the order. What stands in the data is printed as it is: no markup.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from training.data.prepare import Prepared

GROUPS_SHOWN = 12


def describe_and_tell(
    prepared: Prepared, policies: Path | None, default_policy: str | None, as_json: bool
) -> None:
    """Print what `training.describe` finds."""
    from training.describe import describe

    facts = describe(prepared, policies, default_policy)
    if as_json:
        click.echo(json.dumps(facts, allow_nan=False))
        return
    tell(facts, Console(markup=False, emoji=False, highlight=False))


def tell(facts: dict[str, Any], console: Console) -> None:
    """The description, most important last: warnings stand where the eye is."""
    console.print(f"{facts['source']}: {facts['rows_in']:,} rows", soft_wrap=True)
    for drop in facts["dropped"]:
        if drop["rows"]:
            console.print(f"  {-drop['rows']:>12,} {drop['reason']}", soft_wrap=True)
    console.print(
        f"  {facts['rows_out']:>12,} rows stay: {facts['users']:,} users, {facts['items']:,} items, "
        f"{facts['events']:,} purchases in {facts['baskets']:,} baskets",
        soft_wrap=True,
    )
    console.print(
        f"density {facts['density']:.2%} of all pairs of user and item; "
        f"{facts['repeat_share']:.1%} of the purchases are repeats",
        soft_wrap=True,
    )
    times = facts["time"]
    if times is not None:
        days = ", told by the day" if times["only_days"] else ""
        console.print(
            f"from {times['first']} to {times['last']}: {times['days']:,.0f} days, "
            f"{times['days_with_events']:,} of them with purchases{days}",
            soft_wrap=True,
        )
    console.print()
    _quantiles(facts, console)
    _cuts(facts, console)
    _groups(facts, console)
    _policies(facts["policies"], console)
    for note in facts["notes"]:
        console.print(f"note     {note}", soft_wrap=True)
    for warning in facts["warnings"]:
        console.print(f"warning  {warning}", soft_wrap=True)
    if not facts["warnings"]:
        console.print("nothing to warn of")


def _table(*columns: str, tight: bool = False) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=tight)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=bool(place))
    return table


def _quantiles(facts: dict[str, Any], console: Console) -> None:
    names = list(next(iter(facts["quantiles"].values())))
    table = _table("", *names)
    for what, values in facts["quantiles"].items():
        table.add_row(what, *(f"{values[name]:,.0f}" for name in names))
    console.print(table)
    console.print()


def _cuts(facts: dict[str, Any], console: Console) -> None:
    console.print(facts["protocol"], soft_wrap=True)
    table = _table(
        "", "until", "bought", "users", "to find", "no history", "targets", "new items", tight=True
    )
    for cut in facts["cuts"]:
        told = [
            f"{cut[name]:,}" if name in cut else ""
            for name in (
                "users_with_targets",
                "users_without_history",
                "targets",
                "targets_of_new_items",
            )
        ]
        table.add_row(
            cut["part"], (cut["until"] or "")[:10], f"{cut['events']:,}", f"{cut['users']:,}", *told
        )
    console.print(table)
    console.print(
        f"leave-one-out would evaluate {facts['users_of_three_events']:,} users (three purchases or more)"
        if facts["time"] is not None
        else f"{facts['users_of_three_events']:,} users have three purchases or more",
        soft_wrap=True,
    )
    console.print()


def _groups(facts: dict[str, Any], console: Console) -> None:
    by_attribute: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for group in facts["groups"]:
        by_attribute.setdefault((group["side"], group["attribute"]), []).append(group)
    for (side, attribute), groups in by_attribute.items():
        table = _table(attribute, side, "rows", "share", "dropped")
        largest = sorted(groups, key=lambda group: -group["rows_out"])
        for group in largest[:GROUPS_SHOWN]:
            table.add_row(
                group["label"], f"{group['members_out']:,}", f"{group['rows_out']:,}",
                f"{group['share_of_rows']:.1%}", f"{group['lost_share']:.1%}",
            )  # fmt: skip
        console.print(table)
        if len(groups) > GROUPS_SHOWN:
            console.print(f"... and {len(groups) - GROUPS_SHOWN} more (--json has all)")
        console.print()
    shown = {group["attribute"] for group in facts["groups"]}
    for attribute in facts["attributes"]:
        if attribute["attribute"] not in shown and attribute["unknown_share"] < 1:
            console.print(
                f"{attribute['attribute']}: {attribute['labels']:,} values; the commonest is "
                f"{attribute['commonest']!r}, {attribute['commonest_share']:.1%}",
                soft_wrap=True,
            )


def _policies(policies: dict[str, Any], console: Console) -> None:
    if "refused" in policies:
        return
    console.print(
        f"policies {', '.join(policies['fit'])}; {policies['default']} for requests that name none",
        soft_wrap=True,
    )
    if not policies["group_tables"]:
        console.print(
            "         others bound groups, and no provider, brand or category of items is told",
            soft_wrap=True,
        )
        return
    for name, why in policies["left_out"].items():
        # The policy's name stands before the reason too.
        told = why.removeprefix(f"policy refused: {name}: ")
        console.print(f"         {name} is left out: {told}", soft_wrap=True)
    for name, why in policies["never_met"].items():
        console.print(f"         {name}: {why}", soft_wrap=True)
