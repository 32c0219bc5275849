"""A metric's path and the results -> what was measured, or why it cannot be used.

Owns the meaning of paths. Absent, null, not a number, an empty group: each is
`Unusable` and never a number, so that no rule further on can mistake it for one.

quality.NAME                                an estimate of `metrics`
quality.groups.ATTRIBUTE.GROUP.METRIC       an estimate of one group
quality.groups.ATTRIBUTE.METRIC.worst       the worst group's value
quality.groups.ATTRIBUTE.METRIC.worst_ratio the worst group's value over the best group's
load.latency_ms.pNN, pNN.N                  from the raw samples; a failed request is +inf
load.error_ratio                            with its exact interval
invariants.violations                       how many
KIND.PATH                                   any other number of the document
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.gate.intervals import percentile, percentile_interval, share_interval
from bench.gate.results import Result
from bench.refused import near_miss

_PERCENTILE = re.compile(r"latency_ms\.p(\d{1,2}(?:\.\d+)?)")
MAKERS = {"quality": "evaluate"}
_OF_GROUPS = ("worst", "worst_ratio")


@dataclass(frozen=True)
class Measured:
    """A number and the evidence for it.

    low, high: its interval, None where none was measured; an end may be infinite. n: how many
    `unit` (users, requests, checks) it rests on. violations: whether each count is a proof of
    its own, so that a single one decides whatever n is. resampled: whether the interval comes
    from a bootstrap, which has no width where all users are alike and then says nothing.
    quantile: of a percentile.
    """

    value: float
    n: int
    unit: str
    low: float | None = None
    high: float | None = None
    violations: bool = False
    resampled: bool = False
    quantile: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Unusable:
    """Why there is no number to decide on.

    withheld: whether a number exists that is not told, since too few users are behind it. That is
    no defect of the release, so it is too little evidence and no failure; a pass it is never.
    """

    why: str
    withheld: bool = False


class _Broken(Exception):
    """Carries an Unusable out of nested look-ups."""


class _Withheld(_Broken):
    """The same, of a group with too few users."""


def _number(value: Any, what: str) -> float:
    if value is None:
        raise _Broken(f"{what} is null: nothing was measured")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Broken(f"{what} is {value!r}, not a number")
    if not math.isfinite(value):
        raise _Broken(f"{what} is {float(value)!r}, not a finite number")
    return float(value)


def _count(value: Any, what: str) -> int:
    number = _number(value, what)
    if number != int(number) or number < 0:
        raise _Broken(f"{what} is {value!r}, not a count")
    return int(number)


def _estimate(entry: Any, what: str, confidence: float, made_with: Any) -> Measured:
    """A `{"value", "low", "high", "n_users"}` of a quality result."""
    if not isinstance(entry, Mapping) or "value" not in entry:
        raise _Broken(f"{what} is not an estimate")
    if isinstance(entry.get("withheld"), str):
        raise _Withheld(f"{what} is withheld: {entry['withheld']}; leave_out can name such a group")
    n = _count(entry.get("n_users"), f"{what}.n_users")
    if n == 0:
        raise _Broken(f"{what} rests on no user at all: an empty group")
    value = _number(entry["value"], what)
    ends = entry.get("low"), entry.get("high")
    if ends == (None, None):
        return Measured(value, n, "users", note="no interval was measured")
    low, high = _number(ends[0], f"{what}.low"), _number(ends[1], f"{what}.high")
    if low > high:
        raise _Broken(f"{what}: the interval runs backwards, {low} to {high}")
    if not low - 1e-9 <= value <= high + 1e-9:
        raise _Broken(f"{what}: {value} is not in its own interval, {low} to {high}")
    if not isinstance(made_with, int | float) or isinstance(made_with, bool):
        note = "the result does not say which confidence its intervals have"
        return Measured(value, n, "users", note=note)
    if made_with < confidence - 1e-9:
        note = f"its interval has confidence {made_with:g}, the budgets ask for {confidence:g}"
        return Measured(value, n, "users", note=note)
    return Measured(value, n, "users", low, high, resampled=True)


def _leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, Mapping) and "value" not in node:
        for key, inner in node.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path


def _find(node: Any, parts: Sequence[str]) -> Any:
    """Walk into a document; a key may hold dots. Raises LookupError."""
    if not parts:
        return node
    if isinstance(node, Mapping):
        for size in range(len(parts), 0, -1):
            key = ".".join(parts[:size])
            if key in node:
                try:
                    return _find(node[key], parts[size:])
                except LookupError:
                    continue
    raise LookupError(".".join(parts))


def _look_up(document: Mapping[str, Any], kind: str, path: str) -> Any:
    try:
        return _find(document, path.split("."))
    except LookupError:
        known = [leaf.removeprefix("metrics.") for leaf in _leaves(document)]
        raise _Broken(f"the {kind} result has no {path!r}{near_miss(path, known)}") from None


class _Quality:
    def __init__(self, document: Mapping[str, Any], confidence: float) -> None:
        self._document = document
        self._confidence = confidence
        made = document.get("intervals")
        self._made_with = made.get("confidence") if isinstance(made, Mapping) else None

    def _of(self, entry: Any, what: str) -> Measured:
        return _estimate(entry, what, self._confidence, self._made_with)

    def measure(self, path: str, leave_out: Sequence[str]) -> Measured:
        protocol = self._document.get("protocol")
        on = protocol.get("on") if isinstance(protocol, Mapping) else None
        if on != "test":
            raise _Broken(f"measured on {on!r}, allowed: 'test', which no choice was made on")
        parts = path.split(".")
        if parts[0] == "groups" and parts[-1] in _OF_GROUPS:
            return self._groups(".".join(parts[1:-1]), parts[-1], leave_out)
        metrics = self._document.get("metrics")
        if isinstance(metrics, Mapping) and path in metrics:
            return self._of(metrics[path], path)
        found = _look_up(self._document, "quality", path)
        if isinstance(found, Mapping):
            return self._of(found, path)
        protocol = self._document.get("protocol")
        users = protocol.get("n_users") if isinstance(protocol, Mapping) else None
        return Measured(_number(found, path), _count(users, "protocol.n_users"), "users")

    def _cells(self, path: str, leave_out: Sequence[str]) -> dict[str, Measured]:
        attributes = self._document.get("groups")
        if not isinstance(attributes, Mapping):
            raise _Broken("the quality result has no groups")
        attribute = next((a for a in attributes if path.startswith(f"{a}.")), None)
        if attribute is None:
            raise _Broken(f"no groups of {path!r}; there are groups of: {list(attributes)}")
        groups, metric = attributes[attribute], path.removeprefix(f"{attribute}.")
        if not isinstance(groups, Mapping):
            raise _Broken(f"groups.{attribute} is not a table of groups")
        for label in leave_out:
            if label not in groups:
                raise _Broken(f"leave_out names {label!r}; the groups are: {list(groups)}")
        cells = {}
        for label, cell in groups.items():
            if label in leave_out:
                continue
            if not isinstance(cell, Mapping) or metric not in cell:
                known = list(cell) if isinstance(cell, Mapping) else []
                hint = near_miss(metric, known)
                raise _Broken(f"group {label!r} of {attribute} has no {metric!r}{hint}")
            cells[label] = self._of(cell[metric], f"{metric} of group {label!r}")
        if len(cells) < 2:
            raise _Broken(f"{attribute} has {len(cells)} groups to compare, allowed: 2 or more")
        return cells

    def _groups(self, path: str, how: str, leave_out: Sequence[str]) -> Measured:
        cells = self._cells(path, leave_out)
        worst = min(cells, key=lambda label: cells[label].value)
        best = max(cells, key=lambda label: cells[label].value)
        n = min(cell.n for cell in cells.values())
        lows = [cell.low for cell in cells.values() if cell.low is not None]
        highs = [cell.high for cell in cells.values() if cell.high is not None]
        complete = len(lows) == len(highs) == len(cells)
        if how == "worst":
            low, high = (min(lows), min(highs)) if complete else (None, None)
            value, note = cells[worst].value, f"group {worst!r}"
        else:
            if cells[best].value <= 0:
                raise _Broken("every group is at 0: there is no ratio")
            value = cells[worst].value / cells[best].value
            note = f"{worst!r} over {best!r}"
            # Interval arithmetic: wide, so that it fails and passes late rather than wrongly.
            low, high = (
                (min(lows) / max(highs), min(1.0, min(highs) / max(lows)))
                if complete and max(lows) > 0
                else (None, None)
            )
        return Measured(value, n, "users", low, high, resampled=True, note=note)


def _load(result: Result, path: str, confidence: float) -> Measured:
    document = result.document
    n = _count(document.get("requests"), "requests")
    match = _PERCENTILE.fullmatch(path)
    if match is not None:
        quantile = float(match[1]) / 100
        if not 0 < quantile < 1:
            raise _Broken(f"{path}: a percentile stands between 0 and 100")
        if n == 0:
            raise _Broken("no request was made")
        if result.latencies_ms is None:
            value = _number(_look_up(document, "load", path), path)
            return Measured(value, n, "requests", note="no samples, so no interval")
        samples = result.latencies_ms
        if math.isnan(samples.sum()) and any(math.isnan(sample) for sample in samples):
            raise _Broken("a latency among the samples is not a number")
        low, high = percentile_interval(samples, quantile, confidence)
        value = percentile(samples, quantile)
        return Measured(value, n, "requests", low, high, quantile=quantile)
    value = _number(_look_up(document, "load", path), path)
    if path == "error_ratio" and n > 0:
        errors = _count(document.get("errors"), "errors")
        if errors > n or not math.isclose(value, errors / n, abs_tol=1e-9):
            raise _Broken(f"error_ratio is {value:g}, but {errors} of {n} requests failed")
        low, high = share_interval(errors, n, confidence)
        return Measured(value, n, "requests", low, high)
    return Measured(value, n, "requests")


def _invariants(document: Mapping[str, Any], path: str) -> Measured:
    checked = document.get("checked")
    if not isinstance(checked, Mapping):
        raise _Broken("the invariants result does not say what was checked")
    if document.get("only"):
        raise _Broken(f"the run checked only {document['only']!r}, not every property")
    if document.get("tables_known") is not True:
        raise _Broken("the run did not know the bundle, so bounds were not checked; give --bundle")
    never = [name for name, times in checked.items() if not _count(times, f"checked.{name}")]
    if never:
        raise _Broken(
            f"{len(never)} theorems were never checked, such as {never[0]!r}; raise --examples"
        )
    n = sum(checked.values())
    if path in ("violations", "violation_count"):
        told, listed = document.get("violation_count"), document.get("violations")
        count = _count(told, "violation_count")
        if not isinstance(listed, Sequence) or len(listed) != count:
            raise _Broken(f"violation_count is {count}, but the list of violations disagrees")
        return Measured(count, n, "checks", violations=True)
    return Measured(_number(_look_up(document, "invariants", path), path), n, "checks")


def measure(
    results: Sequence[Result], metric: str, leave_out: Sequence[str], confidence: float
) -> Measured | Unusable:
    """What the results say about `metric`."""
    kind, _, path = metric.partition(".")
    result = next((result for result in results if result.kind == kind), None)
    if result is None:
        return Unusable(
            f"no {kind} result was given; 'equipoise {MAKERS.get(kind, kind)}' makes one"
        )
    try:
        if kind == "quality":
            return _Quality(result.document, confidence).measure(path, leave_out)
        if leave_out:
            return Unusable("leave_out belongs to worst and worst_ratio of quality.groups")
        if kind == "load":
            return _load(result, path, confidence)
        return _invariants(result.document, path)
    except _Broken as broken:
        return Unusable(str(broken), withheld=isinstance(broken, _Withheld))
