"""A policy: a TOML document that says which bounds every list must keep, and why.

Owns the form of the document. Proportions are integer fractions in text ("1/5"),
since `floor(0.29 * 100)` is 28. Knows no items: a policy is compiled against the
labels of group tables in `server.fairness.compile`.

    name = "small-makers"        # [a-z0-9-], 1 to 64
    version = "1"
    kind = "floors"              # see Kind
    group_table = "maker_size"   # where the kind has groups of one table
    reason = "Small makers must be seen."
    on_infeasible = "serve"      # the default, or "refuse"
    discount = "log2"            # the default: what a place is worth; or "reciprocal", "top_heavy"
    [floors]                     # the section named like the kind; none has none
    small = "1/5"                # at least floor(k / 5) small ones among the first k, for every k

The sections of the other kinds are the models below. A stack is a list of rules,

    kind = "stack"
    [[stack]]
    kind = "floors"
    group_table = "maker_size"
    floors = {small = "1/5"}
    [[stack]]
    kind = "cap"
    group_table = "category"
    cap = {at_most = 3, within_first = 20}

first those that change the order of the candidates (amortised, diverse), then those that bound it.

>>> parse_policy('''
... name = "small-makers"
... version = "1"
... kind = "floors"
... group_table = "provider_tier"
... reason = "Small makers must be seen."
... floors = {small = "1/5"}
... ''', "example").rules[0].shares
(('small', Fraction(1, 5)),)
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from server.errors import PolicyRefused
from server.fairness.policy_errors import told

MAX_DENOMINATOR = 10_000
MAX_FACTOR = 10
MAX_RULES = 8
MAX_TABLES = 4
"""Group tables that one policy may bound at once."""

RuleKind = Literal["floors", "fa_ir", "window", "cap", "calibrated", "amortised", "diverse"]
Kind = RuleKind | Literal["none", "intersection", "stack"]
Discount = Literal["log2", "reciprocal", "top_heavy"]
SHAPING: tuple[RuleKind, ...] = ("amortised", "diverse")
"""The kinds that change the order of the candidates before bounds are kept."""

_FRACTION = re.compile(r"(\d{1,5})/(\d{1,5})")


def _fraction(text: str, most: int) -> str:
    found = _FRACTION.fullmatch(text)
    if found is None or not 1 <= int(found[2]) <= MAX_DENOMINATOR or Fraction(text) > most:
        raise ValueError(f'allowed: an integer fraction from 0 to {most} in text, such as "1/5"')
    return text


FractionText = Annotated[
    str, Field(strict=True), AfterValidator(lambda text: _fraction(text, most=1))
]
FactorText = Annotated[
    str, Field(strict=True), AfterValidator(lambda text: _fraction(text, most=MAX_FACTOR))
]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Shares = Annotated[dict[str, FractionText], Field(min_length=1, max_length=1000)]
Place = Annotated[int, Field(strict=True, ge=1, le=1000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cap(_Section):
    """Of any group (or of each in `groups`) at most so many among the first so many."""

    at_most: Place
    within_first: Place
    groups: Annotated[tuple[str, ...], Field(max_length=1000)] = ()


class FairIr(_Section):
    """FA*IR's floors, see `server.fairness.fair_ir`: how often a fair list may fail, over its
    first places (or, where not adjusted, at each of them), with these shares."""

    alpha: FractionText
    within_first: Annotated[int, Field(strict=True, ge=1, le=400)]
    adjusted: Annotated[bool, Field(strict=True)] = True
    shares: Shares


class Calibrated(_Section):
    """The user's own shares q bound the list (Steck, RecSys 2018): at least
    floor(at_least q k) and at most ceil(at_most q k) of a group among the first k places.

    q is what the user bought, as if he had bought `smoothing` more in the catalogue's proportions.
    """

    at_least: FractionText
    at_most: FactorText
    smoothing: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 10


class Amortised(_Section):
    """Exposure of the groups over all lists, see `server.fairness.amortise`.

    strength: what an item of a group of average target gains at most (p_mmf), in units of the
    score; lists: after how many lists without any exposure it gains that. targets: the same for
    every group, or by the items that it has in the catalogue.
    """

    method: Literal["p_mmf", "fair_co"]
    strength: FactorText
    lists: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 100
    targets: Literal["equal", "catalogue"] = "equal"


class Diverse(_Section):
    """Items that differ from those above them, see `server.fairness.diversify`; trade_off 0 is
    plain score order."""

    method: Literal["mmr", "dpp"]
    trade_off: FractionText


class _RuleDocument(_Section):
    """One rule of a stack, or the whole of a policy that is not one."""

    group_table: Annotated[str, Field(max_length=64)] = ""
    floors: Shares | None = None
    fa_ir: FairIr | None = None
    window: Shares | None = None
    cap: Cap | None = None
    calibrated: Calibrated | None = None
    amortised: Amortised | None = None
    diverse: Diverse | None = None


class _StackRule(_RuleDocument):
    kind: RuleKind


class _Document(_RuleDocument):
    name: Name
    version: Annotated[str, Field(min_length=1, max_length=64)]
    kind: Kind
    reason: Annotated[str, Field(min_length=10, max_length=1000)]
    on_infeasible: Literal["serve", "refuse"] = "serve"
    discount: Discount = "log2"
    intersection: Annotated[
        dict[str, Shares] | None, Field(min_length=2, max_length=MAX_TABLES)
    ] = None
    stack: Annotated[tuple[_StackRule, ...] | None, Field(min_length=2, max_length=MAX_RULES)] = (
        None
    )


@dataclass(frozen=True)
class Rule:
    """One rule of a policy.

    path: where it stands in the document, such as "floors" or "stack.1.cap".
    shares: for floors, fa_ir and window, (group, proportion) in the document's order.
    section: the rule's own section where that is more than shares.
    """

    kind: RuleKind
    path: str
    group_table: str
    shares: tuple[tuple[str, Fraction], ...] = ()
    section: Cap | FairIr | Calibrated | Amortised | Diverse | None = None


@dataclass(frozen=True)
class Policy:
    """One policy as its owner wrote it.

    group_table: the tables of `tables`, with commas between them.
    rules: in the document's order; none for kind "none".
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
    rules: tuple[Rule, ...] = ()
    discount: Discount = "log2"

    @property
    def bounds(self) -> tuple[Rule, ...]:
        """The rules that bound the list."""
        return tuple(rule for rule in self.rules if rule.kind not in SHAPING)

    @property
    def tables(self) -> tuple[str, ...]:
        """The group tables of the bounds (where nothing is bounded: of the exposure that is evened
        out), each once, in the order of the rules."""
        rules = self.bounds or tuple(rule for rule in self.rules if rule.group_table)
        return tuple(dict.fromkeys(rule.group_table for rule in rules))

    def shaping(self, kind: Literal["amortised", "diverse"]) -> Rule | None:
        """The rule of that kind, of which there is one at most."""
        return next((rule for rule in self.rules if rule.kind == kind), None)


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
        raise PolicyRefused(source, *told(invalid, _known_keys())) from invalid
    _only_own_section(source, "", parsed.kind, parsed)
    if parsed.kind in ("none", "diverse", "intersection", "stack") and parsed.group_table:
        raise PolicyRefused(
            source,
            "group_table",
            f"got {parsed.group_table!r}; kind {parsed.kind!r} needs no group table",
        )
    match parsed.kind:
        case "none":
            rules: tuple[Rule, ...] = ()
        case "intersection":
            assert parsed.intersection is not None
            rules = tuple(
                _share_rule(source, "floors", f"intersection.{table}", table, shares)
                for table, shares in parsed.intersection.items()
            )
        case "stack":
            assert parsed.stack is not None
            for number, rule in enumerate(parsed.stack):
                _only_own_section(source, f"stack.{number}.", rule.kind, rule)
            rules = tuple(
                _rule(source, f"stack.{number}.", rule.kind, rule)
                for number, rule in enumerate(parsed.stack)
            )
        case kind:
            rules = (_rule(source, "", kind, parsed),)
    policy = Policy(
        name=parsed.name,
        version=parsed.version,
        kind=parsed.kind,
        group_table="",
        reason=parsed.reason,
        on_infeasible=parsed.on_infeasible,
        document=document,
        digest=hashlib.sha256(document.encode()).hexdigest(),
        rules=rules,
        discount=parsed.discount,
    )
    _check_order(source, policy)
    object.__setattr__(policy, "group_table", ",".join(policy.tables))
    return policy


def _known_keys() -> list[str]:
    models = (_Document, _StackRule, Cap, FairIr, Calibrated, Amortised, Diverse)
    return [key for model in models for key in model.model_fields]


def _only_own_section(source: str, path: str, kind: str, parsed: _RuleDocument) -> None:
    """Refuse a missing section, or one of another kind."""
    sections = [*get_args(RuleKind), "intersection", "stack"]
    for section in sections:
        value = getattr(parsed, section, None)
        if section == kind and value is None:
            raise PolicyRefused(source, path + section, f"is missing: kind {kind!r} needs it")
        if section != kind and value is not None:
            raise PolicyRefused(source, path + section, f"does not belong to kind {kind!r}")


def _share_rule(
    source: str,
    kind: RuleKind,
    path: str,
    table: str,
    shares: dict[str, str],
    section: FairIr | None = None,
) -> Rule:
    fractions = tuple((group, Fraction(text)) for group, text in shares.items())
    total = sum((share for _, share in fractions), Fraction(0))
    if total > 1:
        raise PolicyRefused(source, path, f"the proportions add up to {total}, allowed: at most 1")
    return Rule(kind, path, table, fractions, section)


def _rule(source: str, path: str, kind: RuleKind, parsed: _RuleDocument) -> Rule:
    table, own = parsed.group_table, path + kind
    if (kind == "diverse") != (table == ""):
        need = "no group table" if kind == "diverse" else "the name of a group table"
        raise PolicyRefused(
            source, f"{path}group_table", f"got {table!r}; kind {kind!r} needs {need}"
        )
    match kind:
        case "floors" | "window":
            shares = parsed.floors or parsed.window
            assert shares is not None
            return _share_rule(source, kind, own, table, shares)
        case "fa_ir":
            fa_ir = parsed.fa_ir
            assert fa_ir is not None
            _inside(source, f"{own}.alpha", fa_ir.alpha)
            return _share_rule(source, kind, own, table, fa_ir.shares, fa_ir)
        case "cap":
            cap = parsed.cap
            assert cap is not None
            if cap.at_most > cap.within_first:
                raise PolicyRefused(
                    source,
                    f"{own}.at_most",
                    f"got {cap.at_most}; above within_first ({cap.within_first}) it bounds nothing",
                )
            return Rule(kind, own, table, (), cap)
        case "calibrated":
            calibrated = parsed.calibrated
            assert calibrated is not None
            if Fraction(calibrated.at_most) < 1:
                raise PolicyRefused(
                    source,
                    f"{own}.at_most",
                    f'got "{calibrated.at_most}"; allowed: at least "1/1", or no list is full',
                )
            return Rule(kind, own, table, (), calibrated)
        case "amortised":
            return Rule(kind, own, table, (), parsed.amortised)
        case "diverse":
            assert parsed.diverse is not None
            if Fraction(parsed.diverse.trade_off) == 1:
                raise PolicyRefused(
                    source, f"{own}.trade_off", "got 1; allowed: below 1, or scores count nothing"
                )
            return Rule(kind, own, "", (), parsed.diverse)


def _inside(source: str, path: str, text: str) -> None:
    if Fraction(text) in (0, 1):
        raise PolicyRefused(
            source, path, f'got "{text}"; allowed: a fraction between 0 and 1, such as "1/10"'
        )


def _check_order(source: str, policy: Policy) -> None:
    """Refuse rules in an order in which one would undo another."""
    kinds = [rule.kind for rule in policy.rules]
    for kind in SHAPING:
        if kinds.count(kind) > 1:
            second = [rule.path for rule in policy.rules if rule.kind == kind][1]
            raise PolicyRefused(source, second, f"is a second {kind!r} rule, allowed: one")
    wanted = sorted(kinds, key=lambda kind: (*SHAPING, kind).index(kind))
    if [kind in SHAPING for kind in kinds] != [kind in SHAPING for kind in wanted]:
        late = next(
            rule.path
            for place, rule in enumerate(policy.rules)
            if rule.kind in SHAPING and any(kind not in SHAPING for kind in kinds[:place])
        )
        raise PolicyRefused(
            source, late, "comes after a rule that bounds the list and would undo it; put it first"
        )
    if [kind for kind in kinds if kind in SHAPING] == ["diverse", "amortised"]:
        raise PolicyRefused(source, "stack", "diverse comes before amortised; put amortised first")
    if len(policy.tables) > MAX_TABLES:
        raise PolicyRefused(
            source, "stack", f"bounds {len(policy.tables)} group tables, allowed: {MAX_TABLES}"
        )
    for rule in policy.bounds:
        mates = [other.path for other in policy.bounds if other.group_table == rule.group_table]
        if rule.kind == "calibrated" and len(mates) > 1:
            other = (
                next(path for path in mates if path != rule.path)
                if len(set(mates)) > 1
                else mates[0]
            )
            raise PolicyRefused(
                source,
                rule.path,
                f"bounds group table {rule.group_table!r} as {other} does; a table that is "
                "calibrated to each user takes no other bounds",
            )
