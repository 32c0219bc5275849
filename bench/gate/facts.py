"""What is known of a metric before any run: its unit, its range, which way is better.

Owns the table. From it follows which bounds cannot fail, and what a margin protects.

>>> facts_of("load.latency_ms.p99").unit
'ms'
>>> cannot_fail("quality.ndcg_at_20", at_least=0.0, at_most=None, margin=None, relative=False)
'at_least 0 can never fail: quality.ndcg_at_20 is at least 0'
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]
Unit = Literal["share", "ms", "us", "count", "lists/s"]


@dataclass(frozen=True)
class Facts:
    """unit: "share" is a score or ratio without a unit of its own. lowest, highest: the ends of
    the range, infinite where there are none."""

    unit: Unit
    lowest: float
    highest: float
    better: Better


_SHARE_UP = Facts("share", 0.0, 1.0, "higher")
_SHARE_DOWN = Facts("share", 0.0, 1.0, "lower")
_COUNT_DOWN = Facts("count", 0.0, math.inf, "lower")
_TABLE: tuple[tuple[str, Facts], ...] = (
    (r"load\.(latency|latency_ok|service)_ms\..+", Facts("ms", 0.0, math.inf, "lower")),
    (r"load\.(rows|groups)\..+\.(p\d+|mean|max)", Facts("ms", 0.0, math.inf, "lower")),
    (r"load\.error_ratio", _SHARE_DOWN),
    (r"load\.(groups|exposure)\..+\.(accepted|answered|in_time)\.worst_gap", _SHARE_DOWN),
    (r"load\.(groups|exposure)\..+\.(accepted|answered|in_time)\.worst(_ratio)?", _SHARE_UP),
    (r"load\.throughput_rps", Facts("lists/s", 0.0, math.inf, "higher")),
    (r"load\.server_cpu_us_per_list", Facts("us", 0.0, math.inf, "lower")),
    (r"load\.receipts\.MET", Facts("count", 0.0, math.inf, "higher")),
    (r"load\.(receipts\..+|errors)", _COUNT_DOWN),
    (r"invariants\.violation(s|_count)", _COUNT_DOWN),
    (r"quality\..+\.worst_ratio", _SHARE_UP),
    (r"quality\..+\.worst_gap", _SHARE_DOWN),
    (r"quality\.price_of_fairness_.+", Facts("share", -math.inf, 1.0, "lower")),
    (r"quality\.ndcg_kept_.+", Facts("share", 0.0, math.inf, "higher")),
    (r"quality\.inferred_.+_minus_.+", Facts("share", -1.0, 1.0, "lower")),
    (r"quality\.inferred_.+", _SHARE_DOWN),
    (r"quality\.groups\..+\.inferred_[^.]+", _SHARE_DOWN),
    (r"quality\..*(ndcg|recall)_at_\d+_minus_.+", Facts("share", -1.0, 1.0, "higher")),
    (r"quality\..*(ndcg|recall)_at_\d+(\.worst)?", _SHARE_UP),
    (r"quality\.catalogue_coverage_at_\d+", _SHARE_UP),
    (r"quality\.item_exposure_gini", _SHARE_DOWN),
    (r"quality\.policies\..+\.(floor|ceiling)_violations_(before|after)", _COUNT_DOWN),
    (r"quality\.policies\..+\.infeasible", _COUNT_DOWN),
)


def facts_of(metric: str) -> Facts | None:
    """What is known of `metric`; None for one that is not in the table."""
    return next((facts for form, facts in _TABLE if re.fullmatch(form, metric)), None)


def cannot_fail(
    metric: str,
    *,
    at_least: float | None,
    at_most: float | None,
    margin: float | None,
    relative: bool,
) -> str | None:
    """Which of the bounds holds whatever happens, and why; None if each can be broken."""
    facts = facts_of(metric)
    if facts is None:
        return "a relative margin of 1 or more can never fail" if _all(margin, relative) else None
    if at_least is not None and at_least <= facts.lowest:
        return f"at_least {at_least:g} can never fail: {metric} is at least {facts.lowest:g}"
    if at_most is not None and at_most >= facts.highest:
        return f"at_most {at_most:g} can never fail: {metric} is at most {facts.highest:g}"
    if margin is not None and not relative and margin >= facts.highest - facts.lowest:
        width = facts.highest - facts.lowest
        return f"a margin of {margin:g} can never fail: {metric} has a range of {width:g}"
    if _all(margin, relative) and facts.better == "higher":
        return f"a relative margin of {margin:g} can never fail: it allows a fall to 0"
    return None


def _all(margin: float | None, relative: bool) -> bool:
    """Whether a relative margin allows to lose everything."""
    return margin is not None and relative and margin >= 1
