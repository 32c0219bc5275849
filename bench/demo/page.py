"""The demo's page: one self-contained HTML file with the lists, the pictures and the verdict."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from bench.demo.fairness import exposure_picture
from bench.demo.steps import Done, write_whole
from bench.demo.tell import item_names, read, receipt_line
from bench.load.samples import read_samples
from server.bundle import load_bundle
from server.fairness import parse_policy

WORST = "groups.income.first_basket_recall_at_20.worst_ratio"
TEMPLATE = "page.html.j2"
COLOURS = ("#1d3557", "#457b9d", "#e07a5f", "#a8a8a8")


def write_page(out: Path, done: Sequence[Done]) -> Path:
    """Write `index.html` and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    names = item_names(out)
    environment.filters["item_name"] = lambda item: names.get(item, item)
    lists, verdict = read(out, "live/lists.json"), read(out, "verdict.json")
    page = environment.get_template(TEMPLATE).render(
        lists=lists,
        reasons={policy["name"]: policy["reason"] for policy in lists["info"]["policies"]},
        receipt_line=receipt_line,
        learned=read(out, "learned/manifest.json"),
        manifest=read(out, "bundle/manifest.json"),
        bounds=_bounds(out, lists["info"]),
        worst=next((line for line in verdict["lines"] if line["metric"].endswith(WORST)), None),
        quality=read(out, "quality/quality.json"),
        load=read(out, "load/load.json"),
        invariants=read(out, "invariants.json"),
        verdict=verdict,
        done=done,
        quality_picture=_png(out / "quality" / "quality.png"),
        exposure_picture=_png(out / "quality" / "exposure.png"),
        tradeoff_picture=_png(out / "audit" / "audit-tradeoff.png"),
        latency_picture=_latency(out / "load"),
        over_time_picture=_figure(
            exposure_picture(lists["over_time"], load_bundle(out / "bundle"))
        ),
    )
    path = out / "index.html"
    write_whole(path, page)
    return path


def _bounds(out: Path, info: dict[str, Any]) -> list[str]:
    """The default policy's floors in words: "1/10 small"."""
    default = next(policy["name"] for policy in info["policies"] if policy["is_default"])
    path = out / "bundle" / "policies" / f"{default}.toml"
    policy = parse_policy(path.read_text(encoding="utf-8"), str(path))
    return [f"{share} {group}" for rule in policy.bounds for group, share in rule.shares]


def _png(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _latency(folder: Path) -> str:
    """The distribution of latency, every sample of the load."""
    load: dict[str, Any] = read(folder, "load.json")
    samples = read_samples(folder / load["samples"])
    milliseconds = (samples.numbers("ended_ns") - samples.numbers("due_ns")) / 1e6
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(milliseconds, bins=np.geomspace(max(milliseconds.min(), 0.1), milliseconds.max(), 60).tolist(),
              color=COLOURS[1])  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    for name in ("p50", "p99"):
        value = load["latency_ms"][name]
        if value is not None:
            axes.axvline(value, color=COLOURS[2])
            axes.annotate(
                f" {name} {value:.1f} ms", (value, axes.get_ylim()[1] * 0.92), color=COLOURS[2]
            )
    axes.set_xlabel("latency, ms (log scale)")
    axes.set_ylabel("requests")
    axes.spines[["top", "right"]].set_visible(False)
    return _figure(figure)


def _figure(figure: Figure) -> str:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    return "data:image/png;base64," + base64.b64encode(drawn.getvalue()).decode()
