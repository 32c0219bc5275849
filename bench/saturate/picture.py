"""The curves of a saturation as one picture: what was answered, how fast, and what was refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GOOD, BAD = "#3b3b3b", "#1b7f79", "#b3452c"


def picture(made: dict[str, Any]) -> bytes:
    """A PNG of the document of `bench.saturate`."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True)
    _curve(top, made, lambda one: one["throughput_rps"], INK, "answered")
    _curve(top, made, lambda one: one["goodput_rps"], GOOD, "answered within the deadline")
    most = max(probe["rate_rps"] for probe in made["probes"])
    top.plot([0, most], [0, most], color="#bbbbbb", linestyle=":", label="offered")
    top.set_ylabel("lists a second")
    _curve(middle, made, lambda one: one["p50_ms"], GOOD, "p50")
    _curve(middle, made, lambda one: one["p99_ms"], INK, "p99 (none where a failure decides)")
    middle.axhline(
        made["budget_ms"], color=BAD, linestyle="--", label=f"budget {made['budget_ms']:g} ms"
    )
    middle.set_yscale("log")
    middle.set_ylabel("latency, ms")
    _curve(bottom, made, lambda one: 100 * one["refused_share"], BAD, "refused")
    _curve(bottom, made, lambda one: 100 * one["failed_share"], INK, "failed, refusals among them")
    bottom.set_ylabel("% of requests")
    bottom.set_xlabel("offered requests a second")
    for axes in (top, middle, bottom):
        if made["knee_rps"]:
            axes.axvline(made["knee_rps"], color="#888888", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    if made["knee_rps"]:
        top.set_title(
            f"p99 stays within {made['budget_ms']:g} ms up to {made['knee_rps']:,.0f} requests a second"
        )
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130)
    return drawn.getvalue()


def _curve(
    axes: Axes, made: dict[str, Any], value: Callable[[dict[str, Any]], float | None], colour: str, label: str
) -> None:  # fmt: skip
    rates, middles = [], []
    for probe in made["probes"]:
        found = [(probe["rate_rps"], value(one)) for one in probe["repeats"] if not one["void"]]
        known = [(rate, one) for rate, one in found if one is not None]
        at, seen = [rate for rate, _ in known], [one for _, one in known]
        axes.scatter(at, seen, s=12, alpha=0.5, color=colour)
        if found:
            # What a failure decides is slower than all: the middle one may be such, and is a gap.
            middle = sorted(np.inf if one is None else one for _, one in found)[len(found) // 2]
            rates.append(probe["rate_rps"])
            middles.append(middle if np.isfinite(middle) else np.nan)
    axes.plot(rates, middles, color=colour, label=label)
