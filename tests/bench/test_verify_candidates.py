"""`equipoise verify` on the candidates: withheld and relabelled ones are found, and an honest server's are not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.verify.bounds import Known
from bench.verify.chosen import candidates_are_right
from bench.verify.claims import Verdict
from bench.verify.document import read_document
from bench.verify.evidence import Candidate, Evidence
from equipoise.v1 import recommendation_pb2 as pb
from strategies.bundles import DATA_UNTIL_MS, TIERS
from strategies.lists import Shopper, asked, pages
from strategies.live import LiveServer
from strategies.verifying import Verifier, verifier_of

ASKED_FOR = "candidates are those that were asked for"
GROUPS = "groups are those of the bundle"
MODEL = "the model is the bundle's"
LARGE, SMALL = range(25), range(48, 60)


@pytest.fixture
def verifier(tmp_path: Path, bundle_path: Path) -> Verifier:
    return verifier_of(tmp_path, bundle_path)


def names(items: Sequence[int]) -> list[str]:
    return [f"item-{n:03}" for n in items]


def named(items: Sequence[int], **fields: Any) -> pb.RecommendRequest:
    given = {"with_candidates": True, "as_of_unix_ms": DATA_UNTIL_MS, "history": []}
    return asked("tiers", **given | {"candidate_item_ids": names(items)} | fields)


def answer(live: LiveServer, request: pb.RecommendRequest) -> pb.RecommendResponse:
    return live.recommendation.Recommend(request, timeout=10)


def fewer(live: LiveServer) -> tuple[pb.RecommendRequest, pb.RecommendResponse]:
    """A request that names small makers too, and an answer that is false by leaving them out."""
    response = answer(live, named(LARGE, request_id="r"))
    assert response.receipt.status == pb.RECEIPT_STATUS_INFEASIBLE
    return named([*LARGE, *SMALL], request_id="r"), response


def test_withheld_candidates_prove_nothing(live: LiveServer, verifier: Verifier) -> None:
    request, response = fewer(live)
    code, claims = verifier(request, [response], "tiers")
    assert (code, claims[ASKED_FOR]["verdict"]) == (1, "lie")
    assert "item-048" in claims[ASKED_FOR]["told"]
    code, claims = verifier(request, [response], "tiers", bundle=False)
    assert (code, claims[ASKED_FOR]["verdict"]) == (1, "lie")


def test_withheld_and_called_unknown_is_found_with_the_bundle(
    live: LiveServer, verifier: Verifier
) -> None:
    request, response = fewer(live)
    response.skipped_candidates = len(SMALL)
    assert verifier(request, [response], "tiers")[1][ASKED_FOR]["verdict"] == "lie"
    code, claims = verifier(request, [response], "tiers", bundle=False)
    assert (code, claims[ASKED_FOR]["verdict"]) == (3, "not checked")
    assert "--bundle" in claims[ASKED_FOR]["told"]


def test_candidates_of_another_group_are_found(live: LiveServer, verifier: Verifier) -> None:
    """None of the relabelled ones is listed."""
    request = named([*LARGE, *SMALL], request_id="r")
    response = answer(live, named(LARGE, request_id="r"))
    whole = answer(live, request)
    listed = {item.item_id for item in response.items}
    for candidate in whole.candidates:
        if candidate.item_id in names(SMALL):
            assert candidate.item_id not in listed
            response.candidates.add(item_id=candidate.item_id, score=-1, group="large")
    code, claims = verifier(request, [response], "tiers")
    assert (code, claims[GROUPS]["verdict"]) == (1, "lie")
    assert claims[GROUPS]["told"] == (
        "item 'item-048' is told to be of large, the bundle has small"
    )


def test_every_pages_candidates_are_looked_up(live: LiveServer, verifier: Verifier) -> None:
    request = named(range(40), page_size=7)
    found = pages(live, request)
    code, claims = verifier(request, found, "tiers")
    assert (code, claims[GROUPS]["told"]) == (0, "40 candidates, 20 items")
    shown = {item.item_id for page in found for item in page.items}
    other = next(c for c in found[0].candidates if c.item_id not in shown)
    other.group = next(tier for tier in TIERS if tier != other.group)
    assert verifier(request, found, "tiers")[1][GROUPS]["verdict"] == "lie"


def _empty(response: pb.RecommendResponse) -> None:
    for field in ("items", "candidates", "receipt"):
        response.ClearField(field)
    response.receipt.status = pb.RECEIPT_STATUS_SKIPPED


LIES: dict[str, Callable[[pb.RecommendResponse], Any]] = {
    "one is left out": lambda r: r.candidates.pop(),
    "one more was unknown": lambda r: setattr(r, "skipped_candidates", r.skipped_candidates + 1),
    "none was unknown": lambda r: setattr(r, "skipped_candidates", 0),
    "one that was not named": lambda r: r.candidates.add(item_id="item-059", group="small"),
    "one that was excluded": lambda r: r.candidates.add(item_id="item-003", group="large"),
    "one that the bundle lacks": lambda r: r.candidates.add(item_id="strange", group="large"),
    "none is left": _empty,
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_about_candidates_is_found(live: LiveServer, verifier: Verifier, name: str) -> None:
    request = named(range(40), exclude_item_ids=names([3, 4]))
    request.candidate_item_ids.append("strange")
    response = answer(live, request)
    code, claims = verifier(request, [response], "tiers")
    assert (code, claims[ASKED_FOR]["told"]) == (0, "41 named, 38 candidates")
    LIES[name](response)
    code, claims = verifier(request, [response], "tiers")
    assert (code, claims[ASKED_FOR]["verdict"]) == (1, "lie")


def test_an_unknown_candidate_without_a_request_for_it_is_found(
    live: LiveServer, verifier: Verifier
) -> None:
    request = asked("none", with_candidates=True, as_of_unix_ms=DATA_UNTIL_MS)
    response = answer(live, request)
    assert verifier(request, [response], "none")[0] == 0
    response.candidates.add(item_id="strange", score=-1)
    assert verifier(request, [response], "none")[1][ASKED_FOR]["verdict"] == "lie"


def bought(item: int, time_ms: int, kind: int = 4) -> pb.HistoryEvent:
    return pb.HistoryEvent(item_id=f"item-{item:03}", time_unix_ms=time_ms, kind=kind)


def test_what_was_bought_before_may_be_missing_and_nothing_else(
    live: LiveServer, verifier: Verifier
) -> None:
    until = DATA_UNTIL_MS
    history = [bought(1, until - 1), bought(2, until + 1), bought(5, until - 1, kind=1)]
    request = named(range(40), seen_items=pb.SEEN_ITEMS_EXCLUDE, history=history)
    response = answer(live, request)
    code, claims = verifier(request, [response], "tiers")
    assert (code, claims[ASKED_FOR]["told"]) == (0, "40 named, 39 candidates")
    for item in ("item-002", "item-005"):
        other = pb.RecommendResponse()
        other.CopyFrom(response)
        other.candidates.remove(next(c for c in other.candidates if c.item_id == item))
        claims = verifier(request, [other], "tiers")[1]
        assert item in claims[ASKED_FOR]["told"]
        assert claims[ASKED_FOR]["verdict"] == "lie"
    request.seen_items = pb.SEEN_ITEMS_INCLUDE
    assert verifier(request, [response], "tiers")[1][ASKED_FOR]["verdict"] == "lie"


def test_what_was_bought_by_the_event_store_may_be_missing(
    live: LiveServer, verifier: Verifier
) -> None:
    shopper = Shopper(live, "candidates-store")
    shopper.buy()
    store = live.log.parent / "events.db"
    request = named(range(40), seen_items=pb.SEEN_ITEMS_EXCLUDE, user_id=shopper.user, page_size=7)
    found = pages(live, request, shopper.buy)
    assert len(found[-1].candidates) < len(found[0].candidates) < 40
    code, claims = verifier(request, found, "tiers")
    assert (code, claims[ASKED_FOR]["verdict"]) == (3, "not checked")
    assert "--events" in claims[ASKED_FOR]["told"]
    code, claims = verifier(request, found, "tiers", "--events", store)
    assert (code, claims[ASKED_FOR]["verdict"]) == (0, "holds"), claims
    left = next(c for c in found[0].candidates if c.item_id == "item-003")
    found[0].candidates.remove(left)
    claims = verifier(request, found, "tiers", "--events", store)[1]
    assert claims[ASKED_FOR]["verdict"] == "lie"


def test_the_model_is_compared(live: LiveServer, verifier: Verifier) -> None:
    request = named(range(40))
    response = answer(live, request)
    response.model_digest = "0" * 64
    code, claims = verifier(request, [response], "tiers")
    assert (code, claims[MODEL]["verdict"]) == (1, "lie")


def test_without_the_bundle_groups_are_not_trusted(live: LiveServer, verifier: Verifier) -> None:
    request = named(range(40))
    response = answer(live, request)
    code, claims = verifier(request, [response], "tiers", bundle=False)
    assert (code, claims[GROUPS]["verdict"]) == (3, "not checked")
    assert "--bundle" in claims[GROUPS]["told"]
    assert claims[ASKED_FOR]["verdict"] == "holds"
    request = asked("none", with_candidates=True, candidate_item_ids=names(range(40)))
    assert verifier(request, [answer(live, request)], "none", bundle=False)[0] == 0


def reranked(live: LiveServer, **fields: Any) -> tuple[pb.RerankRequest, pb.RerankResponse]:
    """The first half brings its groups, wrong by the bundle; the others are looked up."""
    request = pb.RerankRequest(count=12, policy="tiers", **fields)
    for n in range(40):
        request.candidates.add(
            item_id=f"item-{n:03}", score=(n * 7 % 31) / 8, group="small" if n < 20 else ""
        )
    return request, live.recommendation.Rerank(request, timeout=10)


def test_groups_that_a_rerank_does_not_bring_are_looked_up(
    live: LiveServer, verifier: Verifier
) -> None:
    request, response = reranked(live, with_candidates=True)
    code, claims = verifier(request, [response], "tiers")
    assert (code, claims[GROUPS]["verdict"]) == (0, "holds")
    assert verifier(request, [response], "tiers", bundle=False)[1][GROUPS]["verdict"] == (
        "not checked"
    )
    response.candidates[25].group = "small"
    assert verifier(request, [response], "tiers")[1][GROUPS]["verdict"] == "lie"


def test_groups_of_a_rerank_without_candidates_are_not_at_hand(
    live: LiveServer, verifier: Verifier
) -> None:
    request, response = reranked(live)
    code, claims = verifier(request, [response], "tiers")
    assert code == 3, claims
    assert not [c for c in claims.values() if c["verdict"] == "lie"]


@pytest.mark.parametrize(("table", "verdict"), [("", Verdict.LIE), ("other", Verdict.HOLDS)])
def test_a_rerank_may_have_groups_looked_up_in_another_table(table: str, verdict: Verdict) -> None:
    document = read_document(
        'name = "p"\nversion = "1"\nkind = "floors"\ngroup_table = "t"\nreason = "made for a test"\n'
        'floors = {a = "1/5"}\n'
    )
    sizes = {"a": 1, "b": 1}
    known = Known(
        {"t": sizes, "other": sizes}, {}, {"t": {"x": "a", "y": "b"}, "other": {"x": "b", "y": "a"}}
    )
    evidence = Evidence(
        count=1, excluded=frozenset(), items=[pb.RankedItem(rank=1, item_id="x", group="b")],
        candidates={"x": Candidate(2, ("b",), 0), "y": Candidate(1, ("a",), 0)}, whole=True,
        receipt=pb.FairnessReceipt(), bundle_id="", bought={}, group_table=table,
    )  # fmt: skip
    _, found = candidates_are_right(evidence, document, known)
    assert (found.name, found.verdict) == (GROUPS, verdict)
