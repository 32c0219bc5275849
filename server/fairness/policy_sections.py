"""The sections of a policy document, as its validator reads them: forms and ranges, field by field.

What a section means for a list is in `server.fairness.tables` and the kinds' own files; how
sections make a policy is in `server.fairness.policy`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_DENOMINATOR = 10_000
MAX_FACTOR = 10
MAX_NEAR = 100
"""The largest denominator that an error proposes."""
MAX_GROUPS = 1000
MAX_RULES = 8
MAX_TABLES = 4
"""Group tables that one policy may bound at once."""

RuleKind = Literal["floors", "window", "fa_ir", "cap", "calibrated", "amortised", "diverse"]
Kind = Literal[
    "none",
    "floors",
    "window",
    "fa_ir",
    "cap",
    "calibrated",
    "intersection",
    "amortised",
    "diverse",
    "stack",
]
Discount = Literal["log2", "reciprocal", "top_heavy"]
SHAPING: tuple[RuleKind, ...] = ("amortised", "diverse")
"""The kinds that change the order of the candidates before bounds are kept."""

# ASCII: `\d` alone takes the digits of every script, which other readers of a policy do not.
_FRACTION = re.compile(r"(\d{1,5})/(\d{1,5})", re.ASCII)

_NEARLY = re.compile(r"(\d{1,6}/\d{1,6}|\d{0,6}\.?\d{1,6})( ?%)?", re.ASCII)


def _fraction(text: object, most: int) -> str:
    """Before the validator asks for text, so that a number too is told what to write instead."""
    found = _FRACTION.fullmatch(text) if isinstance(text, str) else None
    if found is None or not 1 <= int(found[2]) <= MAX_DENOMINATOR or Fraction(found[0]) > most:
        words = (
            f"allowed: an integer fraction p/q from 0 to {most}, q from 1 to {MAX_DENOMINATOR}, "
            'in text, such as "1/5"'
        )
        meant = _number(text)
        if meant is not None and 0 <= meant <= most:
            nearest = meant.limit_denominator(MAX_NEAR)
            words += f'; here "{nearest.numerator}/{nearest.denominator}"'
        raise ValueError(words)
    return found[0]


def _number(value: object) -> Fraction | None:
    """What a number, or a text such as "10%", "0.1" or "1/20000", may have meant."""
    percent = False
    if isinstance(value, str):
        found = _NEARLY.fullmatch(value)
        if found is None:
            return None
        value, percent = found[1], bool(found[2])
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None  # nan, infinite, or something over 0
    return number / 100 if percent else number


FractionText = Annotated[str, BeforeValidator(lambda text: _fraction(text, most=1))]
FactorText = Annotated[str, BeforeValidator(lambda text: _fraction(text, most=MAX_FACTOR))]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Shares = Annotated[dict[str, FractionText], Field(min_length=1, max_length=MAX_GROUPS)]
Place = Annotated[int, Field(strict=True, ge=1, le=1000)]


def _each_once(groups: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((group for group in groups if groups.count(group) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands in it twice; allowed: each group once")
    return groups


def _told(reason: str) -> str:
    """Whoever stands lower than by score is owed words, not blanks."""
    if not any(map(str.isalnum, reason)):
        raise ValueError("allowed: words that say why, not blanks or signs alone")
    return reason


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cap(Section):
    """Of any group (or of each in `groups`) at most so many among the first so many."""

    at_most: Place
    within_first: Place
    # Without the key all groups are meant; an empty list could mean that no group is.
    groups: Annotated[
        tuple[str, ...], Field(min_length=1, max_length=MAX_GROUPS), AfterValidator(_each_once)
    ] = ()


class FairIr(Section):
    """FA*IR's floors, see `server.fairness.fair_ir`: how often a fair list may fail, over its
    first places (or, where not adjusted, at each of them), with these shares."""

    alpha: FractionText
    within_first: Annotated[int, Field(strict=True, ge=1, le=400)]
    adjusted: Annotated[bool, Field(strict=True)] = True
    shares: Shares


class Calibrated(Section):
    """The user's own shares q bound the list (Steck, RecSys 2018): at least
    floor(at_least q k) and at most ceil(at_most q k) of a group among the first k places.

    q is what the user bought, as if he had bought `smoothing` more in the catalogue's proportions.
    """

    at_least: FractionText
    at_most: FactorText
    smoothing: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 10


class Amortised(Section):
    """Exposure of the groups over all lists, see `server.fairness.amortise`.

    strength: what an item of a group of average target gains at most (p_mmf), in units of the
    score; lists: after how many lists without any exposure it gains that. targets: the same for
    every group, or by the items that it has in the catalogue.
    """

    method: Literal["p_mmf", "fair_co"]
    strength: FactorText
    lists: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 100
    targets: Literal["equal", "catalogue"] = "equal"


class Diverse(Section):
    """Items that differ from those above them, see `server.fairness.diversify`; trade_off 0 is
    plain score order."""

    method: Literal["mmr", "dpp"]
    trade_off: FractionText


class RuleDocument(Section):
    """One rule of a stack, or the whole of a policy that is not one."""

    group_table: Annotated[str, Field(max_length=64)] = ""
    floors: Shares | None = None
    fa_ir: FairIr | None = None
    window: Shares | None = None
    cap: Cap | None = None
    calibrated: Calibrated | None = None
    amortised: Amortised | None = None
    diverse: Diverse | None = None


class StackRule(RuleDocument):
    kind: RuleKind


class Document(RuleDocument):
    name: Name
    version: Annotated[str, Field(min_length=1, max_length=64)]
    kind: Kind
    reason: Annotated[str, Field(min_length=10, max_length=1000), AfterValidator(_told)]
    on_infeasible: Literal["serve", "refuse"] = "serve"
    on_late: Literal["refuse", "fallback"] = "refuse"
    discount: Discount = "log2"
    intersection: Annotated[
        dict[str, Shares] | None, Field(min_length=2, max_length=MAX_TABLES)
    ] = None
    stack: Annotated[tuple[StackRule, ...] | None, Field(min_length=2, max_length=MAX_RULES)] = None


SECTIONS: dict[str, type[Section]] = {
    "fa_ir": FairIr,
    "cap": Cap,
    "calibrated": Calibrated,
    "amortised": Amortised,
    "diverse": Diverse,
}
"""The sections that have keys of their own; those of the other kinds have groups or rules."""
HEAD = ("name", "version", "kind", "reason", "group_table", "on_infeasible", "on_late", "discount")
"""The keys of a policy that stand above its sections."""
