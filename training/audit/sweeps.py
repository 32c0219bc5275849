"""Policies of every kind, swept over their parameter, as documents of one bundle.

Owns which tables and groups the sweeps speak of: chosen by what the bundle has and by whom the
plain lists leave out, so that own data needs no options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from server.bundle import Bundle, GroupTable
from server.errors import PolicyRefused
from server.fairness import CompiledPolicy, compile_tables, parse_policy
from server.features.types import Float64
from training.data.schema import UNKNOWN

FEW_GROUPS = 12
SHARE_STEPS = 8
"""A group's share is swept in so many steps up to its part of the catalogue."""
ALPHAS = ("1/100", "1/20", "1/5", "1/2")
CAPS = range(1, 11)
BOTH_SIDES = (("1/10", "4/1"), ("1/4", "3/1"), ("1/2", "2/1"), ("1/2", "3/2"), ("3/4", "5/4"), ("1/1", "1/1"))  # fmt: skip
STRENGTHS = ("1/100", "1/50", "1/20", "1/10", "1/5", "1/2")
TRADE_OFFS = ("1/20", "1/10", "1/5", "2/5", "3/5", "4/5")
EVENED_OVER_LISTS = 20

WITH_OPTIMUM = ("floors", "window", "fa_ir", "cap", "calibrated")
"""Kinds that bound the groups of one table: the best list within their bounds is an assignment."""
WITHOUT_OPTIMUM = {
    "intersection": "bounds of two tables are no assignment",
    "amortised": "scores change, no list is bounded",
    "diverse": "scores change, no list is bounded",
}
"""The other kinds that are swept -> why no exact optimum is drawn."""

GROUPS, OVER_ALL, SPREAD, TASTE = "groups", "over_all", "spread", "taste"
"""What a policy may aim at: the share of a group, in each list or over all; many groups in a list;
the user's own shares."""


@dataclass(frozen=True)
class Tables:
    """What the sweeps speak of.

    shares: the table with `group`, which plain lists show least against its part of the catalogue.
    second: another table and its group of that sort, for intersections; None if there is none.
    spread: the table with most groups, for caps. taste: the one for users' own shares.
    """

    shares: GroupTable
    group: str
    second: tuple[GroupTable, str] | None
    spread: GroupTable
    taste: GroupTable


@dataclass(frozen=True)
class Swept:
    """One policy of a sweep. frontier: whether its exact optimum is drawn too."""

    series: str
    kind: str
    aim: str
    parameter: str
    compiled: CompiledPolicy
    frontier: bool


def tables_of(bundle: Bundle, exposure: Float64) -> Tables | None:
    """The tables to sweep over; None for a bundle without any.

    exposure: `[n_items]`, of the plain lists.
    """
    found = sorted(bundle.groups.values(), key=lambda table: (len(table.labels), table.name))
    several = [table for table in found if len(table.labels) > 1]
    if not several:
        return None
    few = [table for table in several if len(table.labels) <= FEW_GROUPS] or several[:1]
    first = next((table for table in few if table.name == "provider_tier"), few[0])
    others = [table for table in few if table is not first]
    taste = next((table for table in several if table.name == "department"), several[-1])
    return Tables(
        shares=first,
        group=_left_out(first, exposure),
        second=(others[0], _left_out(others[0], exposure)) if others else None,
        spread=several[-1],
        taste=taste,
    )


def _left_out(table: GroupTable, exposure: Float64) -> str:
    """The group whose share of exposure is furthest below its share of the catalogue."""
    size = len(table.labels)
    shown = np.bincount(table.codes, weights=exposure, minlength=size)
    items = table.sizes.items
    behind = shown / max(shown.sum(), np.finfo(np.float64).tiny) - items / max(1, items.sum())
    rows = [row for row, label in enumerate(table.labels) if label != UNKNOWN and items[row]]
    return table.labels[min(rows or range(size), key=lambda row: float(behind[row]))]


def sweeps(bundle: Bundle, tables: Tables, count: int) -> tuple[list[Swept], dict[str, str]]:
    """Every policy of the sweeps for lists of `count`, and series with parameter -> why left out."""
    sizes = {name: table.sizes for name, table in bundle.groups.items()}
    made, refused = [], {}
    for number, (series, kind, aim, parameter, body) in enumerate(_documents(tables, count)):
        name = f"sweep-{number}"
        head = (
            f'name = "{name}"\nversion = "1"\nkind = "{kind}"\n'
            'reason = "One point of a trade-off: not a policy to serve."\n'
        )
        try:
            compiled = compile_tables(parse_policy(head + body, name), sizes)
        except PolicyRefused as error:
            refused[f"{series} {parameter}"] = str(error)
            continue
        made.append(Swept(series, kind, aim, parameter, compiled, kind in WITH_OPTIMUM))
    return made, refused


def _documents(tables: Tables, count: int) -> Iterator[tuple[str, str, str, str, str]]:
    """(series, kind, aim, parameter, the document without its head)."""
    table = f'group_table = "{tables.shares.name}"\n'
    group = _quoted(tables.group)
    part = _part(tables.shares, tables.group)
    shares = list(dict.fromkeys(map(_text, _steps(part))))
    for share in shares:
        for kind in ("floors", "window"):
            body = f'{table}[{kind}]\n{group} = "{share}"\n'
            yield kind, kind, GROUPS, f"share {share}", body
        yield "fa_ir, share", "fa_ir", GROUPS, f"share {share}", table + _fa_ir("1/10", share, group, count)  # fmt: skip
    for alpha in ALPHAS:
        yield "fa_ir, alpha", "fa_ir", GROUPS, f"alpha {alpha}", table + _fa_ir(alpha, shares[-1], group, count)  # fmt: skip
    if tables.second is not None:
        other, label = tables.second
        own = _text(max(Fraction(1, 20), Fraction(int(_part(other, label) * 20), 20)))
        for share in shares:
            body = (
                f'[intersection.{tables.shares.name}]\n{group} = "{share}"\n'
                f'[intersection.{other.name}]\n{_quoted(label)} = "{own}"\n'
            )
            yield "intersection", "intersection", GROUPS, f"shares {share}, {own}", body
    for method in ("p_mmf", "fair_co"):
        for strength in STRENGTHS:
            body = (
                f'{table}[amortised]\nmethod = "{method}"\nstrength = "{strength}"\n'
                f'lists = {EVENED_OVER_LISTS}\ntargets = "catalogue"\n'
            )
            yield f"amortised, {method}", "amortised", GROUPS, f"strength {strength}", body
    for most in CAPS:
        body = (
            f'group_table = "{tables.spread.name}"\n'
            f"[cap]\nat_most = {min(most, count)}\nwithin_first = {count}\n"
        )
        yield "cap", "cap", SPREAD, f"at most {most}", body
    for method in ("mmr", "dpp"):
        for weight in TRADE_OFFS:
            body = f'[diverse]\nmethod = "{method}"\ntrade_off = "{weight}"\n'
            yield f"diverse, {method}", "diverse", SPREAD, f"trade-off {weight}", body
    for least, most_of in BOTH_SIDES:
        yield "calibrated, both sides", "calibrated", TASTE, f"{least} to {most_of}", _calibrated(tables, least, most_of)  # fmt: skip
    for least in ("1/4", "1/2", "3/4", "1/1"):
        yield "calibrated, at_least", "calibrated", TASTE, f"at least {least}", _calibrated(tables, least, "10/1")  # fmt: skip
    for most_of in ("3/1", "2/1", "3/2", "1/1"):
        yield "calibrated, at_most", "calibrated", TASTE, f"at most {most_of}", _calibrated(tables, "0/1", most_of)  # fmt: skip


def _part(table: GroupTable, group: str) -> float:
    """The group's part of the catalogue."""
    items = table.sizes.items
    return float(items[table.labels.index(group)] / items.sum())


def _steps(part: float) -> Iterator[Fraction]:
    for step in range(1, SHARE_STEPS + 1):
        yield Fraction(max(1, int(part * 200 * step / SHARE_STEPS)), 200)


def _text(share: Fraction) -> str:
    return f"{share.numerator}/{share.denominator}"


def _fa_ir(alpha: str, share: str, group: str, count: int) -> str:
    return (
        f'[fa_ir]\nalpha = "{alpha}"\nwithin_first = {min(count, 400)}\n'
        f'[fa_ir.shares]\n{group} = "{share}"\n'
    )


def _calibrated(tables: Tables, least: str, most: str) -> str:
    return (
        f'group_table = "{tables.taste.name}"\n'
        f'[calibrated]\nat_least = "{least}"\nat_most = "{most}"\n'
    )


def _quoted(label: str) -> str:
    """The label as a TOML key."""
    escaped = label.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
