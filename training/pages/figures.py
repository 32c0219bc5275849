"""The pictures of an evaluation's page, as SVG in the page's own colours.

Owns how they look; every number in them is in the results. Text and axes have the colour of the text
around them, so that the page can be light or dark; the other colours are readable on both.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from training.baselines import BASELINES

INK = "#010203"
"""Stands for the page's text colour, and is replaced by it."""
RANKER = "#3f83c9"
OTHER = "#8d99a6"
COLOURS = ("#3f83c9", "#d9822b", "#3a9d6a", "#c8553d", "#8e6bb5", "#1f9aa5", "#b0883b", "#8d99a6", "#d46a9f")  # fmt: skip
WIDE = 9.6
SMALL = 8.5
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 9.5, "font.family": "sans-serif",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "legend.labelcolor": INK, "legend.frameon": False,
    "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": INK,
    "grid.alpha": 0.12, "axes.titlesize": 10, "axes.labelsize": SMALL, "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL, "legend.fontsize": SMALL,
}  # fmt: skip
"""What all pictures are drawn under."""
TITLES = {one.name: one.title for one in BASELINES} | {"ranker": "this bundle"}


def svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an SVG element to stand in a page; `name` keeps its ids apart from others'."""
    drawn = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # The page's letters, not those of the machine that drew it.
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def pictures(results: Mapping[str, Any]) -> dict[str, str]:
    """All pictures that the results have numbers for, by name."""
    drawn: dict[str, tuple[Figure, str]] = {}
    with rc_context(STYLE):
        drawn["forest"] = forest(results), "Lead over each baseline with intervals"
        for side in ("users", "items"):
            curves = {
                name: known
                for name, groups in results["roc"][side].items()
                if (known := {n: one for n, one in groups.items() if one.get("curve")})
            }
            if curves:
                drawn[f"roc_{side}"] = roc(curves, results["roc"]["all"]), f"ROC curves by {side}"
        if results["calibration"]["candidates"]["bins"]:
            drawn["calibration"] = calibration(results["calibration"]), "Reliability diagram"
        drawn["deciles"] = deciles(results), "Exposure by popularity"
        drawn["cold"] = cold(results), "Quality by length of history"
        if results["learning_curves"]:
            drawn["learning"] = learning(results["learning_curves"]), "Learning curves"
        if results["ablation"]:
            drawn["ablation"] = ablation(results["ablation"]), "Ablation"
    return {name: svg(figure, name, title) for name, (figure, title) in drawn.items()}


def picture_of_folds(document: Mapping[str, Any]) -> str:
    """The picture of a cross-validation."""
    with rc_context(STYLE):
        figure = folds(document)
    return svg(figure, "folds", "Quality by fold")


def forest(results: Mapping[str, Any]) -> Figure:
    """The ranker minus each baseline, best baseline on top, for three metrics."""
    k = results["protocol"]["k"]
    panels = (
        (f"ndcg_at_{k}", f"NDCG@{k}, whole window"),
        (f"first_basket_recall_at_{k}", f"recall@{k}, first basket"),
        (f"novel_ndcg_at_{k}", f"NDCG@{k}, new to the user"),
    )
    order = by_quality(results)[::-1]
    figure = Figure(figsize=(WIDE, 0.9 + 0.28 * len(order)), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (metric, title) in zip(axes, panels, strict=True):
        gains = [results["metrics"][f"{metric}_minus_{name}"] for name in order]
        _intervals(axis, gains)
        axis.axvline(0, color=INK, lw=1)
        axis.set_title(title)
        axis.set_yticks(range(len(order)), [TITLES[name] for name in order])
    figure.supxlabel("this bundle minus the baseline: right of the line, the bundle is better", fontsize=SMALL)  # fmt: skip
    return figure


def _intervals(axis: Axes, estimates: Sequence[Mapping[str, Any]], colour: str = RANKER) -> None:
    for place, one in enumerate(estimates):
        if one["value"] is None:
            continue
        if one["low"] is not None and one["high"] is not None:
            axis.plot([one["low"], one["high"]], [place, place], color=colour, lw=2.2)
        axis.plot(one["value"], place, "o", color=colour, markersize=5)


def by_quality(results: Mapping[str, Any]) -> list[str]:
    """The names of the baselines, the best by NDCG first."""
    metric = f"ndcg_at_{results['protocol']['k']}"

    def value(name: str) -> float:
        found = results["baselines"][name][metric]["value"]
        return -1.0 if found is None else float(found)

    return sorted(results["baselines"], key=lambda name: -value(name))


def roc(curves: Mapping[str, Mapping[str, Any]], whole: Mapping[str, Any]) -> Figure:
    """A panel for each attribute, a curve for each of its groups."""
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(WIDE, 3.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (attribute, groups) in zip(axes, curves.items(), strict=False):
        axis.plot([0, 1], [0, 1], color=INK, lw=0.8, ls=":")
        if whole.get("curve"):
            axis.plot(*_points(whole), color=INK, lw=1, ls="--", alpha=0.6)
        for colour, (label, told) in zip(COLOURS, groups.items(), strict=False):
            axis.plot(*_points(told), color=colour, lw=1.3, label=f"{_short(label)}  {told['value']:.3f}")  # fmt: skip
        axis.set_title(attribute.replace("_", " "))
        axis.set_xlabel("share of what was not bought")
        axis.set_ylabel("share of what was bought")
        axis.set_aspect("equal")
        axis.legend(title="AUC", title_fontsize=SMALL, loc="lower right", fontsize=7.5, handlelength=1.2)  # fmt: skip
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    return figure


def _points(told: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    return told["curve"]["false_positive_rate"], told["curve"]["true_positive_rate"]


def _short(label: str) -> str:
    return label if len(label) <= 18 else label[:17] + "…"


def calibration(block: Mapping[str, Any]) -> Figure:
    """The mean score of each bin against what was bought of it."""
    figure = Figure(figsize=(WIDE, 3.9), layout="constrained")
    for axis, (which, title) in zip(
        figure.subplots(1, 2),
        (("candidates", "all candidates"), ("listed", "items in the list")),
        strict=True,
    ):
        bins = block[which]["bins"]
        scores = [one["mean_score"] for one in bins]
        shares = [one["share_bought"] for one in bins]
        span = [min([*scores, *shares]), max([*scores, *shares])] if bins else [0, 1]
        axis.plot(span, span, color=INK, lw=0.8, ls=":", label="score = share")
        for one in bins:
            ends = [one["share_bought_low"], one["share_bought_high"]]
            axis.plot([one["mean_score"]] * 2, ends, color=RANKER, lw=2)
        axis.plot(scores, shares, "o-", color=RANKER, lw=0.8, markersize=4.5)
        if bins and min([*scores, *(one["share_bought_low"] for one in bins)]) > 0:
            _logarithmic(axis, span)
        error = block[which]["expected_calibration_error"]["value"]
        axis.set_title(title + (f": ECE {error:.4f}" if error is not None else ""))
        axis.set_xlabel("mean score of the bin")
        axis.set_ylabel("share that was bought")
    return figure


def _logarithmic(axis: Axes, span: Sequence[float]) -> None:
    """Both axes, with ticks that can be read; of low shares linear ones would show nothing."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    steps = [step * 10.0**power for power in range(-6, 1) for step in (1, 2, 5)]
    inside = [one for one in steps if span[0] / 1.6 <= one <= span[1] * 1.6]
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(FixedLocator(inside))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_locator(NullLocator())


def deciles(results: Mapping[str, Any]) -> Figure:
    """Share of exposure per tenth of the items, beside the share of purchases."""
    block = results["popularity_bias"]
    figure = Figure(figsize=(WIDE, 3.3), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(block["deciles"]["n_items"]))
    best = by_quality(results)[0]
    rows = (
        ("bought before the cut", block["deciles"]["share_of_purchases_before"], INK, 0.45),
        ("bought after it", block["deciles"]["share_of_targets"], COLOURS[2], 1.0),
        ("shown by this bundle", block["lists"]["ranker"]["exposure_by_decile"], RANKER, 1.0),
        (f"shown by {TITLES[best]}", block["lists"][best]["exposure_by_decile"], COLOURS[1], 1.0),
    )
    for number, (label, shares, colour, alpha) in enumerate(rows):
        axis.bar(places + 0.2 * (number - 1.5), shares, 0.2, color=colour, alpha=alpha, label=label)
    axis.set_xticks(places, [f"{10 * one}–{10 * one + 10} %" for one in places.tolist()])
    axis.set_xlabel("items by popularity, the most popular tenth on the left")
    axis.set_ylabel("share")
    axis.grid(visible=False, axis="x")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def cold(results: Mapping[str, Any]) -> Figure:
    """NDCG by the number of events that are known of a user, beside the best baseline's."""
    k = results["protocol"]["k"]
    block, metric = results["cold_start"], f"ndcg_at_{k}"
    rows = [("no history", block["no_history"]["histories_hidden"])]
    rows += [(f"last {n}", one) for n, one in block["fold_in"].items()]
    told = [(label, one[metric], one[f"{metric}_best_baseline"]) for label, one in rows if one and metric in one]  # fmt: skip
    best = by_quality(results)[0]
    told.append(("whole history", results["metrics"][metric], results["baselines"][best][metric]))
    figure = Figure(figsize=(WIDE, 2.9), layout="constrained")
    axis = figure.subplots()
    for shift, row_of, colour, label in (
        (-0.08, [mine for _, mine, _ in told], RANKER, "this bundle"),
        (0.08, [other for _, _, other in told], OTHER, "the baseline that is best there"),
    ):
        _upright(axis, row_of, shift, colour)
        axis.plot([], [], "o-", color=colour, label=label)
    axis.set_xticks(range(len(told)), [label for label, _, _ in told])
    axis.set_xlim(-0.5, len(told) - 0.5)
    axis.set_ylim(bottom=0)
    axis.set_ylabel(f"NDCG@{k}")
    axis.grid(visible=False, axis="x")
    axis.legend(loc="upper left")
    return figure


def _upright(axis: Axes, row: Sequence[Mapping[str, Any]], shift: float, colour: str) -> None:
    for place, one in enumerate(row):
        if one["value"] is not None:
            axis.plot([place + shift] * 2, [one["low"], one["high"]], color=colour, lw=2.5)
            axis.plot(place + shift, one["value"], "o", color=colour, markersize=6)


def learning(curves: Mapping[str, Any]) -> Figure:
    """Loss and validation quality by epoch."""
    figure = Figure(figsize=(WIDE, 3.0), layout="constrained")
    panels = (("validation_ndcg_at_20", "validation NDCG@20"), ("training_loss", "training loss"))
    for axis, (key, title) in zip(figure.subplots(1, 2), panels, strict=True):
        for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
            if key in curve:
                axis.plot(curve["epochs"], [np.nan if v is None else v for v in curve[key]], "o-", color=colour, lw=1.3, markersize=3.5, label=name)  # fmt: skip
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    return figure


def ablation(groups: Mapping[str, Any]) -> Figure:
    """What each group of features is worth."""
    order = sorted(groups, key=lambda name: groups[name]["value"])
    figure = Figure(figsize=(WIDE, 0.8 + 0.3 * len(order)), layout="constrained")
    axis = figure.subplots()
    _intervals(axis, [groups[name] for name in order])
    axis.axvline(0, color=INK, lw=1)
    axis.set_yticks(range(len(order)), order)
    axis.set_xlabel("as the bundle tells it")
    return figure


def folds(document: Mapping[str, Any]) -> Figure:
    """The ranker and the best baseline of each fold, oldest first."""
    k = document["protocol"]["k"]
    panels = (
        (f"ndcg_at_{k}", f"NDCG@{k}, whole window"),
        (f"first_basket_recall_at_{k}", f"recall@{k}, first basket"),
        (f"novel_ndcg_at_{k}", f"NDCG@{k}, new to the user"),
    )
    rows = document["folds"]
    figure = Figure(figsize=(WIDE, 3.2), layout="constrained")
    for axis, (metric, title) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for shift, key, colour, label in (
            (-0.08, metric, RANKER, "this training"),
            (0.08, f"{metric}_best_baseline", OTHER, "best baseline there"),
        ):
            _upright(axis, [row["metrics"][key] for row in rows], shift, colour)
            axis.plot([], [], "o-", color=colour, label=label)
        axis.set_xticks(range(len(rows)), [row["cut_day"] for row in rows])
        axis.set_xlim(-0.5, len(rows) - 0.5)
        axis.set_ylim(bottom=0)
        axis.set_title(title)
        axis.grid(visible=False, axis="x")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2)
    figure.supxlabel("last day that was learned from", fontsize=SMALL)
    return figure
