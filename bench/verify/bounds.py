"""A policy's rules -> what it asks of each group at each prefix, in plain Python.

Written from the definitions, for an auditor to read, and sharing nothing with the
server: a wrong kernel or compiler there cannot vouch for itself here. Proportions are
exact fractions; only FA*IR's binomial probabilities are floats, where these suffice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, comb, floor, log2
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.verify.vectors import Weights

SHAPING = ("amortised", "diverse")
NEAR = 1e-9
"""Of a probability so near to what it is compared with, floats do not tell which is larger."""


@dataclass(frozen=True)
class Document:
    """A policy as its document says.

    rules: (kind, group table, the section of that kind), in order. falls_back: whether a list may be
    its fallback.
    """

    name: str
    version: str
    kind: str
    discount: str
    refuses: bool
    rules: tuple[tuple[str, str, Any], ...]
    falls_back: bool = False

    @property
    def tables(self) -> tuple[str, ...]:
        """The group tables that the list is bounded in, or whose exposure is evened out."""
        bounding = [table for kind, table, _ in self.rules if kind not in SHAPING]
        shaping = [table for kind, table, _ in self.rules if table]
        return tuple(dict.fromkeys(bounding or shaping))

    @property
    def bounding(self) -> frozenset[str]:
        """The kinds of the rules that bound the list."""
        return frozenset(kind for kind, _, _ in self.rules if kind not in SHAPING)

    @property
    def exact(self) -> bool:
        """Whether the list is to be the best that keeps the bounds: floors alone or caps alone, of one
        table, or no bounds at all. Of other kinds it is to be near the best."""
        alone = self.bounding <= {"floors", "fa_ir"} or self.bounding <= {"cap"}
        return not self.bounding or (alone and len(self.tables) == 1)

    def section(self, kind: str) -> tuple[str, Any] | None:
        """The group table and the section of the first rule of a kind."""
        return next(((table, own) for of, table, own in self.rules if of == kind), None)

    @property
    def shaped_by(self) -> str:
        """What changes the order before bounds are kept: "amortised", "diverse", both or nothing."""
        return " and ".join(kind for kind, _, _ in self.rules if kind in SHAPING)


@dataclass(frozen=True)
class Known:
    """What the bounds rest on besides the document: the catalogue's items in each group of each
    table, how often the user bought of each, and the group of each item where that is known.

    positive: the kinds of events that count as bought. until_ms: the end of the bundle's data; no
    server's clock stands before it. ids: all items of the bundle. model_digest: of its model. weights:
    what goes with what.
    """

    items: Mapping[str, Mapping[str, int]]
    bought: Mapping[str, Mapping[str, int]]
    group_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    positive: frozenset[int] = frozenset()
    until_ms: int = 0
    ids: frozenset[str] = frozenset()
    model_digest: str = ""
    weights: Weights | None = None


def worth(discount: str, rank: int) -> float:
    """What a place is worth; rank from 1."""
    if discount not in ("log2", "reciprocal", "top_heavy") or rank < 1:
        return math.nan  # of no policy or list: what is computed with it agrees with nothing
    return {
        "log2": lambda: 1 / log2(rank + 1),
        "reciprocal": lambda: 1 / rank,
        "top_heavy": lambda: 0.8 ** (rank - 1),
    }[discount]()


def bounds(document: Document, known: Known, size: int) -> dict[str, list[tuple[int, int]]]:
    """Row -> for prefixes 0..size the least and the most of it that the list may hold.

    Rows are the labels of the one table, or "table:label" of several. Several rules of one table:
    the highest floor and the lowest ceiling count.
    """
    several = len(document.tables) > 1
    found: dict[str, list[tuple[int, int]]] = {}
    for table in document.tables:
        labels = list(known.items[table])
        rows = {label: [(0, k) for k in range(size + 1)] for label in labels}
        for kind, of, section in document.rules:
            if of != table:
                continue
            for label, own in _rule(kind, section, labels, known, table, size).items():
                rows[label] = [
                    (max(low, a), min(high, b))
                    for (low, high), (a, b) in zip(rows[label], own, strict=True)
                ]
        for label, row in rows.items():
            found[f"{table}:{label}" if several else label] = row
    return found


def _rule(
    kind: str, section: Any, labels: Sequence[str], known: Known, table: str, size: int
) -> dict[str, list[tuple[int, int]]]:
    prefixes = range(size + 1)
    if kind == "floors":
        return {g: [(floor(Fraction(p) * k), k) for k in prefixes] for g, p in section.items()}
    if kind == "window":
        found = {
            g: [(floor(Fraction(p) * k), ceil(Fraction(p) * k)) for k in prefixes]
            for g, p in section.items()
        }
        if sum(map(Fraction, section.values())) == 1:
            # Nothing is left over for the groups that it does not name.
            found |= {g: [(0, 0) for _ in prefixes] for g in labels if g not in section}
        return found
    if kind == "cap":
        most, first = section["at_most"], section["within_first"]
        row = [(0, min(k, most) if k <= first else k) for k in prefixes]
        return dict.fromkeys(section.get("groups") or labels, row)
    if kind == "fa_ir":
        return _fair_ir(section, size)
    if kind == "calibrated":
        target = user_shares(known, table, section.get("smoothing", 10))
        low, high = Fraction(section["at_least"]), Fraction(section["at_most"])
        if not any(target.values()):
            return {}
        return {
            g: [(floor(low * q * k), min(k, ceil(high * q * k))) for k in prefixes]
            for g, q in target.items()
        }
    return {}


def user_shares(known: Known, table: str, smoothing: int) -> dict[str, Fraction]:
    """The user's share of each group, as if he had bought `smoothing` more in the catalogue's
    proportions; all 0 where nothing is known (Steck 2018)."""
    items, bought = known.items[table], known.bought.get(table, {})
    catalogue, whole = sum(items.values()), sum(bought.values()) + smoothing
    if whole == 0:
        return dict.fromkeys(items, Fraction(0))
    return {
        g: (bought.get(g, 0) + smoothing * Fraction(n, catalogue)) / whole for g, n in items.items()
    }


def _fair_ir(section: Any, size: int) -> dict[str, list[tuple[int, int]]]:
    """FA*IR: the fewest of a group that chance explains (Zehlike et al. 2017, definition 3)."""
    first = section["within_first"]
    shares = {g: Fraction(p) for g, p in section["shares"].items()}
    alpha = Fraction(section["alpha"]) / len(shares)
    found = {}
    for g, p in shares.items():
        table = _binomial(first, float(p))
        if section.get("adjusted", True):
            steps = sorted({F for row in table for F in row if float(alpha) + NEAR >= F})
            # Probabilities that are equal differ by rounding here: they are one step.
            steps = [
                F for F, above in zip(steps, [*steps[1:], 2.0], strict=False) if above > F + 1e-12
            ]
            passing = None
            low, high = 0, len(steps)
            while low < high:
                middle = (low + high) // 2
                if _explained(_fewest(table, steps[middle]), p, alpha):
                    passing, low = steps[middle], middle + 1
                else:
                    high = middle
            # A step of 0 asks for every place: of a share of 1 chance explains no other.
            fewest = [0] * (first + 1) if passing is None else _fewest(table, passing)
        else:
            fewest = [
                sum(_by_chance(F, c, k, p, alpha) for c, F in enumerate(row))
                for k, row in enumerate(table)
            ]
        found[g] = [(fewest[min(k, first)], k) for k in range(size + 1)]
    return found


def _binomial(size: int, p: float) -> list[list[float]]:
    """Row k: F(0; k, p) to F(k - 1; k, p)."""
    table: list[list[float]] = [[]]
    for k in range(1, size + 1):
        total, row = 0.0, []
        for c in range(k):
            total += comb(k, c) * p**c * (1 - p) ** (k - c)
            row.append(total)
        table.append(row)
    return table


def _fewest(table: Sequence[Sequence[float]], alpha: float) -> list[int]:
    return [sum(alpha >= F for F in row) for row in table]


def _at_most(nearly: float, alpha: Fraction, exactly: Callable[[], Fraction]) -> bool:
    """Whether a probability is at most alpha; whole numbers decide what floats cannot tell."""
    if abs(nearly - float(alpha)) > NEAR:
        return nearly < float(alpha)
    return exactly() <= alpha


def _by_chance(nearly: float, c: int, k: int, p: Fraction, alpha: Fraction) -> bool:
    """Whether F(c; k, p), k draws having c of the group or fewer, is at most alpha."""

    def exactly() -> Fraction:
        return sum((comb(k, i) * p**i * (1 - p) ** (k - i) for i in range(c + 1)), Fraction())

    return _at_most(nearly, alpha, exactly)


def _explained(fewest: Sequence[int], p: Fraction, alpha: Fraction) -> bool:
    """Whether independent draws break a floor with probability alpha at most."""
    return _at_most(_fails(fewest, float(p)), alpha, lambda: _fails_exactly(fewest, p))


def _fails_exactly(fewest: Sequence[int], p: Fraction) -> Fraction:
    """`_fails` by counting: each draw has q equally likely outcomes, a of which are the group's."""
    a, q = p.numerator, p.denominator
    outcomes, failed = {0: 1}, 0
    for low in fewest[1:]:
        after: dict[int, int] = {}
        for c, n in outcomes.items():
            after[c] = after.get(c, 0) + n * (q - a)
            after[c + 1] = after.get(c + 1, 0) + n * a
        failed = failed * q + sum(n for c, n in after.items() if c < low)
        outcomes = {c: n for c, n in after.items() if c >= low}
    return Fraction(failed, q ** (len(fewest) - 1))


def _fails(fewest: Sequence[int], p: float) -> float:
    """How likely independent draws break a floor: the mass of every count, prefix by prefix."""
    mass, failed = {0: 1.0}, 0.0
    for low in fewest[1:]:
        after: dict[int, float] = {}
        for c, m in mass.items():
            after[c] = after.get(c, 0.0) + m * (1 - p)
            after[c + 1] = after.get(c + 1, 0.0) + m * p
        failed += sum(m for c, m in after.items() if c < low)
        mass = {c: m for c, m in after.items() if c >= low}
    return failed
