"""What the engine is asked and what it answers: frozen, free of the wire.

Owns the request and list types between `service` and `engine`. Lengths and
ranges were checked at the door; names (items, policies, tables) were not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from server.events import StoredHistory
from server.fairness.types import FairList


class Degraded(IntEnum):
    """In what way a list is less than asked for; values as in `equipoise.v1.DegradedReason`."""

    NON_PERSONAL = 1
    CANDIDATES_SKIPPED = 2
    HISTORY_SKIPPED = 3
    EVENT_STORE_UNAVAILABLE = 4
    SHORT_LIST = 5


class Source(IntEnum):
    """How an item came to be a candidate; values as in `equipoise.v1.CandidateSource`."""

    UNSPECIFIED = 0
    REQUEST = 1
    HISTORY = 2
    SIMILAR = 3
    POPULAR = 4


@dataclass(frozen=True)
class RecommendQuery:
    """One list to make.

    history: events that the caller brings; None means "read the event store".
    candidate_ids: empty means "let the generator choose".
    policy: empty means the bundle's default.
    seen: whether items of the history may come back.
    strict: unknown items are an error instead of skipped.
    personal: False means that nothing of the user is read.
    as_of_ms: None means the server's clock.
    """

    count: int
    request_id: str = ""
    user_id: str = ""
    history: StoredHistory | None = None
    candidate_ids: tuple[str, ...] = ()
    policy: str = ""
    exclude_ids: tuple[str, ...] = ()
    seen: bool = True
    strict: bool = False
    personal: bool = True
    validate_only: bool = False
    as_of_ms: int | None = None
    surface: str = ""
    experiment: str = ""


@dataclass(frozen=True)
class RerankQuery:
    """Candidates that the caller has scored.

    scores: `[n] float32`, finite. groups: one per candidate, "" means "look it up".
    """

    item_ids: tuple[str, ...]
    scores: NDArray[np.float32]
    groups: tuple[str, ...]
    count: int
    request_id: str = ""
    policy: str = ""
    group_table: str = ""
    surface: str = ""
    experiment: str = ""


Query = RecommendQuery | RerankQuery


@dataclass(frozen=True)
class Phases:
    """Nanoseconds of one list's phases; `model_ns` is the whole batch's."""

    history_ns: int = 0
    features_ns: int = 0
    model_ns: int = 0
    fair_ns: int = 0


@dataclass(frozen=True)
class Answer:
    """One fair list of k items.

    scores: `[k] float32`. sources: `[k] int8`, `Source` values.
    """

    item_ids: tuple[str, ...]
    scores: NDArray[np.float32]
    groups: tuple[str, ...]
    sources: NDArray[np.int8]
    fair: FairList
    degraded: frozenset[Degraded]
    skipped_candidates: int
    skipped_history: int
    phases: Phases


@dataclass(frozen=True)
class Normalised:
    """What a query means, without running it."""

    count: int
    policy: str
    personal: bool
    history_events: int
    candidates: int
    seen: bool
    as_of_ms: int
    degraded: frozenset[Degraded]
    skipped_candidates: int
    skipped_history: int
    warnings: tuple[str, ...]


Outcome = Answer | Normalised
