"""What a release must be judged on: a metric without a line, a group without a number, is a fail.

Owns the `[coverage]` table. A gate that judges what it happens to find passes a
release that stopped measuring.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.gate.budgets import Budgets
from bench.gate.lines import Line, Status

_REASON = "What the release must be judged on stands in [coverage]; what is missing is no pass."


def coverage_lines(budgets: Budgets, lines: Sequence[Line]) -> list[Line]:
    """A line for each metric and attribute that must be covered."""
    told = [line for line in lines if line.kind in ("budget", "margin")]
    return [
        *(_metric(metric, told) for metric in budgets.coverage.metrics),
        *(_groups(name, labels, told) for name, labels in budgets.coverage.groups.items()),
    ]


def _metric(metric: str, lines: Sequence[Line]) -> Line:
    own = [line for line in lines if line.metric == metric]
    if not own:
        return _line(metric, Status.FAIL, "no line decides it")
    if all(line.value is None for line in own):
        return _line(metric, Status.FAIL, "a line decides it, but nothing was measured")
    return _line(metric, Status.PASS, "a line decides it")


def _groups(attribute: str, labels: Sequence[str], lines: Sequence[Line]) -> Line:
    name = f"groups.{attribute}"
    own = [line for line in lines if line.metric.startswith(f"quality.{name}.")]
    seen = {cell.label for line in own for cell in line.cells}
    if not own:
        return _line(name, Status.FAIL, f"no line looks at the groups of {attribute}")
    if not seen:
        return _line(name, Status.FAIL, "a line looks at them, but no group was measured")
    if missing := [label for label in labels if label not in seen]:
        return _line(name, Status.FAIL, f"no line looks at {', '.join(missing)}")
    return _line(name, Status.PASS, f"{len(seen)} groups are looked at")


def _line(metric: str, status: Status, why: str) -> Line:
    return Line(metric, status, bound="covered", why=why, reason=_REASON, kind="coverage")
