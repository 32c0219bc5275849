"""The audit on one screen: what every policy keeps, and the users that are served worst.

Owns what the command prints. Everything is in `audit.md`; must not compute a measure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from training.audit.text import metric_titles, number, span

WIDTH = 80
MOST_POLICIES = 10
MOST_FOUND = 3
STATUSES = ("met", "infeasible", "not_found", "skipped")


def summary(document: dict[str, Any]) -> str:
    """At most 40 lines for a terminal of 80 columns; only long names make one longer."""
    protocol, policies = document["protocol"], document["policies"]
    lines = [
        f"audit    {document['bundle_id']}, {protocol['on']}: {protocol['n_users']:,} users, "
        f"lists of {protocol['k']}",
        *_cells(document["cells"]),
        "",
        *_policies(list(policies.values())),
    ]
    default = protocol["default_policy"]
    shown = default if default in policies else next(iter(policies))
    lines += ["", *_worst(document, shown)]
    return "\n".join(lines)


def _cells(cells: list[dict[str, Any]]) -> Iterator[str]:
    counts = Counter(cell["status"].partition(" (n=")[0] for cell in cells)
    told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    yield f"cells    {len(cells)} of users: {told or 'the data has no attributes of users'}"


def _policies(policies: list[dict[str, Any]]) -> Iterator[str]:
    shown = policies[:MOST_POLICIES]
    width = max(len("policy"), *(len(policy["policy"]) for policy in shown))
    heads = ("lists", "met", "infeas.", "not found", "skipped", "utility", "NDCG", "regret")
    yield f"{'policy':<{width}}" + "".join(f"{head:>{_width(head)}}" for head in heads)
    for policy in shown:
        values = (
            policy["lists"],
            *(policy["statuses"][status] for status in STATUSES),
            policy["utility_kept_mean"],
            policy["ndcg_kept"]["value"],
            policy["regret"]["mean"],
        )
        yield f"{policy['policy']:<{width}}" + "".join(
            f"{number(value):>{_width(head)}}" for head, value in zip(heads, values, strict=True)
        )
    if len(policies) > len(shown):
        yield f"... and {len(policies) - len(shown)} policies more"
    yield "Lists by receipt; utility of the model's scores and NDCG of purchases that are"
    yield "kept; regret: mean, to the best list within the bounds."


def _width(head: str) -> int:
    """Of a column of numbers: as wide as "0.9890" and ">-0.0001" need."""
    return max(9 if head == "regret" else 7, len(head) + 1)


def _worst(document: dict[str, Any], shown: str) -> Iterator[str]:
    titles = metric_titles(document["protocol"]["k"])
    confidence = document["intervals"]["confidence"]
    yield f"Users under {shown}: the worst cell of each metric;"
    yield f"its {confidence:.0%} interval holds for all cells at once"
    users = document["policies"][shown]["users"]
    for metric, title in titles.items():
        worst, overall = users["worst"][metric], users["overall"][metric]["value"]
        if worst["cell"] is None:
            yield f"  {title:<24}{worst['reason']}"
            continue
        interval = span(worst["low"], worst["high"])
        yield f"  {title:<24}{number(worst['value'])} {interval}, all users {number(overall)}"
        yield f"    {worst['cell']} (n={worst['n_users']}): {_distinguishable(worst)}"
    yield from _others(document, shown, titles)


def _others(document: dict[str, Any], shown: str, titles: dict[str, str]) -> Iterator[str]:
    """Those worst cells of the other policies that stand below the mean beyond chance."""
    others = [policy for name, policy in document["policies"].items() if name != shown]
    if not others:
        return
    found = [
        f"{policy['policy']}, {title}: {worst['cell']}"
        for policy in others
        for metric, title in titles.items()
        if _below(worst := policy["users"]["worst"][metric])
    ]
    yield (
        f"Under the other {len(others)}, {len(found)} of {len(others) * len(titles)} worst cells "
        "are distinguishable from the mean"
    )
    for one in found[:MOST_FOUND]:
        yield from wrap(one, WIDTH, initial_indent="    ", subsequent_indent="      ")


def _below(worst: dict[str, Any]) -> bool:
    return worst["cell"] is not None and worst["gap_high"] is not None and worst["gap_high"] < 0


def _distinguishable(worst: dict[str, Any]) -> str:
    if worst["gap_high"] is None:
        return "no interval, all its users have one value"
    return "below the mean" if _below(worst) else "not distinguishable from the mean"
