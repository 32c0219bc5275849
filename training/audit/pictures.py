"""The audit in pictures: exposure before and after, and what fairness costs.

Owns how they look. Must not compute a measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.audit.sweeps import GROUPS, OVER_ALL
from training.report import ACCENT, OTHER

PAGE_INCHES = 9.9
"""As wide as the demo's page: an inch is 100 of its pixels."""
PIXELS_PER_INCH = 200
"""Twice the page's, for screens that have them."""
SMALL, NORMAL, LARGE = 8.5, 9.5, 10.5
"""Font sizes: 8.5 points are 12 pixels of the page, which can be read."""
LINE = 120
"""Characters of a line of text as wide as the page."""
MOST_GROUPS = 10
"""Of a table with more groups those are drawn that moved most."""

CATALOGUE_MARK = {
    "marker": "D", "color": "#444444", "markersize": 4.5, "markerfacecolor": "white",
}  # fmt: skip

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
    rows = -(-len(tables) // 2)
    figure = Figure(figsize=(PAGE_INCHES, 0.5 + 3.3 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    labelled: dict[str, Any] = {}
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
        _marks(axis, groups)
        axis.set_xlim(0, 1.05 * _longest(groups) or 1)
        for place, group in enumerate(groups):
            axis.text(
                1.01, place,
                f"{group['exposure_share_before']:.3f} → {group['exposure_share_after']:.3f}",
                transform=axis.get_yaxis_transform(), va="center", fontsize=SMALL,
            )  # fmt: skip
        axis.set_yticks(places, [_short(group["group"]) for group in groups])
        axis.tick_params(labelsize=SMALL)
        axis.invert_yaxis()
        most = len(table["groups"]) > len(groups)
        axis.set_title(
            f"{policy}: {table['group_table']}"
            + (f"\n{len(groups)} of {len(table['groups'])} groups that moved most" if most else ""),
            fontsize=NORMAL,
        )
        axis.set_xlabel("share of exposure over all lists", fontsize=SMALL)
        axis.spines[["top", "right"]].set_visible(False)
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    for axis in axes[len(tables) :]:
        axis.set_visible(False)
    figure.legend(
        labelled.values(), labelled.keys(), loc="outside lower center", ncols=4, fontsize=SMALL
    )
    return figure


def _marks(axis: Axes, groups: Sequence[dict[str, Any]]) -> None:
    """What somebody wants of a group, and elsewhere the catalogue's share, which nobody asked for."""
    styles: tuple[tuple[bool, str, str, dict[str, Any]], ...] = (
        (True, "wanted_share", "wanted share", {"marker": "|", "color": "black", "markersize": 15}),
        (False, "catalogue_share", "catalogue's share, no target", CATALOGUE_MARK),
    )
    for has_target, key, label, style in styles:
        own = [group[key] for group in groups if group["has_target"] is has_target]
        places = [at for at, group in enumerate(groups) if group["has_target"] is has_target]
        if own:
            axis.plot(own, places, ls="", markeredgewidth=1.4, label=label, **style)


def _longest(groups: Sequence[dict[str, Any]]) -> float:
    marks = [
        group["wanted_share" if group["has_target"] else "catalogue_share"] for group in groups
    ]
    bars = [group[f"exposure_share_{when}"] for group in groups for when in ("before", "after")]
    return float(max(marks + bars))


def _short(label: str) -> str:
    return label if len(label) <= 24 else label[:23] + "…"


def _tradeoff(swept: dict[str, Any], k: int) -> Figure:
    """A row for each aim: on the left the model's own scores, on the right what was bought."""
    aims = [aim for aim in swept["aims"] if any(_aims_at(p, aim) for p in swept["points"])]
    figure = Figure(figsize=(PAGE_INCHES, 1.0 + 4.1 * len(aims)), layout="constrained")
    rows = figure.subfigures(len(aims), 1, squeeze=False, hspace=0.03).ravel()
    for row, aim in zip(rows, aims, strict=True):
        told = swept["aims"][aim]
        points = [point for point in swept["points"] if _aims_at(point, aim)]
        frontiers = [one for one in swept["frontiers"] if _aims_at(one, aim)]
        left, right = row.subplots(1, 2)
        for axis, what, title in (
            (left, "utility_kept_mean", "model utility kept"),
            (right, "ndcg_kept", f"NDCG@{k} on purchases kept{_interval(points)}"),
        ):
            _series(axis, points, aim, what)
            if told["plain"] is not None:
                axis.plot(told["plain"], 1.0, "k*", markersize=12, label="no policy", zorder=5)
            axis.axhline(1.0, color="#999999", lw=0.8, ls="--", zorder=0)
            axis.set_title(title, fontsize=NORMAL)
            axis.set_xlabel("fairness: further right is better", fontsize=SMALL)
            axis.grid(color="#eeeeee")
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize=SMALL)
        _frontier(left, frontiers, aim, swept["users"])
        row.suptitle(told["words"], fontsize=LARGE, fontweight="bold")
        handles, labels = left.get_legend_handles_labels()
        row.legend(
            handles, labels, loc="outside lower center", ncols=5, fontsize=SMALL, frameon=False
        )
    words = f"{swept['frontier_words']} A band stands where every list has an optimum."
    figure.suptitle(
        f"What fairness costs: every kind over its parameter, lists of {k} for "
        f"{swept['users']:,} users\n"
        + "\n".join(wrap(f"Wide bands: {words[:1].lower()}{words[1:]}", LINE)),
        fontsize=NORMAL,
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


def _frontier(axis: Axes, frontiers: Sequence[dict[str, Any]], aim: str, users: int) -> None:
    """Bands in the colour of the series. Of fewer lists than the points' they would not compare."""
    label = "exact optimum"
    for series in dict.fromkeys(point["series"] for point in frontiers):
        known = [
            (float(point["fairness"][aim]), float(point["utility_kept_mean"]))
            for point in frontiers
            if point["series"] == series
            and point["lists"] == users
            and point["fairness"][aim] is not None
        ]
        axis.plot(
            [x for x, _ in known], [y for _, y in known], color=SERIES[series][0], lw=9, alpha=0.25,
            solid_capstyle="round", zorder=1,
        )  # fmt: skip
    if frontiers:
        axis.plot([], [], color="#777777", lw=6, alpha=0.35, label=label)


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
    return f"; a point: ± {np.median(halves):.3f}" if halves else ""
