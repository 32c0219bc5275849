"""The results of an evaluation for people: a table in text, pictures, the page, and the files.

Owns how results look and how they reach the disk: each file is written aside and
renamed, so a folder never holds half of one. Must not compute a metric.

    write_results(evaluation, Path("out/quality"))
    print(text(evaluation.results))
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from training.baselines import BASELINES
from training.evaluate import Evaluation
from training.pages.card import model_card
from training.pages.page import page

RANKER = "this bundle"
INK = "#4a7fb5"
OTHER = "#9aa8b8"
ACCENT = "#c8553d"

RESULTS_FILE = "quality.json"
TEXT_FILE = "quality.txt"
PAGE_FILE = "index.html"
CARD_FILE = "model_card.md"


def write_results(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write results, arrays, text, page, model card and pictures into `folder`, made if missing; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    results = evaluation.results
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **evaluation.per_user)  # type: ignore[arg-type]
    files = {
        str(results["per_user_file"]): arrays.getvalue(),
        TEXT_FILE: text(results).encode(),
        CARD_FILE: model_card(results).encode(),
        PAGE_FILE: page(results).encode(),
    }
    for name, figure in pictures(results).items():
        for form in ("png", "svg"):
            drawn = io.BytesIO()
            # No date and no random ids inside: the same results are the same bytes.
            with rc_context({"svg.hashsalt": "equipoise"}):
                figure.savefig(
                    drawn, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None
                )
            files[f"{name}.{form}"] = drawn.getvalue()
    # The results come last: who finds them finds all that they name.
    document = results | {"per_user_sha256": hashlib.sha256(arrays.getvalue()).hexdigest()}
    files[RESULTS_FILE] = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    return [write_file(folder / name, content) for name, content in files.items()]


def write_file(path: Path, content: bytes) -> Path:
    """Write `content` aside, make it durable, rename it to `path`; a failure leaves nothing."""
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 is for secrets
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return path


def text(results: dict[str, Any]) -> str:
    """The results as a table for a terminal: quality, groups, policies."""
    k = results["protocol"]["k"]
    columns = [
        (f"recall_at_{k}", f"R@{k}"),
        (f"ndcg_at_{k}", f"NDCG@{k}"),
        (f"first_basket_recall_at_{k}", f"first R@{k}"),
        (f"first_basket_ndcg_at_{k}", "first NDCG"),
        (f"novel_recall_at_{k}", f"novel R@{k}"),
        (f"novel_ndcg_at_{k}", "novel NDCG"),
    ]
    width = max(len(b.title) for b in BASELINES)
    lines = [
        f"bundle   {results['bundle_id']}",
        f"data     {results['dataset']['source']}, {results['protocol']['split']}",
        f"users    {results['protocol']['n_users']:,}; full ranking, served path, no policy",
        "",
        " " * width + "".join(f"{title:>12}" for _, title in columns),
    ]
    for baseline in BASELINES:
        row = results["baselines"][baseline.name]
        lines.append(
            f"{baseline.title:<{width}}" + "".join(f"{_cell(row[m]):>12}" for m, _ in columns)
        )
    row = results["metrics"]
    lines.append(f"{RANKER:<{width}}" + "".join(f"{_cell(row[m]):>12}" for m, _ in columns))
    lines += [
        "",
        f"NDCG@{k} above each baseline, {results['intervals']['confidence']:.0%} interval:",
    ]
    for baseline in BASELINES:
        gain = row[f"ndcg_at_{k}_minus_{baseline.name}"]
        lines.append(f"  {baseline.title:<{width}}  {_cell(gain, sign=True)}  {_range(gain)}")
    lines += _groups(results["groups"], k)
    for name, policy in results["policies"].items():
        kept = row[f"ndcg_kept_{name}"]
        lines += [
            "",
            f"policy {policy['policy']}: NDCG kept {_cell(kept)} {_range(kept)}; met "
            f"{policy['met']:,} of {policy['lists']:,} lists, {policy['infeasible']:,} infeasible",
        ]
        if len(policy["groups"]) <= 12:
            widest = max((len(group["group"]) for group in policy["groups"]), default=0)
            lines += [
                f"  {group['group']:<{max(12, widest)}} exposure {group['share_before']:.3f} -> "
                f"{group['share_after']:.3f}"
                for group in policy["groups"]
            ]
    return "\n".join(lines) + "\n"


def _groups(by_attribute: dict[str, Any], k: int) -> list[str]:
    """Each group of users on a line, the labels of all attributes in one column."""
    labels = [label for groups in by_attribute.values() for label in groups]
    width = max([12, *(len(label) for label in labels)])
    lines = []
    for attribute, groups in by_attribute.items():
        lines += ["", f"{attribute}: NDCG@{k}; first-basket recall with interval"]
        for label, metrics in groups.items():
            whole, first = metrics[f"ndcg_at_{k}"], metrics[f"first_basket_recall_at_{k}"]
            told = (
                f"withheld: {whole['withheld']}"
                if "withheld" in whole
                else f"{_cell(whole)};  {_cell(first)} {_range(first)}  {whole['n_users']:,} users"
            )
            lines.append(f"  {label:<{width}} {told}")
    return lines


def _cell(estimate: dict[str, Any], sign: bool = False) -> str:
    value = estimate["value"]
    if value is None:
        return "-"
    return f"{value:+.4f}" if sign else f"{value:.4f}"


def _range(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None:
        return "[-]"
    return f"[{estimate['low']:.4f}, {estimate['high']:.4f}]"


def pictures(results: dict[str, Any]) -> dict[str, Figure]:
    """`quality` (against the baselines), and `exposure` where a policy has few enough groups."""
    drawn = {"quality": _quality(results)}
    shown = [p for p in results["policies"].values() if 0 < len(p["groups"]) <= 12]
    if shown:
        drawn["exposure"] = _exposure(shown)
    return drawn


def _quality(results: dict[str, Any]) -> Figure:
    k = results["protocol"]["k"]
    panels = [
        (f"ndcg_at_{k}", f"NDCG@{k}, whole period"),
        (f"first_basket_recall_at_{k}", f"recall@{k}, first basket"),
        (f"novel_ndcg_at_{k}", f"NDCG@{k}, novel items"),
    ]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (metric, title) in zip(axes, panels, strict=True):
        rows = [(b.title, results["baselines"][b.name][metric], OTHER) for b in BASELINES]
        rows.append((RANKER, results["metrics"][metric], INK))
        known = [row for row in rows if row[1]["value"] is not None]
        known.sort(key=lambda row: float(row[1]["value"]) if axis is axes[0] else 0.0)
        if axis is axes[0]:
            order = {label: place for place, (label, _, _) in enumerate(known)}
        places = [order.get(label, len(order)) for label, _, _ in known]
        values = [float(e["value"]) for _, e, _ in known]
        around = [
            [v - float(e["low"]) for v, (_, e, _) in zip(values, known, strict=True)],
            [float(e["high"]) - v for v, (_, e, _) in zip(values, known, strict=True)],
        ]
        axis.barh(places, values, color=[colour for _, _, colour in known], height=0.7)
        axis.errorbar(values, places, xerr=around, fmt="none", ecolor="#333333", capsize=3, lw=1)
        axis.set_yticks(places, [label for label, _, _ in known])
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"Held-out purchases of {results['protocol']['n_users']:,} users, full ranking, "
        f"{results['intervals']['confidence']:.0%} intervals over users",
        fontsize=10,
    )
    return figure


def _exposure(policies: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(4.2 * len(policies), 3.2), layout="constrained")
    axes = figure.subplots(1, len(policies), squeeze=False)[0]
    for axis, policy in zip(axes, policies, strict=True):
        places = np.arange(len(policy["groups"]))
        for shift, when, colour in ((-0.2, "before", OTHER), (0.2, "after", ACCENT)):
            shares = [group[f"share_{when}"] for group in policy["groups"]]
            bars = axis.barh(places + shift, shares, height=0.38, color=colour, label=when)
            axis.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        axis.set_yticks(places, [group["group"] for group in policy["groups"]])
        axis.invert_yaxis()
        axis.set_xlim(0, 1.12)
        axis.set_title(f"{policy['policy']}: share of exposure", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(title="fair stage", fontsize=8, title_fontsize=8)
    return figure
