"""A quality document alone: its estimates with the intervals that its maker took.

Owns what can be decided without per-user arrays. An interval made at 95 % is
widened to a line's error rate as that of a normal estimate would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from scipy.stats import norm

from bench.gate.asked import Asked
from bench.gate.cells import How
from bench.gate.measured import Broken, Cell, Measured, Withheld, count, look_up, number
from bench.gate.results import Result
from bench.refused import near_miss

_HOWS = ("worst", "worst_ratio", "worst_gap")


@dataclass(frozen=True)
class GroupPath:
    """groups.ATTRIBUTE.METRIC.HOW, or groups.ATTRIBUTE.LABEL.METRIC."""

    attribute: str
    metric: str
    how: How | None = None
    label: str | None = None


def checked_protocol(document: Mapping[str, Any]) -> None:
    """Raises Broken: not measured on the held-out test part."""
    protocol = document.get("protocol")
    on = protocol.get("on") if isinstance(protocol, Mapping) else None
    if on != "test":
        raise Broken(f"measured on {on!r}, allowed: 'test', which no choice was made on")


def group_path(result: Result, path: str) -> GroupPath | None:
    """The parts of a path under groups; None for another path.

    Raises:
        Broken: the result has no groups of such an attribute.
    """
    if not path.startswith("groups."):
        return None
    rest = path.removeprefix("groups.")
    told = result.document.get("groups")
    known = list(told) if isinstance(told, Mapping) else []
    if result.users is not None:
        known += [a for a in result.users.attributes() if a not in known]
    if not known:
        raise Broken("the quality result has no groups")
    fitting = [a for a in known if rest.startswith(f"{a}.")]
    if not fitting:
        raise Broken(f"no groups of {rest!r}; there are groups of: {known}")
    attribute = max(fitting, key=len)
    inner, _, last = rest.removeprefix(f"{attribute}.").rpartition(".")
    if last in _HOWS and inner:
        return GroupPath(attribute, inner, how=cast(How, last))
    return GroupPath(attribute, last, label=inner) if inner else None


class DocumentReader:
    """The estimates of one document, for one line."""

    def __init__(self, document: Mapping[str, Any], asked: Asked) -> None:
        self._document, self._asked = document, asked
        made = document.get("intervals")
        self._made_with = made.get("confidence") if isinstance(made, Mapping) else None

    def measure(self) -> Measured:
        """What the document says. Raises Broken, Withheld."""
        path = self._asked.path
        parts = path.split(".")
        if parts[0] == "groups" and parts[-1] in _HOWS:
            return self._groups(".".join(parts[1:-1]), cast(How, parts[-1]))
        metrics = self._document.get("metrics")
        if isinstance(metrics, Mapping) and path in metrics:
            return self._of(metrics[path], path)
        found = look_up(self._document, "quality", path)
        if isinstance(found, Mapping):
            return self._of(found, path)
        protocol = self._document.get("protocol")
        users = protocol.get("n_users") if isinstance(protocol, Mapping) else None
        return Measured(number(found, path), count(users, "protocol.n_users"), "users")

    def told_cells(self, groups: GroupPath) -> dict[str, Measured]:
        """The cells that the document tells of a metric, but for those left out; none if it tells
        nothing of this metric."""
        told = self._document.get("groups")
        of = told.get(groups.attribute) if isinstance(told, Mapping) else None
        cells = of.values() if isinstance(of, Mapping) else ()
        if not any(isinstance(cell, Mapping) and groups.metric in cell for cell in cells):
            return {}
        return self._cells(f"{groups.attribute}.{groups.metric}")

    def _of(self, entry: Any, what: str, alphas: tuple[float, float] | None = None) -> Measured:
        """A `{"value", "low", "high", "n_users"}`, its ends at the error rates `alphas`; None: those
        of the line."""
        if not isinstance(entry, Mapping) or "value" not in entry:
            raise Broken(f"{what} is not an estimate")
        if isinstance(entry.get("withheld"), str):
            raise Withheld(
                f"{what} is withheld: {entry['withheld']}; leave_out can name such a group"
            )
        n = count(entry.get("n_users"), f"{what}.n_users")
        if n == 0:
            raise Broken(f"{what} rests on no user at all: an empty group")
        value = number(entry["value"], what)
        ends = entry.get("low"), entry.get("high")
        if ends == (None, None):
            return Measured(value, n, "users", note="no interval was measured")
        low, high = number(ends[0], f"{what}.low"), number(ends[1], f"{what}.high")
        if low > high:
            raise Broken(f"{what}: the interval runs backwards, {low} to {high}")
        if not low - 1e-9 <= value <= high + 1e-9:
            raise Broken(f"{what}: {value} is not in its own interval, {low} to {high}")
        made_with, confidence = self._made_with, self._asked.confidence
        if not isinstance(made_with, int | float) or isinstance(made_with, bool):
            note = "the result does not say which confidence its intervals have"
            return Measured(value, n, "users", note=note)
        if made_with < confidence - 1e-9:
            note = f"its interval has confidence {made_with:g}, the budgets ask for {confidence:g}"
            return Measured(value, n, "users", note=note)
        alpha_low, alpha_high = alphas or self._asked.alphas
        low = value - (value - low) * widened(made_with, alpha_low)
        high = value + (high - value) * widened(made_with, alpha_high)
        return Measured(value, n, "users", low, high, resampled=True)

    def _cells(self, path: str, alphas: tuple[float, float] | None = None) -> dict[str, Measured]:
        attributes = self._document.get("groups")
        if not isinstance(attributes, Mapping):
            raise Broken("the quality result has no groups")
        attribute = next((a for a in attributes if path.startswith(f"{a}.")), None)
        if attribute is None:
            raise Broken(f"no groups of {path!r}; there are groups of: {list(attributes)}")
        groups, metric = attributes[attribute], path.removeprefix(f"{attribute}.")
        if not isinstance(groups, Mapping):
            raise Broken(f"groups.{attribute} is not a table of groups")
        leave_out = self._asked.budget.leave_out
        for label in leave_out:
            if label not in groups:
                raise Broken(f"leave_out names {label!r}; the groups are: {list(groups)}")
        cells = {}
        for label, cell in groups.items():
            if label in leave_out:
                continue
            if not isinstance(cell, Mapping) or metric not in cell:
                known = list(cell) if isinstance(cell, Mapping) else []
                hint = near_miss(metric, known)
                raise Broken(f"group {label!r} of {attribute} has no {metric!r}{hint}")
            cells[label] = self._of(cell[metric], f"{metric} of group {label!r}", alphas)
        if len(cells) < 2:
            raise Broken(f"{attribute} has {len(cells)} groups to compare, allowed: 2 or more")
        return cells

    def _groups(self, path: str, how: How) -> Measured:
        """Arithmetic of the cells' ends: wide, so that it fails and passes late rather than wrongly.

        As in `bench.gate.cells` one end needs no correction for the search; for the other the error
        rate is split over the cells.
        """
        low, high = self._asked.alphas
        if how == "worst_gap":
            low, high = high, low
        plain = self._cells(path, (low, low))
        split = self._cells(path, (high / len(plain), high / len(plain)))
        worst = min(plain, key=lambda label: plain[label].value)
        best = max(plain, key=lambda label: plain[label].value)
        value, note = plain[worst].value, f"group {worst!r}"
        if how == "worst_gap":
            value, note = plain[best].value - value, f"{best!r} minus {worst!r}"
        elif how == "worst_ratio":
            if plain[best].value <= 0:
                raise Broken("every group is at 0: there is no ratio")
            value, note = value / plain[best].value, f"{worst!r} over {best!r}"
        low_end, high_end = _ends(how, _Ends.of(plain), _Ends.of(split))
        return Measured(
            value, min(cell.n for cell in plain.values()), "users",
            low_end, high_end, resampled=True, note=note,
            no_pass=self._no_pass(),
            cells=tuple(Cell(label, cell.n, None, cell.value, cell.low, split[label].high)
                        for label, cell in plain.items()),
        )  # fmt: skip

    def _no_pass(self) -> str:
        if "min_positives" not in self._asked.budget.model_fields_set:
            return ""
        return "min_positives needs the per-user arrays, which do not lie beside the result"


def widened(made_with: float, alpha: float) -> float:
    """By what an interval's half grows from confidence `made_with` to a one-sided error `alpha`."""
    # Rounded, so that the confidence asked for widens by nothing at all.
    return max(round(float(norm.isf(alpha) / norm.isf((1 - made_with) / 2)), 9), 1.0)


@dataclass(frozen=True)
class _Ends:
    lows: Sequence[float]
    highs: Sequence[float]

    @classmethod
    def of(cls, cells: Mapping[str, Measured]) -> _Ends | None:
        """The ends of all cells; None where one has none."""
        lows = [cell.low for cell in cells.values() if cell.low is not None]
        highs = [cell.high for cell in cells.values() if cell.high is not None]
        return cls(lows, highs) if len(lows) == len(highs) == len(cells) else None


def _ends(
    how: How, plain: _Ends | None, split: _Ends | None
) -> tuple[float, float] | tuple[None, None]:
    """The interval of the worst; the end that needs no correction from `plain`."""
    if plain is None or split is None:
        return None, None
    if how == "worst":
        return min(plain.lows), min(split.highs)
    if how == "worst_gap":
        return max(0.0, max(split.lows) - min(split.highs)), max(plain.highs) - min(plain.lows)
    if max(split.lows) <= 0 or max(plain.highs) <= 0:
        return None, None
    return min(plain.lows) / max(plain.highs), min(1.0, min(split.highs) / max(split.lows))
