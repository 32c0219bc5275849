"""Messages -> queries: every length and range of the contract is checked here.

Owns the bounds. All that is wrong with a request is told at once (up to a
limit), with field paths as in the proto files. Must not know the bundle: names
of items and policies are the engine's business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from server.config import ServerSettings
from server.engine import NumberedHistory, RecommendQuery, RerankQuery
from server.errors import InvalidField, Violation, shown
from server.events import Event, StoredHistory

MAX_ID_BYTES = 128
MAX_NAME_BYTES = 64
MAX_TIME_MS = 253_402_300_799_999
# A client's clock may be wrong by this; an event of next year would hide all that comes before it.
MAX_AHEAD_MS = 86_400_000
MAX_QUANTITY = 10_000
MAX_RANK = 10_000
MAX_LISTED = 10_000
# A caller mends a few fields at a time; a megabyte of violations helps nobody.
MAX_BOUGHT_ENTRIES = 1_000
MAX_TOKEN_BYTES = 8_192
MAX_VIOLATIONS = 16

# Without gaps from 0, as a test of the contract holds.
EVENT_KINDS = pb.EventKind.keys()
SEEN_ITEMS = pb.SeenItems.keys()
UNKNOWN_ITEMS = pb.UnknownItems.keys()
PERSONALISATION = pb.Personalisation.keys()

_LABEL = re.compile(r"[A-Za-z0-9_.-]{0,64}")
_REQUEST_ID = re.compile(r"[\x20-\x7e]{0,64}")


@dataclass(frozen=True)
class Limits:
    """The bounds that an operator may set."""

    max_count: int
    max_candidates: int
    max_history_events: int
    max_exclusions: int
    max_feedback_events: int

    @classmethod
    def of(cls, settings: ServerSettings) -> Limits:
        return cls(
            settings.max_count,
            settings.max_candidates,
            settings.max_history_events,
            settings.max_exclusions,
            settings.max_feedback_events,
        )


class _Checks:
    """Collects what is wrong with one message."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def wrong(self, field: str, seen: object, allowed: str) -> None:
        if len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(Violation(field, shown(seen), allowed))

    def between(self, field: str, value: int, low: int, high: int) -> None:
        if not low <= value <= high:
            self.wrong(field, value, f"{low} to {high}")

    def length(self, field: str, size: int, high: int) -> bool:
        if size > high:
            self.wrong(field, f"{size} entries", f"at most {high}")
            return False
        return True

    def text(self, field: str, value: str, high: int, low: int = 0) -> None:
        size = len(value) if value.isascii() else len(value.encode())
        if not low <= size <= high:
            self.wrong(field, value if size else "", f"{low} to {high} bytes")

    def pattern(self, field: str, value: str, form: re.Pattern[str], allowed: str) -> None:
        if form.fullmatch(value) is None:
            self.wrong(field, value, allowed)

    def enum(self, field: str, value: int, names: Sequence[str]) -> None:
        """`names[0]` is the name of 0, and so on."""
        if not 0 <= value < len(names):
            self.wrong(field, value, ", ".join(names))

    def unique(self, field: str, ids: Sequence[str], member: str = "") -> None:
        if len(set(ids)) == len(ids):
            return
        twice = next(item for item, times in Counter(ids).items() if times > 1)
        places = [place for place, item in enumerate(ids) if item == twice]
        self.wrong(
            f"{field}[{places[1]}]{member}", twice, f"no id twice; it is at {places[0]} already"
        )

    def done(self) -> None:
        if self.violations:
            raise InvalidField(self.violations)


def _labels(checks: _Checks, request_id: str, surface: str, experiment: str) -> None:
    allowed = "at most 64 of [A-Za-z0-9_.-]"
    checks.pattern("request_id", request_id, _REQUEST_ID, "at most 64 bytes of printable ASCII")
    checks.pattern("surface", surface, _LABEL, allowed)
    checks.pattern("experiment", experiment, _LABEL, allowed)


def check_request_id(field: str, request_id: str) -> None:
    """Raises:
    InvalidField: it has another form than request ids may have.
    """
    checks = _Checks()
    checks.pattern(field, request_id, _REQUEST_ID, "at most 64 bytes of printable ASCII")
    checks.done()


def _history(
    checks: _Checks, events: Sequence[pb.HistoryEvent], limits: Limits
) -> StoredHistory | None:
    if not events or not checks.length("history", len(events), limits.max_history_events):
        return None
    # By columns, since a check of each field of each event costs more than the list itself.
    ids = tuple([event.item_id for event in events])
    times = [event.time_unix_ms for event in events]
    kinds = np.array([event.kind for event in events])
    quantities = np.array([event.quantity for event in events])
    if (
        not _plain(ids)
        or not 0 <= min(times) <= max(times) <= MAX_TIME_MS
        or not ((kinds >= 0) & (kinds <= pb.EVENT_KIND_PURCHASE)).all()
        or quantities.max() > MAX_QUANTITY
    ):
        _history_violations(checks, events)
        if checks.violations:
            return None
    return StoredHistory(
        item_ids=ids,
        times_ms=np.array(times),
        kinds=np.where(kinds == 0, pb.EVENT_KIND_PURCHASE, kinds).astype(np.int8),
        quantities=np.maximum(quantities, 1).astype(np.float32),
    )


def _history_violations(checks: _Checks, events: Sequence[pb.HistoryEvent]) -> None:
    for place, event in enumerate(events):
        if len(checks.violations) >= MAX_VIOLATIONS:
            break
        field = f"history[{place}]"
        checks.text(f"{field}.item_id", event.item_id, MAX_ID_BYTES, low=1)
        checks.between(f"{field}.time_unix_ms", event.time_unix_ms, 0, MAX_TIME_MS)
        if not 0 <= event.kind <= pb.EVENT_KIND_PURCHASE:
            checks.enum(f"{field}.kind", event.kind, EVENT_KINDS)
        checks.between(f"{field}.quantity", event.quantity, 0, MAX_QUANTITY)


def _numbers(
    checks: _Checks, request: pb.RecommendRequest, limits: Limits
) -> NDArray[np.int64] | None:
    """The candidates by number, and that a request that has numbers is of one mind about them."""
    checks.text("numbers_of", request.numbers_of, MAX_ID_BYTES, low=1)
    if request.candidate_numbers and request.candidate_item_ids:
        checks.wrong("candidate_numbers", "some, beside candidate_item_ids", "one of the two")
    if request.HasField("packed_history") and request.history:
        checks.wrong("packed_history", "one, beside history", "one of the two")
    numbers = np.array(request.candidate_numbers, np.int64)
    if not len(numbers) or not checks.length(
        "candidate_numbers", len(numbers), limits.max_candidates
    ):
        return None
    ordered = np.sort(numbers)
    if (ordered[1:] == ordered[:-1]).any():
        checks.unique("candidate_numbers", list(map(str, numbers.tolist())))
    return numbers


def _packed_history(
    checks: _Checks, packed: pb.PackedHistory, limits: Limits
) -> NumberedHistory | None:
    size, field = len(packed.item_numbers), "packed_history"
    if not checks.length(f"{field}.item_numbers", size, limits.max_history_events):
        return None
    wrong = len(checks.violations)
    for name, column, may_be_empty in (
        ("times_unix_ms", packed.times_unix_ms, False),
        ("kinds", packed.kinds, True),
        ("quantities", packed.quantities, True),
    ):
        if len(column) != size and (column or not may_be_empty):
            allowed = f"{size}, one for each item number" + (", or none" if may_be_empty else "")
            checks.wrong(f"{field}.{name}", f"{len(column)} entries", allowed)
    if len(checks.violations) > wrong:
        return None
    times_ms = np.array(packed.times_unix_ms, np.uint64)
    kinds = np.frombuffer(packed.kinds, np.uint8)
    quantities = np.array(packed.quantities, np.int64)
    for name, values, high in (
        ("times_unix_ms", times_ms, MAX_TIME_MS),
        ("kinds", kinds, pb.EVENT_KIND_PURCHASE),
        ("quantities", quantities, MAX_QUANTITY),
    ):
        if len(values) and values.max() > high:
            place = int((values > high).argmax())
            checks.wrong(f"{field}.{name}[{place}]", int(values[place]), f"0 to {high}")
            return None
    if not len(kinds):
        kinds = np.full(size, pb.EVENT_KIND_PURCHASE, np.uint8)
    return NumberedHistory(
        items=np.array(packed.item_numbers, np.int64),
        times_ms=times_ms.astype(np.int64),
        kinds=np.where(kinds == 0, pb.EVENT_KIND_PURCHASE, kinds).astype(np.int8),
        quantities=np.maximum(quantities, 1).astype(np.float32)
        if len(quantities)
        else np.ones(size, np.float32),
    )


def _plain(ids: Sequence[str]) -> bool:
    """Whether all ids are surely within their bounds: ASCII, neither empty nor long."""
    lengths = [*map(len, ids)]
    return min(lengths) > 0 and max(lengths) <= MAX_ID_BYTES and all(map(str.isascii, ids))


def _ids(
    checks: _Checks, field: str, ids: Sequence[str], high: int, *, unique: bool
) -> tuple[str, ...]:
    if not checks.length(field, len(ids), high):
        return ()
    own = tuple(ids)
    if own and not _plain(own):
        for place, item in enumerate(own):
            checks.text(f"{field}[{place}]", item, MAX_ID_BYTES, low=1)
    if unique:
        checks.unique(field, own)
    return own


def recommend_query(
    request: pb.RecommendRequest,
    request_id: str,
    limits: Limits,
    deadline_ns: int | None = None,
) -> RecommendQuery:
    """The query that a message means.

    Raises:
        InvalidField: one or more fields are outside the contract.
    """
    checks = _Checks()
    _labels(checks, request.request_id, request.surface, request.experiment)
    checks.text("user_id", request.user_id, MAX_ID_BYTES)
    history: StoredHistory | NumberedHistory | None = _history(checks, request.history, limits)
    numbers: NDArray[np.int64] | None = None
    if request.numbers_of or request.candidate_numbers or request.HasField("packed_history"):
        numbers = _numbers(checks, request, limits)
        if request.HasField("packed_history"):
            history = _packed_history(checks, request.packed_history, limits)
    candidates = _ids(
        checks,
        "candidate_item_ids",
        request.candidate_item_ids,
        limits.max_candidates,
        unique=True,
    )
    checks.between("count", request.count, 1, limits.max_count)
    checks.text("policy", request.policy, MAX_NAME_BYTES)
    excluded = _ids(
        checks, "exclude_item_ids", request.exclude_item_ids, limits.max_exclusions, unique=False
    )
    checks.enum("seen_items", request.seen_items, SEEN_ITEMS)
    checks.enum("unknown_items", request.unknown_items, UNKNOWN_ITEMS)
    checks.enum("personalisation", request.personalisation, PERSONALISATION)
    checks.text("page_token", request.page_token, MAX_TOKEN_BYTES)
    if request.page_size > request.count:
        checks.wrong("page_size", request.page_size, f"0 to count, which is {request.count}")
    if request.page_token and not request.page_size:
        checks.wrong("page_size", 0, "that of the first page, beside page_token")
    checks.between("as_of_unix_ms", request.as_of_unix_ms, 0, MAX_TIME_MS)
    checks.done()
    return RecommendQuery(
        count=request.count,
        request_id=request_id,
        user_id=request.user_id,
        history=history,
        candidate_ids=candidates,
        candidate_numbers=numbers,
        numbers_of=request.numbers_of,
        policy=request.policy,
        exclude_ids=excluded,
        seen=request.seen_items != pb.SEEN_ITEMS_EXCLUDE,
        strict=request.unknown_items == pb.UNKNOWN_ITEMS_REJECT,
        personal=request.personalisation != pb.PERSONALISATION_OFF,
        validate_only=request.validate_only,
        as_of_ms=request.as_of_unix_ms or None,
        surface=request.surface,
        experiment=request.experiment,
        with_candidates=request.with_candidates,
        page_size=request.page_size,
        deadline_ns=deadline_ns,
    )


def items_from(request: serving_pb2.ListItemsRequest, n_items: int) -> int:
    """The number of the first item that is asked for.

    Raises:
        InvalidField: it is past the end, or too many are asked for.
    """
    checks = _Checks()
    checks.between("first", request.first, 0, n_items)
    checks.between("size", request.size, 1, MAX_LISTED)
    checks.done()
    return request.first


def rerank_query(request: pb.RerankRequest, request_id: str, limits: Limits) -> RerankQuery:
    """The query that a message means.

    Raises:
        InvalidField: one or more fields are outside the contract.
    """
    checks = _Checks()
    _labels(checks, request.request_id, request.surface, request.experiment)
    checks.between("count", request.count, 1, limits.max_count)
    checks.text("policy", request.policy, MAX_NAME_BYTES)
    checks.text("group_table", request.group_table, MAX_NAME_BYTES)
    size = len(request.candidates)
    if not 1 <= size <= limits.max_candidates:
        checks.wrong("candidates", f"{size} entries", f"1 to {limits.max_candidates}")
        checks.done()
    ids = tuple(candidate.item_id for candidate in request.candidates)
    groups = tuple(
        (candidate.group,) if candidate.group else tuple(candidate.groups)
        for candidate in request.candidates
    )
    scores = np.fromiter((candidate.score for candidate in request.candidates), np.float32, size)
    for place in np.flatnonzero(~np.isfinite(scores)).tolist()[:MAX_VIOLATIONS]:
        checks.wrong(f"candidates[{place}].score", float(scores[place]), "a finite number")
    for place, (candidate, own) in enumerate(zip(request.candidates, groups, strict=True)):
        if len(checks.violations) >= MAX_VIOLATIONS:
            break
        field = f"candidates[{place}]"
        checks.text(f"{field}.item_id", candidate.item_id, MAX_ID_BYTES, low=1)
        if candidate.group and candidate.groups:
            checks.wrong(f"{field}.groups", list(candidate.groups), "empty beside `group`")
        for group in own:
            checks.text(f"{field}.group", group, 2 * MAX_ID_BYTES)
    if checks.length("bought", len(request.bought), MAX_BOUGHT_ENTRIES):
        for place, told in enumerate(request.bought):
            checks.text(f"bought[{place}].group_table", told.group_table, MAX_NAME_BYTES, low=1)
            checks.text(f"bought[{place}].group", told.group, MAX_ID_BYTES, low=1)
    checks.unique("candidates", ids, ".item_id")
    checks.done()
    return RerankQuery(
        item_ids=ids,
        scores=scores,
        groups=groups,
        count=request.count,
        request_id=request_id,
        policy=request.policy,
        group_table=request.group_table,
        surface=request.surface,
        experiment=request.experiment,
        bought=tuple((told.group_table, told.group, told.count) for told in request.bought),
        with_candidates=request.with_candidates,
    )


def feedback_events(request: pb.RecordFeedbackRequest, limits: Limits, now_ms: int) -> list[Event]:
    """The events that a message means, at `now_ms` of the server's clock.

    Raises:
        InvalidField: one or more fields are outside the contract; nothing is recorded.
    """
    checks = _Checks()
    size = len(request.events)
    if not 1 <= size <= limits.max_feedback_events:
        checks.wrong("events", f"{size} entries", f"1 to {limits.max_feedback_events}")
        checks.done()
    for place, event in enumerate(request.events):
        if len(checks.violations) >= MAX_VIOLATIONS:
            break
        field = f"events[{place}]"
        checks.text(f"{field}.event_id", event.event_id, MAX_NAME_BYTES, low=1)
        checks.text(f"{field}.user_id", event.user_id, MAX_ID_BYTES, low=1)
        checks.text(f"{field}.item_id", event.item_id, MAX_ID_BYTES, low=1)
        if not pb.EVENT_KIND_VIEW <= event.kind <= pb.EVENT_KIND_PURCHASE:
            checks.wrong(f"{field}.kind", event.kind, ", ".join(EVENT_KINDS[1:]))
        if not 1 <= event.time_unix_ms <= now_ms + MAX_AHEAD_MS:
            checks.wrong(
                f"{field}.time_unix_ms",
                event.time_unix_ms,
                f"1 to {now_ms + MAX_AHEAD_MS}: a day after the server's clock",
            )
        checks.between(f"{field}.quantity", event.quantity, 0, MAX_QUANTITY)
        checks.pattern(
            f"{field}.request_id",
            event.request_id,
            _REQUEST_ID,
            "at most 64 bytes of printable ASCII",
        )
        checks.between(f"{field}.rank", event.rank, 0, MAX_RANK)
    checks.done()
    return [
        Event(
            event_id=event.event_id,
            user_id=event.user_id,
            item_id=event.item_id,
            kind=event.kind,
            time_ms=event.time_unix_ms,
            quantity=event.quantity or 1,
            request_id=event.request_id,
            rank=event.rank,
        )
        for event in request.events
    ]
