"""The audit in pictures: exposure before and after, and what fairness costs.

Owns how they look. Must not compute a measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.audit.sweeps import GROUPS, OVER_ALL
from training.report import ACCENT, OTHER

MOST_GROUPS = 10
"""Of a table with more groups those are drawn that moved most."""

SERIES = {
    "floors": ("#1b6ca8", "o", "-"),
    "window": ("#e08e0b", "s", "-"),
    "fa_ir, share": ("#2a9d55", "^", "-"),
    "fa_ir, alpha": ("#2a9d55", "v", ":"),
    "intersection": ("#8e44ad", "D", "-"),
    "amortised, p_mmf": ("#c0392b", "P", "-"),
    "amortised, fair_co": ("#7f4a3a", "X", "-"),
    "cap": ("#1b6ca8", "o", "-"),
    "diverse, mmr": ("#e08e0b", "s", "-"),
    "diverse, dpp": ("#c0392b", "^", "-"),
    "calibrated, both sides": ("#1b6ca8", "o", "-"),
    "calibrated, at_least": ("#2a9d55", "^", "-"),
    "calibrated, at_most": ("#e08e0b", "v", "-"),
}
"""Colour, marker and line of each series; no two of one column are alike."""


def pictures(document: dict[str, Any]) -> dict[str, Figure]:
    """`audit-exposure` where a policy has groups, `audit-tradeoff` where kinds were swept."""
    drawn = {}
    tables = [
        (policy["policy"], table)
        for policy in document["policies"].values()
        for table in policy["tables"]
        if policy["lists"]
    ]
    if tables:
        drawn["audit-exposure"] = _exposure(tables)
    swept = document["tradeoff"]
    if swept is not None and swept["points"]:
        drawn["audit-tradeoff"] = _tradeoff(swept, document["protocol"]["k"])
    return drawn


def _exposure(tables: Sequence[tuple[str, dict[str, Any]]]) -> Figure:
    columns = min(3, len(tables))
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(5.0 * columns, 0.5 + 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (policy, table) in zip(axes, tables, strict=False):
        groups = sorted(
            table["groups"],
            key=lambda g: -abs(g["exposure_share_after"] - g["exposure_share_before"]),
        )[:MOST_GROUPS]
        groups.sort(key=lambda group: -float(group["exposure_share_before"]))
        places = np.arange(len(groups))
        for shift, when, colour in ((-0.2, "before", OTHER), (0.2, "after", ACCENT)):
            shares = [group[f"exposure_share_{when}"] for group in groups]
            axis.barh(places + shift, shares, height=0.38, color=colour, label=when)
        wanted = [group["wanted_share"] for group in groups]
        axis.plot(wanted, places, "k|", markersize=14, markeredgewidth=1.5, label="wanted share")
        longest = max([*wanted, *(g[f"exposure_share_{w}"] for g in groups for w in ("before", "after"))])  # fmt: skip
        axis.set_xlim(0, 1.05 * longest or 1)
        for place, group in enumerate(groups):
            axis.text(
                1.01, place,
                f"{group['exposure_share_before']:.3f} → {group['exposure_share_after']:.3f}",
                transform=axis.get_yaxis_transform(), va="center", fontsize=7.5,
            )  # fmt: skip
        axis.set_yticks(places, [_short(group["group"]) for group in groups], fontsize=8)
        axis.invert_yaxis()
        most = len(table["groups"]) > len(groups)
        axis.set_title(
            f"{policy}: {table['group_table']}"
            + (f", {len(groups)} of {len(table['groups'])} that moved most" if most else ""),
            fontsize=9,
        )
        axis.set_xlabel("share of exposure", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(tables) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"


def _tradeoff(swept: dict[str, Any], k: int) -> Figure:
    aims = [aim for aim in swept["aims"] if any(_aims_at(p, aim) for p in swept["points"])]
    figure = Figure(figsize=(4.9 * len(aims), 9.4), layout="constrained")
    axes = figure.subplots(2, len(aims), squeeze=False, sharex="col")
    for column, aim in enumerate(aims):
        told = swept["aims"][aim]
        points = [point for point in swept["points"] if _aims_at(point, aim)]
        for row, (what, of) in enumerate(
            (("utility_kept_mean", "model utility"), ("ndcg_kept", f"NDCG@{k} on purchases"))
        ):
            axis = axes[row][column]
            _series(axis, points, aim, what)
            if told["plain"] is not None:
                axis.plot(told["plain"], 1.0, "k*", markersize=13, label="no policy", zorder=5)
            if row == 0:
                _frontier(axis, [f for f in swept["frontiers"] if _aims_at(f, aim)], aim)
            axis.axhline(1.0, color="#999999", lw=0.8, ls="--", zorder=0)
            axis.set_ylabel(f"{of} kept, higher is better", fontsize=9)
            axis.grid(color="#eeeeee")
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=8)
        axes[0][column].set_title(told["words"], fontsize=9)
        axes[1][column].set_xlabel("fairness: further right is better", fontsize=9)
        axes[0][column].legend(fontsize=7.5, loc="lower left", framealpha=0.9)
        axes[1][column].set_title(_interval(points), fontsize=8, loc="right")
    figure.suptitle(
        f"What fairness costs: every kind over its parameter, lists of {k} for "
        f"{swept['users']:,} users.\nAbove: by the model's own scores, with the exact optimum of the "
        "same bounds; below: by what was bought afterwards.",
        fontsize=10,
    )
    return figure


def _aims_at(point: dict[str, Any], aim: str) -> bool:
    """What is made for each list is drawn for all lists together too."""
    return bool(point["aim"] == (GROUPS if aim == OVER_ALL else aim))


def _series(axis: Axes, points: Sequence[dict[str, Any]], aim: str, what: str) -> None:
    for series in dict.fromkeys(point["series"] for point in points):
        own = [
            (point["fairness"][aim], _kept(point, what))
            for point in points
            if point["series"] == series and point["fairness"][aim] is not None
        ]
        known = [(x, y) for x, y in own if y is not None]
        colour, marker, line = SERIES[series]
        # Round ones are hollow and large, so that one on top of them hides nothing.
        hollow = marker == "o"
        axis.plot(
            [x for x, _ in known], [y for _, y in known], color=colour, marker=marker, ls=line,
            markersize=9 if hollow else 5, markerfacecolor="none" if hollow else colour, lw=1.1,
            alpha=0.85, label=series,
        )  # fmt: skip


def _frontier(axis: Axes, frontiers: Sequence[dict[str, Any]], aim: str) -> None:
    for series in dict.fromkeys(point["series"] for point in frontiers):
        known = [
            (float(point["fairness"][aim]), float(point["utility_kept_mean"]))
            for point in frontiers
            if point["series"] == series
            and point["fairness"]
            and point["fairness"][aim] is not None
        ]
        axis.plot(
            [x for x, _ in known], [y for _, y in known], color="black", lw=5, alpha=0.18,
            zorder=1, label=f"exact optimum, {series}",
        )  # fmt: skip


def _kept(point: dict[str, Any], what: str) -> float | None:
    kept: float | None = point["ndcg_kept"]["value"] if what == "ndcg_kept" else point[what]
    return kept


def _interval(points: Sequence[dict[str, Any]]) -> str:
    """How unsure a point is: the median interval, said rather than drawn over all the others."""
    halves = [
        (point["ndcg_kept"]["high"] - point["ndcg_kept"]["low"]) / 2
        for point in points
        if point["ndcg_kept"]["low"] is not None
    ]
    return f"a point's interval: ± {np.median(halves):.3f} (median)" if halves else ""
