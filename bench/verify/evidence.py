"""A request and its responses, as files of protobuf JSON -> what is to be verified: frozen, plain."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from bench.refused import InputRefused
from bench.verify.claims import groups_told
from bench.verify.history import History, history_of
from bench.verify.numbers import Ids, by_ids
from equipoise.v1 import recommendation_pb2 as pb

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Candidate:
    """A candidate as it was scored."""

    score: float
    groups: tuple[str, ...]
    boost: float


@dataclass(frozen=True)
class Evidence:
    """One list: what it was made of (None where that was not recorded) and what was answered.

    items: of all pages, in order. whole: whether they are the whole list that the receipt is of.
    told_groups: the candidates whose groups the request brought. group_table: where a Rerank has the
    others looked up, "" for the policy's own. policy: that was asked for. allowed: the items that the
    request names, None where the server was to choose. skipped: how many of them the answer calls
    unknown. drops_seen: what was bought before is to be left out. paged: in pages. history: what a
    Recommend was to be made from; None of a Rerank, which brings `bought` itself. earlier: the same
    list as it stood after each page before the last. offsets: how many places each page says to stand
    before its own; the first of them is where the items begin. boosts_told: whether candidates have theirs. told_otherwise:
    how the candidates that a Rerank tells differ from those of its request, "" where they do not.
    """

    count: int
    excluded: frozenset[str]
    candidates: Mapping[str, Candidate] | None
    items: Sequence[pb.RankedItem]
    whole: bool
    receipt: pb.FairnessReceipt
    bundle_id: str
    bought: Mapping[str, Mapping[str, int]]
    told_groups: frozenset[str] = frozenset()
    group_table: str = ""
    policy: str = ""
    allowed: frozenset[str] | None = None
    skipped: int = 0
    drops_seen: bool = False
    model_digest: str = ""
    paged: bool = False
    same_request: bool = True
    history: History | None = None
    earlier: tuple[Evidence, ...] = ()
    offsets: tuple[int, ...] = (0,)
    boosts_told: bool = True
    told_otherwise: str = ""

    @property
    def offset(self) -> int:
        """How many places stand before the first item here."""
        return self.offsets[0]


def read_evidence(request: Path, responses: Sequence[Path], ids_of: Ids | None = None) -> Evidence:
    """The evidence in a request's file and those of its response, or of all pages, in any order.

    ids_of: for a request that names items by number.

    Raises:
        InputRefused: a file is no such message.
    """
    document = _json(request)
    if "candidates" in document:
        return _of_rerank(request, responses, document)
    asked = by_ids(_message(document, pb.RecommendRequest(), request), request, ids_of)
    pages = [_message(_json(path), pb.RecommendResponse(), path) for path in responses]
    _each_once(request, "candidate_item_ids", asked.candidate_item_ids)
    for path, page in zip(responses, pages, strict=True):
        _sound(path, page.candidates, page.items)
        if page == pb.RecommendResponse():
            raise InputRefused(str(path), "", "is an empty message: nothing was answered")
    # As a shell lists files, the second page may come before the first.
    return evidence_of(asked, sorted(pages, key=lambda page: page.page_offset))


def evidence_of(asked: pb.RecommendRequest, pages: Sequence[pb.RecommendResponse]) -> Evidence:
    """The evidence of one Recommend: its response, or those of all pages in order."""
    earlier = tuple(_until(asked, pages[:end]) for end in range(1, len(pages)))
    return replace(_until(asked, pages), earlier=earlier)


def _until(asked: pb.RecommendRequest, pages: Sequence[pb.RecommendResponse]) -> Evidence:
    """The list as it stood after these pages."""
    last = pages[-1]
    return Evidence(
        count=asked.count,
        excluded=frozenset(asked.exclude_item_ids) | _bought_before(asked),
        candidates=_candidates(last.candidates, {}) if last.candidates else None,
        items=[item for page in pages for item in page.items],
        whole=not last.next_page_token and pages[0].page_offset == 0,
        receipt=last.receipt,
        bundle_id=last.bundle_id,
        bought=_added_up(last.bought),
        policy=asked.policy,
        allowed=frozenset(asked.candidate_item_ids) or None,
        skipped=last.skipped_candidates,
        drops_seen=_drops_seen(asked),
        model_digest=last.model_digest,
        paged=len(pages) > 1 or last.page_offset > 0,
        same_request=asked.request_id in ("", pages[0].request_id),
        history=history_of(asked, last),
        offsets=tuple(page.page_offset for page in pages),
    )


def _drops_seen(asked: pb.RecommendRequest) -> bool:
    on = asked.personalisation != pb.PERSONALISATION_OFF
    return on and asked.seen_items == pb.SEEN_ITEMS_EXCLUDE


def _bought_before(asked: pb.RecommendRequest) -> frozenset[str]:
    """Items that must not come back because the request tells that the user bought them.

    Views and the like count where the bundle says so, which is not known here.
    """
    if not _drops_seen(asked):
        return frozenset()
    latest = asked.as_of_unix_ms
    return frozenset(
        event.item_id
        for event in asked.history
        if event.kind in (pb.EVENT_KIND_UNSPECIFIED, pb.EVENT_KIND_PURCHASE)
        and (not latest or event.time_unix_ms <= latest)
    )


def _of_rerank(request: Path, responses: Sequence[Path], document: object) -> Evidence:
    if len(responses) > 1:
        raise InputRefused(str(responses[1]), "", "Rerank has no pages: give one response")
    asked = _message(document, pb.RerankRequest(), request)
    answer = _message(_json(responses[0]), pb.RerankResponse(), responses[0])
    _sound(request, asked.candidates, ())
    _sound(responses[0], answer.candidates, answer.items)
    used = {told.item_id: told for told in answer.candidates}
    return Evidence(
        count=asked.count,
        excluded=frozenset(),
        candidates=_candidates(asked.candidates, used),
        items=list(answer.items),
        whole=True,
        receipt=answer.receipt,
        bundle_id=answer.bundle_id,
        bought=_added_up(asked.bought),
        told_groups=frozenset(c.item_id for c in asked.candidates if c.group or c.groups),
        group_table=asked.group_table,
        policy=asked.policy,
        same_request=asked.request_id in ("", answer.request_id),
        boosts_told=bool(used),
        told_otherwise=_told_otherwise(asked.candidates, used) if used else "",
    )


def _told_otherwise(
    asked: Sequence[pb.ScoredCandidate], used: Mapping[str, pb.ScoredCandidate]
) -> str:
    given = {own.item_id: own for own in asked}
    for item in given.keys() ^ used.keys():
        return f"item {item!r} is in one of request and response"
    for item, own in given.items():
        told = used[item]
        brought = groups_told(own)
        if own.score != told.score or (brought and brought != groups_told(told)):
            return f"item {item!r} has another score or group in the request"
    return ""


def _added_up(told: Iterable[pb.GroupCount]) -> dict[str, dict[str, int]]:
    bought: dict[str, dict[str, int]] = {}
    for part in told:
        own = bought.setdefault(part.group_table, {})
        own[part.group] = own.get(part.group, 0) + part.count
    return bought


def _candidates(
    scored: Sequence[pb.ScoredCandidate], used: Mapping[str, pb.ScoredCandidate]
) -> dict[str, Candidate]:
    """Scores as the caller gave them; groups and boosts as the server says that it used them."""
    found = {}
    for candidate in scored:
        own = used.get(candidate.item_id, candidate)
        groups = groups_told(candidate) or groups_told(own)
        found[candidate.item_id] = Candidate(candidate.score, tuple(groups), own.boost)
    return found


def _sound(
    path: Path, candidates: Sequence[pb.ScoredCandidate], items: Sequence[pb.RankedItem]
) -> None:
    """Refuse what no claim can be computed from."""
    _each_once(path, "candidates", [own.item_id for own in candidates])
    numbers = [(f"candidates[{n}].score", own.score) for n, own in enumerate(candidates)]
    numbers += [(f"candidates[{n}].boost", own.boost) for n, own in enumerate(candidates)]
    numbers += [(f"items[{n}].score", own.score) for n, own in enumerate(items)]
    for where, number in numbers:
        if not math.isfinite(number):
            raise InputRefused(str(path), where, f"got {number}, must be a finite number")


def _each_once(path: Path, field: str, ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for place, item in enumerate(ids):
        if first.setdefault(item, place) != place:
            why = f"got {item!r}, which is at {first[item]} already"
            raise InputRefused(str(path), f"{field}[{place}]", why)


def _json(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(str(path), "", f"is no JSON file: {error}") from error
    if not isinstance(document, dict):
        raise InputRefused(str(path), "", "must be one JSON object, a message of the contract")
    return document


def _message(document: object, empty: M, path: Path) -> M:
    try:
        return ParseDict(document, empty)  # type: ignore[arg-type]
    except (ParseError, RecursionError) as error:
        raise InputRefused(
            str(path), "", f"is no {type(empty).DESCRIPTOR.name}: {error}"
        ) from error
