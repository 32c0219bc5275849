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
from server.model import Feed


class Degraded(IntEnum):
    """In what way a list is less than asked for; values as in `equipoise.v1.DegradedReason`."""

    NON_PERSONAL = 1
    CANDIDATES_SKIPPED = 2
    HISTORY_SKIPPED = 3
    EVENT_STORE_UNAVAILABLE = 4
    SHORT_LIST = 5
    NO_VECTORS = 6
    FALLBACK = 7


class Source(IntEnum):
    """How an item came to be a candidate; values as in `equipoise.v1.CandidateSource`."""

    UNSPECIFIED = 0
    REQUEST = 1
    HISTORY = 2
    SIMILAR = 3
    POPULAR = 4


@dataclass(frozen=True)
class Page:
    """The part of a list that was shown: bundle indices of its items in order, and the time that it
    is made for, in Unix milliseconds."""

    shown: tuple[int, ...]
    as_of_ms: int


@dataclass(frozen=True)
class NumberedHistory:
    """Events whose items are named by their numbers in a bundle, in any order.

    items: `[h] int64`, not checked against the catalogue; times_ms: `[h] int64`, Unix milliseconds;
    kinds: `[h] int8`, values of `EventKind`; quantities: `[h] float32`.
    """

    items: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    kinds: NDArray[np.int8]
    quantities: NDArray[np.float32]


@dataclass(frozen=True)
class RecommendQuery:
    """One list to make.

    history: events that the caller brings; None means "read the event store".
    candidate_ids: empty means "let the generator choose"; candidate_numbers `[n] int64`: the same
    by number. numbers_of: the bundle that these, and a history's, are numbers of.
    policy: empty means the bundle's default.
    seen: whether items of the history may come back.
    strict: unknown items are an error instead of skipped.
    personal: False means that nothing of the user is read.
    as_of_ms: None means the server's clock.
    page_size: how many places of the list to show, 0 for all of them; after: what was shown of it.
    deadline_ns: of a monotonic clock; no model runs after it. late: there is no time but for the
    policy's fallback.
    """

    count: int
    request_id: str = ""
    user_id: str = ""
    history: StoredHistory | NumberedHistory | None = None
    candidate_ids: tuple[str, ...] = ()
    candidate_numbers: NDArray[np.int64] | None = None
    numbers_of: str = ""
    policy: str = ""
    exclude_ids: tuple[str, ...] = ()
    seen: bool = True
    strict: bool = False
    personal: bool = True
    validate_only: bool = False
    as_of_ms: int | None = None
    surface: str = ""
    experiment: str = ""
    with_candidates: bool = False
    page_size: int = 0
    after: Page | None = None
    deadline_ns: int | None = None
    late: bool = False

    @property
    def names_candidates(self) -> bool:
        """Whether the caller chose the candidates."""
        return bool(self.candidate_ids) or self.candidate_numbers is not None


@dataclass(frozen=True)
class RerankQuery:
    """Candidates that the caller has scored.

    scores: `[n] float32`, finite. groups: of each candidate one label for each of the policy's
    tables, or none, which means "look it up". bought: (table, group, count).
    """

    item_ids: tuple[str, ...]
    scores: NDArray[np.float32]
    groups: tuple[tuple[str, ...], ...]
    count: int
    request_id: str = ""
    policy: str = ""
    group_table: str = ""
    surface: str = ""
    experiment: str = ""
    bought: tuple[tuple[str, str, int], ...] = ()
    with_candidates: bool = False


@dataclass(frozen=True)
class ScoreQuery:
    """Inputs to give to the model as they are, with a batch axis of b lists of n candidates each,
    both at least 1. Every array was checked at the door; they are not checked here.

    deadline_ns: of a monotonic clock; the model does not run after it.
    """

    feed: Feed
    deadline_ns: int | None = None


Query = RecommendQuery | RerankQuery | ScoreQuery


@dataclass(frozen=True)
class Phases:
    """Nanoseconds of one list's phases; `model_ns` is the whole batch's.

    history_from_ns, model_from_ns, fair_from_ns: when these began, by the machine's monotonic
    clock. The features begin where the history ends.
    """

    history_ns: int = 0
    features_ns: int = 0
    model_ns: int = 0
    fair_ns: int = 0
    history_from_ns: int = 0
    model_from_ns: int = 0
    fair_from_ns: int = 0


@dataclass(frozen=True)
class ScoredCandidates:
    """What a list was made of, for whoever checks it: n candidates in any order.

    groups: of each candidate one label for each of the policy's tables. boosts: `[n] float32`.
    bought: (table, group, count) of what the user's shares were taken from.
    """

    item_ids: tuple[str, ...]
    scores: NDArray[np.float32]
    groups: tuple[tuple[str, ...], ...]
    boosts: NDArray[np.float32]
    bought: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True)
class Answer:
    """One fair list of k items, of which `offset` were on earlier pages and `end - offset` are on
    this one; all columns speak of the whole list.

    scores: `[k] float32`. groups: of each item one label for each of the policy's tables.
    sources: `[k] int8`, `Source` values. candidates: where they were asked for. shown: what the
    next page needs, where there is one.
    """

    item_ids: tuple[str, ...]
    scores: NDArray[np.float32]
    groups: tuple[tuple[str, ...], ...]
    sources: NDArray[np.int8]
    fair: FairList
    degraded: frozenset[Degraded]
    skipped_candidates: int
    skipped_history: int
    phases: Phases
    candidates: ScoredCandidates | None = None
    groups_from_caller: bool = False
    offset: int = 0
    end: int = 1_000_000
    shown: Page | None = None


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


@dataclass(frozen=True)
class Scored:
    """What the model gave for a ScoreQuery: scores `[b, n] float32`.

    run: which of the batch's model runs it was, which took `model_ns` for all that shared it and
    began at `model_from_ns` of the machine's monotonic clock.
    """

    scores: NDArray[np.float32]
    run: int
    model_ns: int
    model_from_ns: int


Outcome = Answer | Normalised | Scored
