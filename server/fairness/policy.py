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
    on_late = "refuse"           # the default, or "fallback": where the deadline leaves no time
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
import tomllib
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from pydantic import ValidationError

from server.errors import PolicyRefused
from server.fairness.policy_errors import told
from server.fairness.policy_sections import (
    MAX_TABLES,
    SHAPING,
    Amortised,
    Calibrated,
    Cap,
    Discount,
    Diverse,
    Document,
    FairIr,
    Kind,
    RuleDocument,
    RuleKind,
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

    rules: in the document's order; none for kind "none".
    on_infeasible: "serve" the best list that the supply allows, or "refuse".
    on_late: where the deadline leaves no time for a list, "refuse", or serve the "fallback": a list
    of best sellers that keeps the bounds.
    digest: SHA-256 of the document's UTF-8 bytes, lower-case hex.
    """

    name: str
    version: str
    kind: Kind
    reason: str
    on_infeasible: Literal["serve", "refuse"]
    on_late: Literal["refuse", "fallback"]
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

    @property
    def group_table(self) -> str:
        """The tables of `tables`, with commas between them."""
        return ",".join(self.tables)

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
        content = tomllib.loads(document)
    # Besides what is no TOML: numbers of thousands of digits, and thousands of brackets.
    except (ValueError, RecursionError) as error:
        raise PolicyRefused(source, "document", str(error)) from error
    if not content:
        raise PolicyRefused(source, "document", "is empty")
    try:
        parsed = Document.model_validate(content)
    except ValidationError as invalid:
        raise PolicyRefused(source, *told(invalid)) from invalid
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
        reason=parsed.reason,
        on_infeasible=parsed.on_infeasible,
        on_late=parsed.on_late,
        document=document,
        digest=hashlib.sha256(document.encode()).hexdigest(),
        rules=rules,
        discount=parsed.discount,
    )
    _check_order(source, policy)
    _check_late(source, policy)
    return policy


def _only_own_section(source: str, path: str, kind: str, parsed: RuleDocument) -> None:
    """Refuse a missing section, or one of another kind."""
    sections = [*get_args(RuleKind), "intersection", "stack"]
    for section in sections:
        value = getattr(parsed, section, None)
        if section == kind and value is None:
            others = [name for name in sections if getattr(parsed, name, None) is not None]
            there = f"; there is [{others[0]}], of kind {others[0]!r}" if others else ""
            raise PolicyRefused(
                source, path + section, f"is missing: kind {kind!r} needs it{there}"
            )
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


def _rule(source: str, path: str, kind: RuleKind, parsed: RuleDocument) -> Rule:
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


def _check_late(source: str, policy: Policy) -> None:
    calibrated = [rule.path for rule in policy.rules if rule.kind == "calibrated"]
    if policy.on_late == "fallback" and calibrated:
        raise PolicyRefused(
            source,
            "on_late",
            f'got "fallback"; allowed with {calibrated[0]}: "refuse", for no list that was made '
            "beforehand keeps each user's own shares",
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
            other = next(path for path in mates if path != rule.path)
            raise PolicyRefused(
                source,
                rule.path,
                f"bounds group table {rule.group_table!r} as {other} does; a table that is "
                "calibrated to each user takes no other bounds",
            )
