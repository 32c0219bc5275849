"""What the validator found wrong in a policy document -> the key's path, and words for its owner."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from server.errors import near_miss, shown
from server.fairness.policy_sections import (
    HEAD,
    MAX_GROUPS,
    MAX_RULES,
    MAX_TABLES,
    SECTIONS,
    Document,
    StackRule,
)

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_NOT_IN_A_STACK = {
    "intersection": "a stack has no intersection: give one floors rule for each table",
    "stack": "a stack holds no stack: give its rules one by one",
    "none": "a stack has no rule that does nothing: leave it out",
}
_COUNTS = {
    "stack": f"2 to {MAX_RULES} rules; a policy of one rule is of that rule's kind",
    "intersection": f"2 to {MAX_TABLES} group tables; floors of one table are of kind 'floors'",
    "groups": f"1 to {MAX_GROUPS} groups; without this key all are meant",
}
_LISTS = {
    "stack": f"2 to {MAX_RULES} rules, each under [[stack]]",
    "groups": 'a list of groups, such as ["a", "b"]',
}
_ABOVE = "keys of the policy stand above the first [section]"


def told(invalid: ValidationError) -> tuple[str, str]:
    """(key, what is wrong with it) of the error to mend first."""
    first: Any = min(invalid.errors(), key=_urgency)
    loc = first["loc"]
    key = ".".join(str(part) for part in loc)
    match first["type"]:
        case "extra_forbidden":
            return key, _unknown(loc)
        case "missing":
            return key, "is missing"
        case "too_short" | "too_long":
            counted = _COUNTS.get(str(loc[-1]), f'1 to {MAX_GROUPS} groups, each GROUP = "1/5"')
            return key, f"got {len(first['input'])}; allowed: {counted}"
    # TOML takes a key that follows [floors] as one of its groups.
    hint = f"{_ABOVE}; " if _among_groups(loc) and loc[-1] in HEAD else ""
    seen = "one section" if isinstance(first["input"], dict) else shown(first["input"])
    return key, f"got {seen}; {hint}{_allowed(first)}"


def _urgency(error: Any) -> int:
    """What explains the others comes first: a kind that a stack does not hold leaves its section
    unknown, and a misspelt key leaves the right one missing."""
    if error["loc"][-1] == "kind" and error["input"] in list(_NOT_IN_A_STACK):
        return 0
    return 1 if error["type"] == "extra_forbidden" else 2


def _unknown(loc: Sequence[str | int]) -> str:
    key, in_stack = str(loc[-1]), loc[0] == "stack"
    if in_stack and key in _NOT_IN_A_STACK:
        return _NOT_IN_A_STACK[key]
    if in_stack and key in HEAD and key in StackRule.model_fields:
        return "keys of a rule stand above its section"
    if key in HEAD:
        return _ABOVE
    near = near_miss(key, _model(loc[:-1]).model_fields)
    if near:
        return f"unknown key; {near}".rstrip()
    homes = [f"[{name}]" for name, section in SECTIONS.items() if key in section.model_fields]
    return f"unknown key here; it belongs in {' or '.join(homes)}" if homes else "unknown key"


def _model(loc: Sequence[str | int]) -> type[BaseModel]:
    """The model of the part of a document at this path; where it has none, that above it."""
    found: type[BaseModel] = Document
    for part in loc:
        found = StackRule if part == "stack" else SECTIONS.get(str(part), found)
    return found


def _among_groups(loc: Sequence[str | int]) -> bool:
    """Whether the last key of a path stands where groups or group tables are named."""
    return any(part in ("floors", "window", "shares", "intersection") for part in loc[:-1])


def _allowed(error: Any) -> str:
    """What is allowed in the place of a value, in words of this document's own."""
    key, value, context = error["loc"][-1], error["input"], error.get("ctx") or {}
    match error["type"]:
        case "literal_error":
            if key == "kind" and error["loc"][0] == "stack" and value in list(_NOT_IN_A_STACK):
                return _NOT_IN_A_STACK[value]
            names = re.findall("'([^']*)'", context["expected"])
            return f"{near_miss(str(value), names)}allowed: {', '.join(names)}"
        case "string_type":
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            return f"allowed: a text{f', such as {chr(34)}{value}{chr(34)}' if plain else ''}"
        case "string_pattern_mismatch":
            return "allowed: 1 to 64 of a-z, 0-9 and -, the first of them no -"
        case "string_too_short" | "string_too_long":
            return f"allowed: {_range(error['loc'], 'min_length', 'max_length')} characters"
        case "int_type" | "greater_than_equal" | "less_than_equal":
            return f"allowed: a whole number from {_range(error['loc'], 'ge', 'le')}"
        case "bool_type":
            return "allowed: true or false"
        case "tuple_type":
            return f"allowed: {_LISTS[str(key)]}"
        case "model_type" | "dict_type" if (own := _model(error["loc"])) in SECTIONS.values():
            return f"allowed: a section of {', '.join(own.model_fields)}"
        case "model_type":
            return f"allowed: a rule of {', '.join(StackRule.model_fields)}"
        case "dict_type":
            return 'allowed: a section of GROUP = "1/5"'
    return str(error["msg"]).removeprefix("Value error, ")


def _range(loc: Sequence[str | int], low: str, high: str) -> str:
    """Such as "1 to 64", from the limits of the field at this path."""
    limits = _model(loc[:-1]).model_fields[str(loc[-1])].metadata
    ends = [
        [getattr(one, end) for one in limits if hasattr(one, end)] or [0] for end in (low, high)
    ]
    return " to ".join(str(end[0]) for end in ends)
