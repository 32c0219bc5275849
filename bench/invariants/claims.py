"""Claims about answers: counted when they hold, raised when they do not.

>>> claims = Claims()
>>> claims.that("length", True, "unused")
>>> claims.checked["length"]
1
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message


@dataclass(frozen=True)
class Violation:
    """A theorem that does not hold: under which property, how, and for which requests.

    example: the smallest requests that were found, as JSON. methods: of each, the gRPC method.
    """

    invariant: str
    where: str
    what: str
    example: tuple[dict[str, Any], ...]
    methods: tuple[str, ...] = ()


class Violated(Exception):
    """Stops one example; Hypothesis then looks for a smaller one."""

    def __init__(self, violation: Violation) -> None:
        self.violation = violation
        super().__init__(f"{violation.where}: {violation.invariant}: {violation.what}")


class Claims:
    """What was checked how often, for one run.

    known: theorems that are known to be broken in the property under way; they are passed over,
    so that the others get their turn.
    """

    def __init__(self) -> None:
        self.checked: Counter[str] = Counter()
        self.known: set[str] = set()
        self.where = ""
        self._requests: list[Message] = []
        self.last: Violation | None = None
        """The latest violation of this search."""

    def begin(self, *requests: Message) -> None:
        """Say which requests the next claims speak of."""
        self._requests = list(requests)

    def that(self, name: str, holds: bool, what: str | Callable[[], str]) -> None:
        """Claim a theorem.

        Raises:
            Violated: it does not hold, and that is news.
        """
        self.checked[name] += 1
        if holds or name in self.known:
            return
        text = what() if callable(what) else what
        example = tuple(
            MessageToDict(request, preserving_proto_field_name=True) for request in self._requests
        )
        methods = tuple(
            type(request).__name__.removesuffix("Request") for request in self._requests
        )
        self.last = Violation(name, self.where, text, example, methods)
        raise Violated(self.last)

    def forget(self) -> None:
        """Begin a new search."""
        self.last = None
