"""What bench will not work with: which file or flag, where in it, why. Exit code 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from server.errors import Refused, shown

VOID = 3
"""The exit code of a run that was none, so that nothing can be said of what it measured."""


class InputRefused(Refused):
    """A budget, result, request or target that is malformed or not allowed."""

    def __init__(self, source: str, where: str, why: str) -> None:
        self.where = where
        super().__init__(f"{source}: {where}: {why}" if where else f"{source}: {why}")


def near_miss(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is close."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def refusal(source: str, invalid: ValidationError, known: Sequence[str]) -> InputRefused:
    """One of pydantic's complaints in one line: the path, what was seen, what is allowed.

    An unknown key comes first: it is often what a missing one was meant to be.
    """
    errors: list[Any] = list(invalid.errors())
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        allowed = near_miss(name, known) or f"; allowed: {', '.join(known)}"
        return InputRefused(source, where, f"unknown key{allowed}")
    if first["type"] == "missing":
        return InputRefused(source, where, "is missing")
    message = first["msg"].removeprefix("Value error, ")
    return InputRefused(source, where, f"got {shown(first['input'])}; {message}")
