"""The pictures of a verdict as inline SVG: intervals against limits, latency, groups, exposure.

Drawn in three colours that stand for CSS variables, so that one page does for light and dark. Must not
decide anything; what is not there is not drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.gate.lines import Line, Status, Verdict

INK, SOFT, GOOD, BAD, OPEN = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
VARIABLES = {INK: "--ink", SOFT: "--soft", GOOD: "--up", BAD: "--bad", OPEN: "--open"}
COLOURS = {Status.PASS: GOOD, Status.FAIL: BAD, Status.NOT_ENOUGH: OPEN}
NAMED = 46
"""Characters of a metric's name before it is cut in its middle."""
MOST_GROUPS = 12
ROOM = 0.12


def intervals(verdict: Verdict) -> str | None:
    """Each line with a value: its interval, the limit, and the side that is allowed. One axis a line,
    since units differ."""
    lines = [line for line in verdict.lines if _drawn(line)]
    if not lines:
        return None
    figure = _figure(8, 0.55 * len(lines) + 0.2)
    rows = np.atleast_1d(figure.subplots(len(lines), 1))
    for axes, line in zip(rows, lines, strict=True):
        _interval(axes, line)
    return _svg(figure, "Intervals of each line against its limit")


def _drawn(line: Line) -> bool:
    bounds = (line.low_bound, line.high_bound)
    return line.value is not None and math.isfinite(line.value) and any(
        one is not None for one in bounds
    )  # fmt: skip


def _interval(axes: Axes, line: Line) -> None:
    assert line.value is not None
    ends = [line.value if end is None else end for end in (line.low, line.high)]
    known = [
        one
        for one in (line.value, *ends, line.low_bound, line.high_bound)
        if one is not None and math.isfinite(one)
    ]
    room = ROOM * (max(known) - min(known)) or max(abs(line.value) * ROOM, 1e-3)
    low, high = min(known) - room, max(known) + room
    allowed = [low if line.low_bound is None else line.low_bound,
               high if line.high_bound is None else line.high_bound]  # fmt: skip
    axes.axvspan(allowed[0], allowed[1], color=GOOD, alpha=0.12, linewidth=0)
    for bound in (line.low_bound, line.high_bound):
        if bound is not None:
            axes.axvline(bound, color=INK, linestyle="--", linewidth=1)
    colour = COLOURS[line.status]
    shown = [min(max(end, low), high) for end in ends]
    axes.plot(shown, [0, 0], color=colour, linewidth=2.5, solid_capstyle="butt")
    axes.plot([line.value], [0], "o", color=colour, markersize=6)
    axes.set_xlim(low, high)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.tick_params(axis="x", labelsize=7, colors=SOFT, length=2, pad=1)
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.set_title(_short(line.metric), loc="left", fontsize=8, color=INK, pad=2)


def latency(
    due_ms: NDArray[np.float64], service_ms: NDArray[np.float64] | None, limits_ms: Sequence[float]
) -> str | None:
    """The share of requests answered within so long; failures are never answered."""
    if not len(due_ms):
        return None
    figure = _figure(8, 3)
    axes = figure.subplots()
    for taken, colour, label in (
        (due_ms, INK, "from when it was due"),
        (service_ms, SOFT, "from when it was sent"),
    ):
        if taken is None:
            continue
        known = np.sort(taken[np.isfinite(taken)])
        if len(known):
            axes.step(known, np.arange(1, len(known) + 1) / len(taken), where="post", color=colour,
                      label=label, linewidth=1.6)  # fmt: skip
    for limit in limits_ms:
        axes.axvline(limit, color=BAD, linestyle="--", linewidth=1, label=f"limit {limit:g} ms")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("latency, ms (log scale)")
    axes.set_ylabel("share of all requests")
    return _svg(_plain(figure), "Distribution of latency")


def groups(document: Mapping[str, Any], metric: str) -> str | None:
    """A bar with its interval for every group of every attribute."""
    found = document.get("groups")
    if not isinstance(found, Mapping):
        return None
    rows = [
        (f"{attribute}: {label}", cells[metric])
        for attribute, labels in found.items()
        for label, cells in labels.items()
        if isinstance(cells.get(metric), Mapping) and cells[metric].get("value") is not None
    ]
    if not rows:
        return None
    figure = _figure(8, 0.28 * len(rows) + 0.8)
    axes = figure.subplots()
    places = np.arange(len(rows))[::-1]
    values = np.array([one["value"] for _, one in rows], np.float64)
    axes.barh(places, values, color=SOFT, alpha=0.45, height=0.7)
    for place, (_, one) in zip(places, rows, strict=True):
        if one.get("low") is not None:
            axes.plot([one["low"], one["high"]], [place, place], color=INK, linewidth=1.5)
    axes.set_yticks(places, [_short(name) for name, _ in rows], fontsize=8)
    axes.set_xlabel(metric)
    return _svg(_plain(figure, legend=False), f"{metric} by group")


def exposure(document: Mapping[str, Any], policy: str) -> str | None:
    """The share of exposure of each group of items, before and after a policy."""
    found = document.get("policies", {}).get(policy, {}).get("groups") or []
    rows = sorted(found, key=lambda one: -one["share_before"])[:MOST_GROUPS]
    if not rows:
        return None
    labels = [one["group"] for one in rows]
    figure = _figure(8, 0.45 * len(labels) + 0.9)
    axes = figure.subplots()
    places = np.arange(len(labels))[::-1]
    for shift, key, colour, name in (
        (0.2, "share_before", SOFT, "by score alone"),
        (-0.2, "share_after", GOOD, f"under {policy}"),
    ):
        shares = [one[key] for one in rows]
        axes.barh(places + shift, shares, height=0.36, color=colour, label=name)
    axes.set_yticks(places, [_short(label) for label in labels], fontsize=8)
    axes.set_xlabel("share of exposure")
    return _svg(_plain(figure), f"Exposure before and after {policy}")


def _short(name: str) -> str:
    half = NAMED // 2
    return name if len(name) <= NAMED else f"{name[:half]}…{name[-half:]}"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def _plain(figure: Figure, *, legend: bool = True) -> Figure:
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(SOFT)
        axes.tick_params(colors=INK, labelsize=8)
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
        if legend:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _svg(figure: Figure, title: str) -> str:
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    drawn = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(
            drawn, format="svg", metadata={"Date": None, "Creator": None, "Title": title}
        )
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
