"""Hypothesis strategies: requests that a server must answer, and requests that it must refuse.

Built, not filtered. Small values first, so that shrinking ends at a readable request.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from bench.invariants.world import PolicyFacts, World
from equipoise.v1 import recommendation_pb2 as pb

MAX_CANDIDATES = 30
MAX_GROUPS = 4
DAY_MS = 86_400_000
MAX_TIME_MS = 253_402_300_799_999

# Few different scores make ties common; the others try the edges of float32.
SCORES = st.one_of(
    st.integers(0, 8).map(lambda n: n / 4),
    st.integers(-8, 8).map(lambda n: n / 4),
    st.floats(-1e6, 1e6, width=32),
    st.sampled_from([0.0, -0.0, 1.0, 1e-30, 3e38, -3e38]),
)
ITEM_IDS = st.one_of(
    st.integers(0, 99).map(lambda n: f"i{n:02}"),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6),
)


@st.composite
def rerank_requests(draw: st.DrawFn, world: World, policy: PolicyFacts) -> pb.RerankRequest:
    """A caller's own candidates: up to 30, of up to 4 groups of the policy.

    Often one group outscores the others, or bounds would seldom have anything to do.
    """
    # sampled_from is even where integers prefers the ends, and still shrinks to the first.
    size = draw(st.sampled_from(range(1, MAX_CANDIDATES + 1)))
    ids = draw(st.lists(ITEM_IDS, min_size=size, max_size=size, unique=True))
    labels: tuple[str, ...] = ("",)
    if policy.labels and not policy.one_table:
        labels = policy.labels
    elif policy.labels:
        # Mostly all groups, since a group without supply makes its floors infeasible.
        most = min(len(policy.labels), MAX_GROUPS)
        least = draw(st.sampled_from([most, most, most, 1]))
        some = st.lists(st.sampled_from(policy.labels), min_size=least, max_size=most, unique=True)
        labels = tuple(draw(some))
    ahead = draw(st.sampled_from([0.0, 4.0]))
    candidates = []
    for item in ids:
        if policy.one_table:
            place = draw(st.sampled_from(range(len(labels))))
            chosen = [labels[place]]
        else:
            own = [[g for g in labels if g.startswith(f"{table}:")] for table in policy.tables_of]
            chosen = [draw(st.sampled_from(of_table)) for of_table in own]
            place = labels.index(chosen[0])
        score = draw(SCORES) + (0.0 if place else ahead)
        candidate = pb.ScoredCandidate(item_id=item, score=score)
        if policy.one_table:
            candidate.group = chosen[0]
        else:
            candidate.groups.extend(chosen)
        candidates.append(candidate)
    least = draw(st.sampled_from([1, max(size // 2, 1)]))
    most = draw(st.sampled_from([size, size, max(world.max_count, size)]))
    count = min(draw(st.sampled_from(range(least, most + 1))), world.max_count)
    return pb.RerankRequest(candidates=candidates, count=count, policy=policy.name)


@st.composite
def histories(draw: st.DrawFn, world: World) -> list[pb.HistoryEvent]:
    """Purchases of known items in the half year before the end of the bundle's data."""
    bought = draw(st.lists(st.sampled_from(world.items), max_size=12))
    return [
        pb.HistoryEvent(
            item_id=item,
            time_unix_ms=max(world.data_until_ms - draw(st.integers(0, 180)) * DAY_MS, 0),
            kind=pb.EVENT_KIND_PURCHASE,
            quantity=draw(st.integers(1, 3)),
        )
        for item in bought
    ]


@st.composite
def recommend_requests(
    draw: st.DrawFn, world: World, policy: PolicyFacts, *, candidates: bool | None = None
) -> pb.RecommendRequest:
    """A request on known items. candidates: whether the caller names them; None: sometimes."""
    named: list[str] = []
    if draw(st.booleans()) if candidates is None else candidates:
        size = min(MAX_CANDIDATES, len(world.items))
        named = draw(st.lists(st.sampled_from(world.items), min_size=1, max_size=size, unique=True))
    excluded = draw(st.lists(st.sampled_from(world.items), max_size=6, unique=True))
    return pb.RecommendRequest(
        history=draw(histories(world)),
        candidate_item_ids=named,
        count=draw(st.integers(1, min(25, world.max_count))),
        policy=policy.name,
        exclude_item_ids=excluded,
        seen_items=draw(st.sampled_from([pb.SEEN_ITEMS_INCLUDE, pb.SEEN_ITEMS_EXCLUDE])),
        # A time of its own, so that the same request means the same at every call.
        as_of_unix_ms=max(world.data_until_ms, 1),
    )


@dataclass(frozen=True)
class Fault:
    """One way to spoil a request, the code that it must get, and the field that must be named."""

    name: str
    code: str
    field: str
    spoil: Callable[..., None]


def rerank_faults(world: World, policy: PolicyFacts) -> Sequence[Fault]:
    """Ways to spoil a `RerankRequest`."""

    def first(field: str, value: object) -> Callable[[pb.RerankRequest], None]:
        return lambda r: setattr(r.candidates[0], field, value)

    def whole(field: str, value: object) -> Callable[[pb.RerankRequest], None]:
        return lambda r: setattr(r, field, value)

    def twice(r: pb.RerankRequest) -> None:
        r.candidates.add().CopyFrom(r.candidates[0])

    def nobody(r: pb.RerankRequest) -> None:
        del r.candidates[:]

    bad = "INVALID_ARGUMENT"
    faults = [
        Fault("count 0", bad, "count", whole("count", 0)),
        Fault("count too large", bad, "count", whole("count", world.max_count + 1)),
        Fault("count of 2^32 - 1", bad, "count", whole("count", 2**32 - 1)),
        Fault("NaN score", bad, "candidates[0].score", first("score", math.nan)),
        Fault("infinite score", bad, "candidates[0].score", first("score", math.inf)),
        Fault("minus infinite score", bad, "candidates[0].score", first("score", -math.inf)),
        Fault("empty item id", bad, "candidates[0].item_id", first("item_id", "")),
        Fault("long item id", bad, "candidates[0].item_id", first("item_id", "x" * 129)),
        Fault("candidate twice", bad, "candidates", twice),
        Fault("no candidates", bad, "candidates", nobody),
        Fault("surface of another form", bad, "surface", whole("surface", "a b")),
        Fault("request id not ASCII", bad, "request_id", whole("request_id", "é")),
        Fault("unknown policy", "NOT_FOUND", "policy", whole("policy", "no-such-policy")),
        Fault("unknown table", "NOT_FOUND", "group table", whole("group_table", "no-such-table")),
    ]
    if policy.labels and policy.one_table:
        outside = first("group", "no such group")
        faults.append(Fault("group outside the policy", bad, "candidates[0].group", outside))
    return faults


def recommend_faults(world: World) -> Sequence[Fault]:
    """Ways to spoil a `RecommendRequest`."""

    def whole(field: str, value: object) -> Callable[[pb.RecommendRequest], None]:
        return lambda r: setattr(r, field, value)

    def event(field: str, value: object) -> Callable[[pb.RecommendRequest], None]:
        def spoil(r: pb.RecommendRequest) -> None:
            del r.history[:]
            added = r.history.add(item_id=world.items[0], time_unix_ms=1, kind=4, quantity=1)
            setattr(added, field, value)

        return spoil

    def candidates(*ids: str, strict: bool = False) -> Callable[[pb.RecommendRequest], None]:
        def spoil(r: pb.RecommendRequest) -> None:
            del r.candidate_item_ids[:]
            r.candidate_item_ids.extend(ids)
            if strict:
                r.unknown_items = pb.UNKNOWN_ITEMS_REJECT

        return spoil

    def excluded(r: pb.RecommendRequest) -> None:
        r.exclude_item_ids.append("")

    bad, known = "INVALID_ARGUMENT", world.items[0]
    return [
        Fault("count 0", bad, "count", whole("count", 0)),
        Fault("count too large", bad, "count", whole("count", world.max_count + 1)),
        Fault("negative time", bad, "history[0].time_unix_ms", event("time_unix_ms", -1)),
        Fault("time after 9999", bad, "history[0].time", event("time_unix_ms", MAX_TIME_MS + 1)),
        Fault("empty item", bad, "history[0].item_id", event("item_id", "")),
        Fault("long item", bad, "history[0].item_id", event("item_id", "ä" * 65)),
        Fault("quantity too large", bad, "history[0].quantity", event("quantity", 10_001)),
        Fault("kind outside", bad, "history[0].kind", event("kind", 99)),
        Fault("candidate twice", bad, "candidate_item_ids", candidates(known, known)),
        Fault("empty candidate", bad, "candidate_item_ids", candidates("")),
        Fault("strict, unknown", "NOT_FOUND", "candidate_item_ids", candidates("no such item", strict=True)),
        Fault("empty exclusion", bad, "exclude_item_ids", excluded),
        Fault("long user id", bad, "user_id", whole("user_id", "u" * 129)),
        Fault("seen_items outside", bad, "seen_items", whole("seen_items", 9)),
        Fault("personalisation outside", bad, "personalisation", whole("personalisation", 7)),
        Fault("unknown_items outside", bad, "unknown_items", whole("unknown_items", -1)),
        Fault("negative as_of", bad, "as_of_unix_ms", whole("as_of_unix_ms", -1)),
        Fault("long experiment", bad, "experiment", whole("experiment", "x" * 65)),
        Fault("unknown policy", "NOT_FOUND", "policy", whole("policy", "no-such-policy")),
    ]  # fmt: skip


def feedback_faults() -> Sequence[Fault]:
    """Ways to spoil a batch of feedback; all of them leave nothing recorded."""

    def event(field: str, value: object) -> Callable[[pb.RecordFeedbackRequest], None]:
        return lambda r: setattr(r.events[0], field, value)

    def none(r: pb.RecordFeedbackRequest) -> None:
        del r.events[:]

    bad = "INVALID_ARGUMENT"
    return [
        Fault("no event", bad, "events", none),
        Fault("no event id", bad, "events[0].event_id", event("event_id", "")),
        Fault("long event id", bad, "events[0].event_id", event("event_id", "x" * 65)),
        Fault("no user", bad, "events[0].user_id", event("user_id", "")),
        Fault("no item", bad, "events[0].item_id", event("item_id", "")),
        Fault("no kind", bad, "events[0].kind", event("kind", 0)),
        Fault("no time", bad, "events[0].time_unix_ms", event("time_unix_ms", 0)),
        Fault("year 9999", bad, "events[0].time_unix_ms", event("time_unix_ms", MAX_TIME_MS)),
        Fault("negative time", bad, "events[0].time_unix_ms", event("time_unix_ms", -5)),
        Fault("quantity too large", bad, "events[0].quantity", event("quantity", 10_001)),
        Fault("rank too large", bad, "events[0].rank", event("rank", 10_001)),
    ]


@st.composite
def spoiled_feedback(draw: st.DrawFn, world: World) -> tuple[Fault, pb.RecordFeedbackRequest]:
    """A batch with one fault. Without the fault it is never sent: invariants record nothing."""
    fault = draw(st.sampled_from(feedback_faults()))
    size = draw(st.integers(1, 3))
    request = pb.RecordFeedbackRequest(
        events=[
            pb.FeedbackEvent(
                event_id=f"invariants-{n}", user_id="invariants", item_id=world.items[0],
                kind=pb.EVENT_KIND_VIEW, time_unix_ms=1,
            )
            for n in range(size)
        ]
    )  # fmt: skip
    fault.spoil(request)
    return fault, request


@st.composite
def spoiled_rerank(
    draw: st.DrawFn, world: World, policy: PolicyFacts
) -> tuple[Fault, pb.RerankRequest]:
    """A request to Rerank with one fault."""
    request = draw(rerank_requests(world, policy))
    fault = draw(st.sampled_from(rerank_faults(world, policy)))
    fault.spoil(request)
    return fault, request


@st.composite
def spoiled_recommend(
    draw: st.DrawFn, world: World, policy: PolicyFacts
) -> tuple[Fault, pb.RecommendRequest]:
    """A request to Recommend with one fault."""
    request = draw(recommend_requests(world, policy))
    fault = draw(st.sampled_from(recommend_faults(world)))
    fault.spoil(request)
    return fault, request
