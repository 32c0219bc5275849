"""Numbers and verdicts in words, alike on the page, in the model card and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from training.pages.figures import TITLES, by_quality

Told = Mapping[str, Any]


def number(value: float | None, signed: bool = False) -> str:
    """Four places, as everywhere; "–" where nothing could be measured."""
    if value is None:
        return "–"
    return f"{value:+.4f}" if signed else f"{value:.4f}"


def span(estimate: Told) -> str:
    """The interval; empty where there is none."""
    if estimate.get("low") is None or estimate.get("high") is None:
        return ""
    return f"[{estimate['low']:.4f}, {estimate['high']:.4f}]"


def day(unix_ms: int) -> str:
    """The UTC day of an instant."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d")


def told(estimate: Told, signed: bool = False) -> str:
    """Value and interval, or why there is none."""
    if "withheld" in estimate:
        return f"withheld: {estimate['withheld']}"
    return f"{number(estimate['value'], signed)} {span(estimate)}".strip()


def lead(results: Told, metric: str) -> tuple[str, Told]:
    """The baseline that is best at a metric, and the ranker's lead over it."""

    def value(name: str) -> float:
        found = results["baselines"][name][metric]["value"]
        return -1.0 if found is None else float(found)

    best = max(results["baselines"], key=value)
    return best, results["metrics"][f"{metric}_minus_{best}"]


def standing(results: Told) -> str:
    """ "better", "worse", "not told apart" or "not measured": the ranker against all baselines."""
    metric = f"ndcg_at_{results['protocol']['k']}"
    gains = [results["metrics"][f"{metric}_minus_{name}"] for name in results["baselines"]]
    if any(one["low"] is None for one in gains):
        return "not measured"
    if all(one["low"] > 0 for one in gains):
        return "better"
    return "worse" if any(one["high"] < 0 for one in gains) else "not told apart"


def verdict(results: Told) -> str:
    """One sentence: the ranker against the best baseline."""
    k = results["protocol"]["k"]
    metric = f"ndcg_at_{k}"
    best, gain = by_quality(results)[0], results["metrics"]
    mine, gap = gain[metric], gain[f"{metric}_minus_{best}"]
    begins = {
        "better": "This bundle is better than every baseline",
        "worse": "This bundle is worse than at least one baseline",
        "not told apart": "This bundle is not told apart from the best baseline",
        "not measured": "Nothing could be measured",
    }[standing(results)]
    if mine["value"] is None:
        return f"{begins}: nobody bought anything in the window."
    return (
        f"{begins}: NDCG@{k} {number(mine['value'])} {span(mine)}, which is "
        f"{number(gap['value'], signed=True)} {span(gap)} beside the best of them, {TITLES[best]} "
        f"({number(results['baselines'][best][metric]['value'])})."
    )


def buyers(row: Told) -> str:
    """How many users had bought the items of a row."""
    least, most = row["buyers_from"], row["buyers_to"]
    if most is None:
        return f"{least} users or more"
    return "nobody" if most == 0 else f"{least} to {most} users"
