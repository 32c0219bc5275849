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
        "better": f"At NDCG@{k} this bundle is better than every baseline",
        "worse": f"At NDCG@{k} this bundle is worse than at least one baseline",
        "not told apart": f"At NDCG@{k} this bundle is not told apart from the best baseline",
        "not measured": "Nothing could be measured",
    }[standing(results)]
    if mine["value"] is None:
        return f"{begins}: nobody bought anything in the window."
    more = "more" if (gap["value"] or 0.0) >= 0 else "less"
    return (
        f"{begins}: {number(mine['value'])} {span(mine)}; that is "
        f"{number(abs(gap['value']))} {more} than the best of them, {TITLES[best]} "
        f"({number(results['baselines'][best][metric]['value'])}), interval of the difference "
        f"{span(gap)}.{_elsewhere(results)}"
    )


def _elsewhere(results: Told) -> str:
    """Where else a baseline is better, beyond chance."""
    k = results["protocol"]["k"]
    found = []
    for metric, title in (
        (f"recall_at_{k}", "recall"),
        (f"first_basket_ndcg_at_{k}", "NDCG of the first basket"),
        (f"first_basket_recall_at_{k}", "recall of the first basket"),
        (f"novel_ndcg_at_{k}", "NDCG of what is new to the user"),
        (f"novel_recall_at_{k}", "recall of what is new to the user"),
    ):
        best, gap = lead(results, metric)
        if gap["high"] is not None and gap["high"] < 0:
            found.append(f"{title}: {TITLES[best]}, by {number(-gap['value'])}")
    return f" Where else a baseline is better: {'; '.join(found)}." if found else ""


def buyers(row: Told) -> str:
    """How many users had bought the items of a row."""
    least, most = row["buyers_from"], row["buyers_to"]
    if most is None:
        return f"{least} users or more"
    return "nobody" if most == 0 else f"{least} to {most} users"
