"""Domain errors: what can go wrong, told without a word of gRPC.

Owns the exceptions that cross rooms and their reasons. Must not know the wire:
`server.service.status` holds the one table that maps them to status codes.

Each message names the field, the value seen and what is allowed:

>>> str(InvalidField.of("count", 0, "1 to 200"))
'count: got 0, allowed: 1 to 200'
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Reason(StrEnum):
    """The values of google.rpc.ErrorInfo.reason; the same names as `equipoise.v1.ErrorReason`."""

    INVALID_FIELD = "INVALID_FIELD"
    UNKNOWN_POLICY = "UNKNOWN_POLICY"
    UNKNOWN_GROUP_TABLE = "UNKNOWN_GROUP_TABLE"
    UNKNOWN_ITEM = "UNKNOWN_ITEM"
    POLICY_INFEASIBLE = "POLICY_INFEASIBLE"
    QUEUE_FULL = "QUEUE_FULL"
    DEADLINE_EXPIRED = "DEADLINE_EXPIRED"
    NOT_SERVING = "NOT_SERVING"
    EVENT_STORE_UNAVAILABLE = "EVENT_STORE_UNAVAILABLE"
    INTERNAL = "INTERNAL"
    ITEM_NUMBERS_STALE = "ITEM_NUMBERS_STALE"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"
    PAGE_TOKEN_STALE = "PAGE_TOKEN_STALE"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    UNSUPPORTED = "UNSUPPORTED"


def shown(value: object, limit: int = 80) -> str:
    """`value` as an error message may show it: quoted if text, and never long."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def listed(names: Iterable[str], limit: int = 20) -> str:
    """The names in order, cut after `limit` of them."""
    ordered = sorted(names)
    head = ", ".join(ordered[:limit])
    return head if len(ordered) <= limit else f"{head} and {len(ordered) - limit} more"


def near_miss(name: str, known: Iterable[str]) -> str:
    """A question that may stand before other words; empty where no known name is near.

    >>> near_miss("floor", ["floors", "cap"])
    "did you mean 'floors'? "
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


class EquipoiseError(Exception):
    """An error whose message may be shown to the caller."""

    reason: Reason = Reason.INTERNAL


@dataclass(frozen=True)
class Violation:
    """One field that is wrong: its path as in the message, what was seen, what is allowed."""

    field: str
    seen: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.field}: got {self.seen}, allowed: {self.allowed}"


class InvalidField(EquipoiseError):
    """One or more fields are out of range, malformed or contradict each other."""

    reason = Reason.INVALID_FIELD

    def __init__(self, violations: Iterable[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(map(str, self.violations)))

    @classmethod
    def of(cls, field: str, seen: object, allowed: str) -> InvalidField:
        """The error for a single field."""
        return cls([Violation(field, shown(seen), allowed)])


class UnknownName(EquipoiseError):
    """A policy, group table or item that does not exist here."""

    def __init__(self, reason: Reason, what: str, name: str, known: Iterable[str]) -> None:
        self.reason = reason
        super().__init__(f"no {what} {shown(name)}; there are: {listed(known)}")


class UnknownItem(EquipoiseError):
    """An item id that the bundle does not know, where the caller asked for strictness."""

    reason = Reason.UNKNOWN_ITEM

    def __init__(self, field: str, item_id: str, bundle_id: str) -> None:
        super().__init__(f"{field}: item {shown(item_id)} is not in bundle {bundle_id}")


class PolicyInfeasible(EquipoiseError):
    """The policy cannot be met on these candidates and says "refuse"."""

    reason = Reason.POLICY_INFEASIBLE


class ItemNumbersStale(EquipoiseError):
    """Items are named by the numbers of a bundle that does not serve, or inputs are made for it."""

    reason = Reason.ITEM_NUMBERS_STALE

    def __init__(
        self,
        wanted: str,
        bundle_id: str,
        field: str = "numbers_of",
        instead: str = "read its numbers with ListItems",
    ) -> None:
        super().__init__(
            f"{field}: got {shown(wanted)}, allowed: {bundle_id}, the bundle that serves; {instead}"
        )


class PageTokenInvalid(EquipoiseError):
    """A page token that was not made here, or belongs to another user or request."""

    reason = Reason.PAGE_TOKEN_INVALID

    def __init__(self, why: str) -> None:
        super().__init__(f"page_token: {why}")


class PageTokenStale(PageTokenInvalid):
    """A page token that is too old, or whose bundle or policy is gone: start with the first page."""

    reason = Reason.PAGE_TOKEN_STALE

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; ask for the first page again")


class Unsupported(EquipoiseError):
    """What is not done here, by intent."""

    reason = Reason.UNSUPPORTED


class QueueFull(EquipoiseError):
    """Too many requests wait; this one was turned away before any work."""

    reason = Reason.QUEUE_FULL


class DeadlineExpired(EquipoiseError):
    """The caller's deadline passed before the work was started."""

    reason = Reason.DEADLINE_EXPIRED


class NotServing(EquipoiseError):
    """The server drains or is not ready."""

    reason = Reason.NOT_SERVING


class EventStoreUnavailable(EquipoiseError):
    """The event store could not read or could not make events durable."""

    reason = Reason.EVENT_STORE_UNAVAILABLE


class ExposuresUnavailable(EquipoiseError):
    """The exposure ledger could not be read or made durable; what is counted stays in memory."""


class Refused(EquipoiseError):
    """Input that a command will not work with: exit code 2 and one line that says why."""


class BundleRefused(Refused):
    """A bundle that must not be served: which file, and why."""

    def __init__(self, file: str, why: str) -> None:
        self.file = file
        self.why = why
        super().__init__(f"bundle refused: {file}: {why}")


class PolicyRefused(Refused):
    """A policy document that does not make sense: the key's path, what was seen, what is allowed."""

    def __init__(self, source: str, key: str, why: str) -> None:
        self.key = key
        self.why = why
        super().__init__(f"policy refused: {source}: {key}: {why}")

    def found_in(self, file: Path) -> PolicyRefused:
        """The same, naming the file: what is compiled knows its name only."""
        return PolicyRefused(str(file), self.key, self.why)


class SettingsRefused(Refused):
    """A setting that is unknown or out of range."""


class DataRefused(Refused):
    """A table that will not be worked with: which column, how many rows, one of them, what is allowed."""

    def __init__(
        self,
        column: str,
        rows: int,
        example: Mapping[str, object],
        why: str,
        *,
        of_rows: int | None = None,
        allowed: str = "",
        source: str = "interactions",
    ) -> None:
        self.column = column
        self.rows = rows
        self.example = dict(example)
        count = f"{rows} rows" if of_rows is None else f"{rows} of {of_rows} rows"
        text = f"data refused: {source}: column {column!r}: {count}: {why}"
        if allowed:
            text += f"; allowed: {allowed}"
        if example:
            text += f"; example: {shown(self.example, 240)}"
        super().__init__(text)


def in_one_line(error: EquipoiseError | OSError) -> str:
    """What to tell whoever started the command.

    >>> in_one_line(FileNotFoundError(2, "No such file or directory", "b.toml"))
    'No such file or directory (b.toml)'
    """
    if isinstance(error, EquipoiseError):
        return str(error)
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"
