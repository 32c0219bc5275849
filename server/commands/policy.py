"""`equipoise policy check`: whether a policy makes sense, and can be met on a bundle's catalogue."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from server.fairness.clashing import Clash
    from server.fairness.feasible import CatalogueCheck, GroupDemand

EXAMPLES = """\b
Examples:
  equipoise policy check small-makers.toml --bundle out/demo/bundle
  equipoise policy check small-makers.toml --bundle out/demo/bundle \\
      --count 50 --json

Checked are the document, its groups, rules that clash, rules that ask for
nothing, and whether a list of the whole catalogue keeps every bound. A list of
a few candidates may still fail: its receipt says so. A calibrated policy is
checked for a user of whom nothing is known; with smoothing 0 he has no shares,
and what bounds by them is told as not checked. Where rules cannot be kept, it
names the one, the two, or more that clash, if that is proven. Over several tables
a search decides: what it can neither find nor exclude is told as not found, and
the place told is where the list that breaks the least, as far as was found,
breaks first. All keys of a policy are in docs/policies.md.

Exit code 0: what was checked can be met, or it bounds no list; 1: it cannot, or
asks for nothing; 2: it makes no sense, and the line says which key."""


@click.group("policy")
def command() -> None:
    """Look at policies before they are shipped."""


@command.command("check", epilog=EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="The bundle whose catalogue and group tables the policy must fit.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="The longest list to check.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def check(file: Path, bundle: Path, count: int, as_json: bool) -> None:
    """Whether the policy in FILE can be met on a bundle's catalogue, and where not."""
    from server.bundle import load_bundle
    from server.engine.groups import PolicyItems
    from server.errors import PolicyRefused
    from server.fairness import compile_tables, parse_policy
    from server.fairness.clashing import clashing_rules
    from server.fairness.feasible import check_on_catalogue

    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PolicyRefused(str(file), "document", "is not UTF-8 text") from error
    policy = parse_policy(text, str(file))
    held = load_bundle(bundle)
    tables = {name: table.sizes for name, table in held.groups.items()}
    try:
        compiled = compile_tables(policy, tables, count)
    except PolicyRefused as refused:
        raise refused.found_in(file) from refused
    rows = PolicyItems.of(held, compiled).rows
    found = check_on_catalogue(compiled, rows, count)
    clash = clashing_rules(compiled, tables, rows, count, found)
    if clash is not None and clash.rules:
        # A proof for some of the rules is one for all, where the search for all found none.
        found = replace(found, proven=True)
    facts = {
        "policy": policy.name,
        "version": policy.version,
        "digest": policy.digest,
        "kind": policy.kind,
        "bundle_id": held.manifest.bundle_id,
        "count": min(count, len(held.items.ids)),
        "can_be_met": found.met,
        "proven_impossible": found.proven,
        "first_bad_prefix": found.bad and vars(found.bad),
        "places_that_can_be_filled": found.room,
        "clash": clash
        and {
            "rules": list(clash.rules),
            "first_bad_prefix": clash.bad and vars(clash.bad),
            "places_that_can_be_filled": clash.room,
            "unproven_pairs": [list(pair) for pair in clash.unproven_pairs],
        },
        "asks_for_nothing": list(found.idle),
        "shut_out": list(found.shut_out),
        "not_checked": list(found.unchecked),
        "groups": [
            {
                "group": group.group,
                "items": group.items,
                "demands": [demand._asdict() for demand in group.demands],
            }
            for group in found.groups
        ],
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _show(facts, found, clash, bounds=len(policy.bounds))
    sys.exit(0 if found.met and not found.idle else 1)


def _show(
    facts: dict[str, Any], found: CatalogueCheck, clash: Clash | None, *, bounds: int
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from server.fairness.feasible import where

    # Groups and versions are data: what looks like markup in them is printed as it is.
    console = Console(markup=False, emoji=False)

    def say(what: str, told: str) -> None:
        console.print(Text.assemble((what, "bold"), f": {told}"), soft_wrap=True)

    console.print(
        f"policy {facts['policy']} {facts['version']} ({facts['kind']}), sha256 "
        f"{facts['digest']}, on {facts['bundle_id']}, lists of up to {facts['count']}",
        soft_wrap=True,
    )
    bounded = [
        group
        for group in found.groups
        if any(least or most < prefix for prefix, least, most in group.demands)
    ]
    if bounded:
        places = (f"of the first {demand.prefix}" for demand in bounded[0].demands)
        table = Table("group", "items", *places, box=None)
        rows = _rows(bounded)
        for row in rows[:20]:
            table.add_row(*row)
        console.print(table)
        if len(rows) > 20:
            console.print(f"... and {len(rows) - 20} groups more (--json has all)")
    for rule in found.idle:
        say("asks for nothing", rule)
    for share in found.shut_out:
        say("in no list", f"{share} may have no place")
    for rule in found.unchecked:
        say(
            "not checked", f"{rule}: with smoothing 0 a user of whom nothing is known has no shares"
        )
    if found.bad is not None:
        verdict = "cannot be met" if found.proven else "no list that keeps it was found"
        told = where(found.bad, found.room) if clash is None else _told(clash, found)
        say(verdict, told)
    elif not found.idle:
        told = _kept(facts["kind"], bounds=bounds, unchecked=len(found.unchecked))
        console.print(told, soft_wrap=True)


def _rows(bounded: Sequence[GroupDemand]) -> list[tuple[str, ...]]:
    """A row for each group, or for many of which the same is asked."""
    alike: dict[tuple[str, ...], list[GroupDemand]] = {}
    for group in bounded:
        spans = tuple(f"{least} to {most}" for _, least, most in group.demands)
        alike.setdefault(spans, []).append(group)
    rows: list[tuple[str, ...]] = []
    for spans, groups in alike.items():
        if len(groups) > 8:
            items = [group.items for group in groups]
            name = f"{len(groups)} groups, such as {groups[0].group}"
            rows.append((name, f"{min(items):,} to {max(items):,}", *spans))
        else:
            rows += [(group.group, f"{group.items:,}", *spans) for group in groups]
    return rows


def _kept(kind: str, *, bounds: int, unchecked: int) -> str:
    """The verdict on a policy that can be met; one without bounds has none that a list could keep."""
    if kind == "none":
        return "changes nothing: lists stand in the order of their scores"
    if not bounds:
        return "bounds no list: only the order changes"
    if unchecked == bounds:
        return (
            "says nothing of the catalogue: what a list must keep depends on what its user bought"
        )
    every = "every other bound" if unchecked else "every bound"
    return f"can be met: a list of the catalogue keeps {every} at every prefix"


def _told(clash: Clash, whole: CatalogueCheck) -> str:
    """Which rules clash and where, claiming no more than is proven."""
    from server.fairness.feasible import where

    pairs = "; ".join(" and ".join(pair) for pair in clash.unproven_pairs)
    known = f"neither a list nor a proof was found for {pairs}" if pairs else "any two can be kept"
    if clash.bad is None:
        assert whole.bad is not None
        return f"{where(whole.bad, whole.room)}; which rules clash is not proven: {known}"
    *others, last = clash.rules
    if not others:
        return f"{last} cannot be kept, even alone: {where(clash.bad, clash.room)}"
    if len(others) == 1:
        known = "each can be kept alone"
    at = where(clash.bad, clash.room)
    return f"{', '.join(others)} and {last} clash: {known}, but together {at}"
