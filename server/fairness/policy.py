"""A policy: a TOML document that says which bounds every list must keep, and why.

Owns the form of the document. Proportions are integer fractions in text ("1/5"),
since `floor(0.29 * 100)` is 28. Knows no items: a policy is compiled against the
labels of a group table in `server.fairness.compile`.

    name = "small-makers"        # [a-z0-9-], 1 to 64
    version = "1"
    kind = "floors"              # or none, fa_ir, window, cap
    group_table = "maker_size"   # not for none
    reason = "Small makers must be seen."
    on_infeasible = "serve"      # the default, or "refuse"
    [floors]                     # the section named like the kind; none has none
    small = "1/5"                # at least floor(k / 5) small ones among the first k, for every k

[fa_ir]: alpha = "1/10", within_first = 20, and [fa_ir.shares] GROUP = "p/q": the floors of FA*IR, at
which chance no longer explains how few there are; see `server.fairness.fair_ir`.
[window]: GROUP = "p/q" for floor(p k / q) to ceil(p k / q) of the first k. Groups that it does not
name get what is left over 1, without bounds of their own.
[cap]: at_most = 3, within_first = 20: of any group at most 3 among the first 20.

>>> parse_policy('''
... name = "small-makers"
... version = "1"
... kind = "floors"
... group_table = "provider_tier"
... reason = "Small makers must be seen."
... floors = {small = "1/5"}
... ''', "example").shares
(('small', Fraction(1, 5)),)
"""

from __future__ import annotations

import difflib
import hashlib
import re
import tomllib
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from server.errors import PolicyRefused, shown

MAX_DENOMINATOR = 10_000
_ALLOWED_FRACTION = 'allowed: an integer fraction from 0 to 1 in text, such as "1/5"'
_FRACTION = re.compile(r"(\d{1,5})/(\d{1,5})")

Kind = Literal["none", "floors", "fa_ir", "window", "cap"]


def _fraction(text: str) -> str:
    found = _FRACTION.fullmatch(text)
    if (
        found is None
        or not 0 <= int(found[1]) <= int(found[2]) <= MAX_DENOMINATOR
        or found[2] == "0"
    ):
        raise ValueError(_ALLOWED_FRACTION)
    return text


FractionText = Annotated[str, Field(strict=True), AfterValidator(_fraction)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Shares = Annotated[dict[str, FractionText], Field(min_length=1, max_length=1000)]


class _Cap(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    at_most: Annotated[int, Field(strict=True, ge=1, le=1000)]
    within_first: Annotated[int, Field(strict=True, ge=1, le=1000)]


class _FairIr(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    alpha: FractionText
    within_first: Annotated[int, Field(strict=True, ge=1, le=400)]
    adjusted: Annotated[bool, Field(strict=True)] = True
    shares: Shares


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Name
    version: Annotated[str, Field(min_length=1, max_length=64)]
    kind: Kind
    reason: Annotated[str, Field(min_length=10, max_length=1000)]
    group_table: Annotated[str, Field(max_length=64)] = ""
    on_infeasible: Literal["serve", "refuse"] = "serve"
    floors: Shares | None = None
    fa_ir: _FairIr | None = None
    window: Shares | None = None
    cap: _Cap | None = None


@dataclass(frozen=True)
class Policy:
    """One policy as its owner wrote it.

    shares: for floors, fa_ir and window, (group, proportion) in the document's order.
    at_most, within_first: for cap, "at most so many of any group among the first so many".
    alpha, adjusted, within_first: for fa_ir, how often a fair list may fail, whether over the whole
    list or at each prefix, and the list's length that this is said of.
    on_infeasible: "serve" the best list that the supply allows, or "refuse".
    digest: SHA-256 of the document's UTF-8 bytes, lower-case hex.
    """

    name: str
    version: str
    kind: Kind
    group_table: str
    reason: str
    on_infeasible: Literal["serve", "refuse"]
    document: str
    digest: str
    shares: tuple[tuple[str, Fraction], ...] = ()
    at_most: int = 0
    within_first: int = 0
    alpha: Fraction = Fraction(0)
    adjusted: bool = True


def _told(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = [*_Document.model_fields, *_Cap.model_fields, *_FairIr.model_fields]
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"unknown key{f'; did you mean {near[0]!r}?' if near else ''}"
    if error["type"] == "missing":
        return "is missing"
    message = error["msg"].removeprefix("Value error, ")
    told = f"got {shown(error['input'])}; {message}"
    if (
        "." in where
        and where.startswith(("floors", "fa_ir", "window"))
        and "fraction" not in message
    ):
        told += f"; {_ALLOWED_FRACTION}"
        if isinstance(error["input"], float) and 0 <= error["input"] <= 1:
            nearest = Fraction(error["input"]).limit_denominator(100)
            told += f'; here "{nearest.numerator}/{nearest.denominator}"'
    return told


def parse_policy(document: str, source: str) -> Policy:
    """Read a policy from the text of its TOML document; `source` names it in errors.

    Raises:
        PolicyRefused: not TOML, an unknown key, a value that is not allowed, or a section that
            does not belong to the kind.
    """
    try:
        parsed = _Document.model_validate(tomllib.loads(document))
    except tomllib.TOMLDecodeError as error:
        raise PolicyRefused(source, "document", str(error)) from error
    except ValidationError as invalid:
        # A misspelt key is told before the key that it leaves missing.
        first = min(invalid.errors(), key=lambda error: error["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        raise PolicyRefused(source, key, _told(first)) from invalid
    sections = {
        "floors": parsed.floors, "fa_ir": parsed.fa_ir, "window": parsed.window, "cap": parsed.cap,
    }  # fmt: skip
    for section, value in sections.items():
        if section == parsed.kind and value is None:
            raise PolicyRefused(source, section, f"is missing: kind {parsed.kind!r} needs it")
        if section != parsed.kind and value is not None:
            raise PolicyRefused(source, section, f"does not belong to kind {parsed.kind!r}")
    if (parsed.kind == "none") != (parsed.group_table == ""):
        need = "no group table" if parsed.kind == "none" else "the name of a group table"
        raise PolicyRefused(
            source, "group_table", f"got {parsed.group_table!r}; kind {parsed.kind!r} needs {need}"
        )
    fa_ir = parsed.fa_ir
    shares = parsed.floors or parsed.window or (fa_ir.shares if fa_ir else {})
    total = sum((Fraction(text) for text in shares.values()), Fraction(0))
    if total > 1:
        raise PolicyRefused(
            source, parsed.kind, f"the proportions add up to {total}, allowed: at most 1"
        )
    if fa_ir is not None and Fraction(fa_ir.alpha) in (0, 1):
        raise PolicyRefused(
            source,
            "fa_ir.alpha",
            f'got "{fa_ir.alpha}"; allowed: a fraction between 0 and 1, such as "1/10"',
        )
    if parsed.cap is not None and parsed.cap.at_most > parsed.cap.within_first:
        raise PolicyRefused(
            source,
            "cap.at_most",
            f"got {parsed.cap.at_most}; above within_first ({parsed.cap.within_first}) it bounds nothing",
        )
    bounded = parsed.cap or fa_ir
    return Policy(
        name=parsed.name,
        version=parsed.version,
        kind=parsed.kind,
        group_table=parsed.group_table,
        reason=parsed.reason,
        on_infeasible=parsed.on_infeasible,
        document=document,
        digest=hashlib.sha256(document.encode()).hexdigest(),
        shares=tuple((group, Fraction(text)) for group, text in shares.items()),
        at_most=parsed.cap.at_most if parsed.cap else 0,
        within_first=bounded.within_first if bounded else 0,
        alpha=Fraction(fa_ir.alpha) if fa_ir else Fraction(0),
        adjusted=fa_ir.adjusted if fa_ir else True,
    )
