"""The verdict as one HTML page that needs nothing beside it: lines, pictures, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from bench.gate import pictures
from bench.gate.lines import Verdict
from bench.gate.report import seen_text, summary
from bench.gate.results import Result

GROUP_METRICS = ("first_basket_recall_at_20", "ndcg_at_20")
"""The first that an evaluation has is drawn."""
HOW = {
    "intervals": "Each line on an axis of its own: the point is what was seen, the bar its interval, the dashed "
    "line the limit, and the shaded side is allowed. A line passes only if its whole bar is on that side.",
    "latency": "How many of all requests were answered within so long; what failed is never answered. Where the "
    "two curves differ, a generator that waits for answers would have hidden it.",
    "groups": "Each group of users, with its interval; of groups of too few users nothing is told.",
    "exposure": "The share of exposure that each group of items gets, by score alone and under the policy.",
}


def page(verdict: Verdict, results: Sequence[Result]) -> str:
    """The page. results: those that the verdict rests on, for the pictures."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    # What did not pass first: that is what a reader must act on.
    order = {"fail": 0, "not enough evidence": 1, "pass": 2}
    lines = [
        {
            "status": line.status.value, "metric": line.metric, "seen": seen_text(line),
            "bound": line.bound, "why": line.why, "reason": line.reason, "owner": line.owner,
        }
        for line in sorted(verdict.lines, key=lambda line: order[line.status.value])
    ]  # fmt: skip
    drawn, left_out = _pictures(verdict, results)
    return environment.get_template("page.html.j2").render(
        verdict=verdict,
        summary=summary(verdict),
        lines=lines,
        pictures=drawn,
        facts=[*_facts(verdict, results), *(("not drawn", told) for told in left_out)],
    )


def _pictures(
    verdict: Verdict, results: Sequence[Result]
) -> tuple[list[dict[str, str]], list[str]]:
    """What is drawn, and what is left out since it is not as its schema says."""
    left_out = []
    drawn: list[tuple[str, str, str | None]] = [
        ("Intervals against their limits", "intervals", pictures.intervals(verdict))
    ]
    loads = [result for result in results if result.latencies_ms is not None]
    if loads:
        limits = [
            line.high_bound for line in verdict.lines
            if line.metric.startswith("load.latency_ms.") and line.high_bound is not None
            and line.kind == "budget"
        ]  # fmt: skip
        due = np.concatenate([one.latencies_ms for one in loads if one.latencies_ms is not None])
        service = [one.service_ms for one in loads if one.service_ms is not None]
        drawn.append(
            ("Latency", "latency", pictures.latency(
                due, np.concatenate(service) if len(service) == len(loads) else None,
                sorted(set(limits)),
            ))
        )  # fmt: skip
    for result in results:
        if result.kind != "quality":
            continue
        try:
            drawn += _of_quality(result.document)
        except (AttributeError, KeyError, TypeError, ValueError):
            # The verdict stands whatever else a file of somebody else's holds.
            left_out.append(f"{result.source}: not as 'equipoise gate schema quality' says")
    found = [
        {"title": title, "how": HOW[kind], "svg": svg}
        for title, kind, svg in drawn
        if svg is not None
    ]
    return found, left_out


def _of_quality(document: Mapping[str, Any]) -> list[tuple[str, str, str | None]]:
    drawn: list[tuple[str, str, str | None]] = []
    for metric in GROUP_METRICS:
        svg = pictures.groups(document, metric)
        if svg is not None:
            drawn.append((f"Groups of users: {metric}", "groups", svg))
            break
    policy = _default_policy(document)
    if policy:
        drawn.append((f"Exposure under {policy}", "exposure", pictures.exposure(document, policy)))
    return drawn


def _default_policy(document: Mapping[str, Any]) -> str | None:
    """That of requests which name none, else the first with shares."""
    policies = document.get("policies")
    if not isinstance(policies, Mapping):
        return None
    default = document.get("model", {}).get("default_policy")
    if isinstance(default, str) and default.replace("-", "_") in policies:
        return default.replace("-", "_")
    return next((name for name, facts in policies.items() if facts.get("groups")), None)


def _facts(verdict: Verdict, results: Sequence[Result]) -> list[tuple[str, str]]:
    facts = [("bundle", verdict.bundle_id)]
    if verdict.baseline:
        facts.append(("baseline", verdict.baseline))
    facts.append(("budgets", f"{verdict.budgets}, sha256 {verdict.budgets_sha256}"))
    facts.append(("look", f"{verdict.look} of {verdict.looks}"))
    for result in results:
        model = f", model {result.model_digest}" if result.model_digest else ""
        facts.append((result.kind, f"{result.source}{model}"))
        machine = result.document.get("machine")
        if isinstance(machine, Mapping):
            facts.append((f"machine of {result.kind}", ", ".join(str(v) for v in machine.values())))
    return facts
