"""The request file of a load: JSON lines, one request each, replayed in a drawn order.

    {"user_id": "17", "count": 20}
    {"user_id": "17", "count": 20, "policy": "provider-tiers", "as_of_unix_ms": 1512965900000}
    {"history": [{"item_id": "995242", "time_unix_ms": 1512000000000, "quantity": 2}], "count": 10}

Either `user_id` (the server reads the history) or `history`, or both. `count` is
20 when absent, `policy` the bundle's default, `as_of_unix_ms` when the load began. `groups`, such as
{"income": "Under 15K"}, is not sent: by it results are told apart.
Empty lines are skipped. Whoever writes such a file needs nothing of this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.refused import InputRefused, refusal
from bench.whole import write_whole
from equipoise.v1 import recommendation_pb2 as pb

DEFAULT_COUNT = 20
MAX_TIME_MS = 253_402_300_799_999
TimeMs = Annotated[int, Field(ge=0, le=MAX_TIME_MS)]


class HistoryLine(BaseModel):
    """One event of a history: a purchase."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: Annotated[str, Field(min_length=1, max_length=128)]
    time_unix_ms: TimeMs
    quantity: Annotated[int, Field(ge=1, le=10_000)] = 1


class LoadRequest(BaseModel):
    """One line of a request file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user_id: Annotated[str, Field(max_length=128)] = ""
    history: tuple[HistoryLine, ...] = ()
    count: Annotated[int, Field(ge=1)] = DEFAULT_COUNT
    policy: Annotated[str, Field(max_length=64)] = ""
    as_of_unix_ms: TimeMs = 0
    groups: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_somebody(self) -> Self:
        if not self.user_id and not self.history:
            raise ValueError("a request needs a user_id or a history")
        return self

    def message(self, request_id: str = "") -> pb.RecommendRequest:
        """The message that it stands for."""
        return pb.RecommendRequest(
            request_id=request_id,
            user_id=self.user_id,
            history=[
                pb.HistoryEvent(
                    item_id=event.item_id,
                    time_unix_ms=event.time_unix_ms,
                    kind=pb.EVENT_KIND_PURCHASE,
                    quantity=event.quantity,
                )
                for event in self.history
            ],
            count=self.count,
            policy=self.policy,
            as_of_unix_ms=self.as_of_unix_ms,
            surface="load",
        )


def parse_requests(lines: Iterable[str], source: str) -> list[LoadRequest]:
    """The requests of a file's lines.

    Raises:
        InputRefused: a line is not a request (its number is named), or there is none.
    """
    requests: list[LoadRequest] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            parsed: Any = json.loads(line)
            requests.append(LoadRequest.model_validate(parsed))
        except ValidationError as invalid:
            known = [*LoadRequest.model_fields, *HistoryLine.model_fields]
            raise refusal(where, invalid, known) from invalid
        except ValueError as error:
            raise InputRefused(where, "", f"not JSON: {error}") from error
    if not requests:
        raise InputRefused(source, "", "holds no request")
    return requests


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputRefused(str(path), "", why or str(error)) from error


def read_requests(path: Path) -> list[LoadRequest]:
    """The requests of a file.

    Raises:
        InputRefused: as `parse_requests`, or the file cannot be read.
    """
    return parse_requests(_lines(path), str(path))


def read_users(path: Path, count: int = DEFAULT_COUNT) -> list[LoadRequest]:
    """A request for every user id of a file with one id a line.

    Raises:
        InputRefused: an id is too long, there is none, or the file cannot be read.
    """
    users: Sequence[str] = [line.strip() for line in _lines(path) if line.strip()]
    return parse_requests(
        (json.dumps({"user_id": user, "count": count}) for user in users), str(path)
    )


def write_requests(path: Path, requests: Iterable[LoadRequest]) -> None:
    """A request file, whole or not at all."""
    lines = [request.model_dump_json(exclude_defaults=True) for request in requests]
    write_whole(path, "\n".join(lines) + "\n")
