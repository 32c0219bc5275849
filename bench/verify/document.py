"""A policy's text -> its rules, refused where `policy check` refuses it: written anew from the form
that docs/policies.md gives, so that an audit does not rest on the server's parser."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from bench.refused import InputRefused, near_miss
from bench.verify.bounds import SHAPING, Document, Known
from server.errors import shown

Check = Callable[[Any], str]
"""A value -> what is allowed instead of it; empty if it is."""

_FRACTION = re.compile(r"(\d{1,5})/(\d{1,5})", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_MAX_TABLES = 4


def _fraction(most: int) -> Check:
    def check(value: Any) -> str:
        found = _FRACTION.fullmatch(value) if isinstance(value, str) else None
        if found is not None and 1 <= int(found[2]) <= 10_000 and Fraction(value) <= most:
            return ""
        return f'an integer fraction from 0 to {most} in text, such as "1/5"'

    return check


def _number(low: int, high: int) -> Check:
    return lambda value: (
        "" if type(value) is int and low <= value <= high else f"an integer from {low} to {high}"
    )


def _text(low: int, high: int) -> Check:
    return lambda value: (
        ""
        if isinstance(value, str) and low <= len(value) <= high
        else f"text of {low} to {high} characters"
    )


def _reason(value: Any) -> str:
    words = isinstance(value, str) and any(map(str.isalnum, value))
    return _text(10, 1000)(value) or ("" if words else "words, not blanks or signs alone")


def _one_of(*names: str) -> Check:
    return lambda value: "" if value in names else f"one of {', '.join(names)}"


def _flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _names(value: Any) -> str:
    fits = isinstance(value, list) and all(isinstance(name, str) for name in value)
    fits = fits and 1 <= len(value) <= 1000 and len(set(value)) == len(value)
    return "" if fits else "a list of 1 to 1000 groups, each once"


def _table(value: Any) -> str:
    return "" if isinstance(value, dict) and 1 <= len(value) <= 1000 else "1 to 1000 groups"


def _anything(value: Any) -> str:
    return ""  # looked at by the caller


_SHARE = _fraction(1)
_KEYS: Mapping[str, Mapping[str, Check]] = {
    "cap": {"at_most": _number(1, 1000), "within_first": _number(1, 1000), "groups": _names},
    "fa_ir": {"alpha": _SHARE, "within_first": _number(1, 400), "adjusted": _flag, "shares": _table},
    "calibrated": {"at_least": _SHARE, "at_most": _fraction(10), "smoothing": _number(0, 10_000)},
    "amortised": {
        "method": _one_of("p_mmf", "fair_co"),
        "strength": _fraction(10),
        "lists": _number(1, 1_000_000),
        "targets": _one_of("equal", "catalogue"),
    },
    "diverse": {"method": _one_of("mmr", "dpp"), "trade_off": _SHARE},
}  # fmt: skip
_KINDS = ("floors", "window", *_KEYS)
_OPTIONAL = {"groups", "adjusted", "smoothing", "lists", "targets", "group_table", "on_infeasible",
             "on_late", "discount", *_KINDS, "intersection", "stack"}  # fmt: skip
_RULE = {"kind": _one_of(*_KINDS), "group_table": _text(0, 64), **dict.fromkeys(_KINDS, _anything)}
_DOCUMENT = _RULE | {
    "kind": _one_of(*_KINDS, "none", "intersection", "stack"),
    "name": lambda value: (
        ""
        if isinstance(value, str) and _NAME.fullmatch(value)
        else "1 to 64 of a-z, 0-9 and -, not - first"
    ),
    "version": _text(1, 64),
    "reason": _reason,
    "on_infeasible": _one_of("serve", "refuse"),
    "on_late": _one_of("refuse", "fallback"),
    "discount": _one_of("log2", "reciprocal", "top_heavy"),
    "intersection": _anything,
    "stack": _anything,
}


def read_document(text: str, source: str = "policy") -> Document:
    """The rules of a policy document; `source` names it in errors.

    Raises:
        InputRefused: the document is not allowed; the error names the key.
    """
    try:
        policy = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputRefused(source, "", f"is no policy document: {error}") from error
    return _Reader(source).read(policy)


def check_groups(document: Document, known: Known, source: str) -> None:
    """Refuse a document that names groups which the catalogue's tables do not have."""
    for kind, table, section in document.rules:
        named = section.get("shares", ()) if kind == "fa_ir" else section.get("groups", ())
        named = section if kind in ("floors", "window") else named
        for group in named:
            if table in known.items and group not in known.items[table]:
                why = f"the bundle's table {table!r} has no group {group!r}"
                raise InputRefused(source, kind, why)


class _Reader:
    """Reads one document; every method that meets what is not allowed raises InputRefused."""

    def __init__(self, source: str) -> None:
        self._source = source

    def read(self, policy: dict[str, Any]) -> Document:
        self._keys("", policy, _DOCUMENT)
        kind = policy["kind"]
        self._own_section("", policy, kind, (*_KINDS, "intersection", "stack"))
        own = policy.get(kind)
        rules: list[tuple[str, str, Any]] = []
        if kind in ("none", "intersection", "stack"):
            self._need(not policy.get("group_table"), "group_table", f"is not for kind {kind!r}")
        if kind == "stack":
            fits = isinstance(own, list) and 2 <= len(own) <= 8
            self._need(fits, "stack", "must be 2 to 8 rules")
            for number, rule in enumerate(own or ()):
                path = f"stack.{number}"
                self._need(isinstance(rule, dict), path, "must be a rule")
                self._keys(f"{path}.", rule, _RULE)
                self._own_section(f"{path}.", rule, rule["kind"], _KINDS)
                rules.append(self._rule(f"{path}.", rule))
        elif kind == "intersection":
            fits = isinstance(own, dict) and 2 <= len(own) <= _MAX_TABLES
            self._need(fits, "intersection", f"must be 2 to {_MAX_TABLES} group tables")
            for table, shares in (own or {}).items():
                self._shares(f"intersection.{table}", shares)
                rules.append(("floors", table, shares))
        elif kind != "none":
            rules.append(self._rule("", policy))
        self._order(rules)
        personal = policy.get("on_late") == "fallback" and "calibrated" in [own[0] for own in rules]
        self._need(not personal, "on_late", "has no fallback where a rule is calibrated")
        return Document(
            policy["name"],
            policy["version"],
            kind,
            policy.get("discount", "log2"),
            policy.get("on_infeasible", "serve") == "refuse",
            tuple(rules),
            policy.get("on_late", "refuse") == "fallback",
        )

    def _need(self, fits: bool, key: str, why: str) -> None:
        if not fits:
            raise InputRefused(self._source, key, why)

    def _keys(self, path: str, section: Any, known: Mapping[str, Check]) -> None:
        """Every key is known and its value allowed, and none is missing."""
        self._need(isinstance(section, dict), path.rstrip("."), "must be a section")
        for key in section:
            self._need(key in known, path + key, f"unknown key{near_miss(key, known)}")
        for key, check in known.items():
            if key not in section:
                self._need(key in _OPTIONAL, path + key, "is missing")
                continue
            allowed = check(section[key])
            self._need(
                not allowed, path + key, f"got {shown(section[key])}; allowed: {allowed}"
            )  # fmt: skip

    def _own_section(self, path: str, rule: Any, kind: str, sections: tuple[str, ...]) -> None:
        for section in sections:
            if section == kind:
                self._need(section in rule, path + section, f"is missing: kind {kind!r} needs it")
            else:
                why = f"does not belong to kind {kind!r}"
                self._need(section not in rule, path + section, why)

    def _shares(self, path: str, shares: Any) -> None:
        allowed = _table(shares)
        self._need(not allowed, path, f"got {shown(shares)}; allowed: {allowed}")
        for group, share in shares.items():
            allowed = _SHARE(share)
            self._need(not allowed, f"{path}.{group}", f"got {shown(share)}; allowed: {allowed}")
        total = sum(map(Fraction, shares.values()))
        self._need(total <= 1, path, f"the proportions add up to {total}, allowed: at most 1")

    def _rule(self, path: str, rule: dict[str, Any]) -> tuple[str, str, Any]:
        kind, table = rule["kind"], rule.get("group_table", "")
        section, path_of = rule[kind], path + kind
        needs = "no group table" if kind == "diverse" else "the name of a group table"
        self._need(
            (kind == "diverse") == (not table),
            f"{path}group_table",
            f"got {table!r}; kind {kind!r} needs {needs}",
        )
        if kind in ("floors", "window"):
            self._shares(path_of, section)
            return kind, table, section
        self._keys(f"{path_of}.", section, _KEYS[kind])
        if kind == "cap":
            fits = section["at_most"] <= section["within_first"]
            self._need(fits, f"{path_of}.at_most", "is above within_first and bounds nothing")
        elif kind == "fa_ir":
            fits = 0 < Fraction(section["alpha"]) < 1
            self._need(fits, f"{path_of}.alpha", "must be between 0 and 1")
            self._shares(f"{path_of}.shares", section["shares"])
        elif kind == "calibrated":
            fits = Fraction(section["at_most"]) >= 1
            self._need(fits, f"{path_of}.at_most", 'must be at least "1/1", or no list is full')
        elif kind == "diverse":
            fits = Fraction(section["trade_off"]) < 1
            self._need(fits, f"{path_of}.trade_off", "must be below 1, or scores count nothing")
        return kind, table, section

    def _order(self, rules: list[tuple[str, str, Any]]) -> None:
        """Rules stand in an order in which none undoes another."""
        kinds = [kind for kind, _, _ in rules]
        shaping = [kind for kind in kinds if kind in SHAPING]
        self._need(shaping in ([], ["amortised"], ["diverse"], list(SHAPING)), "stack",
                   "takes one amortised rule and then one diverse rule, at most")  # fmt: skip
        self._need(kinds[: len(shaping)] == shaping, "stack",
                   "has a rule that changes the order after one that bounds the list")  # fmt: skip
        bounded = [table for kind, table, _ in rules if kind not in SHAPING]
        few = len(set(bounded)) <= _MAX_TABLES
        self._need(few, "stack", f"bounds more than {_MAX_TABLES} group tables")
        for kind, table, _ in rules:
            alone = kind != "calibrated" or bounded.count(table) == 1
            self._need(alone, "stack", f"table {table!r} is calibrated, and takes no other bounds")
