"""What was measured, or why it cannot be used; numbers of a document that are numbers.

Owns the two answers to "what is this metric?". Absent, null, not a number, an
empty group: each is `Unusable` and never a number, so that no rule further on
can mistake it for one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.refused import near_miss


@dataclass(frozen=True)
class Cell:
    """One group of a fairness line.

    value: its metric, its ratio to the best of the others, its gap to them, or its difference from
    the baseline, with low and high at the line's error rates. n: its users. positives: those with a
    value above 0, None where that is not known. p_holm: the one-sided p-value that it breaks the
    bound, after Holm over the cells.
    """

    label: str
    n: int
    positives: int | None
    value: float
    low: float | None = None
    high: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class Measured:
    """A number and the evidence for it.

    low, high: its interval, None where none was measured; an end may be infinite. n: how many
    `unit` (users, requests, pairs of runs, checks) it rests on. violations: whether each count is a
    proof of its own, so that a single one decides whatever n is. resampled: whether the interval
    has no width where all users are alike, and then says nothing. quantile, late: of a percentile,
    and how many requests missed the limit. effective_n: how many independent requests the
    dependent ones are worth; blocks: of time. lacks: evidence that is missing for any decision.
    no_pass: evidence that is missing for a pass. identical: whether no user differs from the baseline.
    cells: of a fairness line.
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
    late: int | None = None
    effective_n: float | None = None
    blocks: int | None = None
    lacks: str = ""
    no_pass: str = ""
    identical: bool = False
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Unusable:
    """Why there is no number to decide on.

    withheld: whether a number exists that is not told, since too few users are behind it, or a run
    was void. That is no defect of the release, so it is too little evidence and no failure; a pass
    it is never.
    """

    why: str
    withheld: bool = False


class Broken(Exception):
    """Carries an Unusable out of nested look-ups."""


class Withheld(Broken):
    """The same, of a group with too few users."""


class Void(Withheld):
    """A run that did not do what it was to do, and so says nothing of the release."""


def number(value: Any, what: str) -> float:
    """A finite number of a document. Raises Broken."""
    if value is None:
        raise Broken(f"{what} is null: nothing was measured")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Broken(f"{what} is {value!r}, not a number")
    if not math.isfinite(value):
        raise Broken(f"{what} is {float(value)!r}, not a finite number")
    return float(value)


def count(value: Any, what: str) -> int:
    """A count of a document. Raises Broken."""
    found = number(value, what)
    if found != int(found) or found < 0:
        raise Broken(f"{what} is {value!r}, not a count")
    return int(found)


def look_up(document: Mapping[str, Any], kind: str, path: str) -> Any:
    """The part of a document that `path` names; a key may hold dots. Raises Broken."""
    try:
        return _find(document, path.split("."))
    except LookupError:
        known = [leaf.removeprefix("metrics.") for leaf in _leaves(document)]
        raise Broken(f"the {kind} result has no {path!r}{near_miss(path, known)}") from None


def _leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, Mapping) and "value" not in node:
        for key, inner in node.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path


def _find(node: Any, parts: Sequence[str]) -> Any:
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
