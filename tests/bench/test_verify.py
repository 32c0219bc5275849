"""`equipoise verify`: honest receipts hold, and every lie that is told of a list is found."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from equipoise.v1 import recommendation_pb2 as pb
from strategies.bundles import N_ITEMS
from strategies.lists import POLICIES, asked
from strategies.live import LiveServer
from strategies.tampering import more_bought, ranks_from_zero
from strategies.verifying import Verifier, verifier_of

Told = tuple[pb.RecommendRequest, list[pb.RecommendResponse]]


@pytest.fixture
def verifier(tmp_path: Path, bundle_path: Path) -> Verifier:
    return verifier_of(tmp_path, bundle_path)


def told(live: LiveServer, policy: str, **fields: Any) -> Told:
    request = asked(
        policy, **{"with_candidates": True, "as_of_unix_ms": 1_500_000_000_000} | fields
    )
    return request, [live.recommendation.Recommend(request, timeout=10)]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_honest_list_holds_in_every_claim(
    live: LiveServer, verifier: Verifier, policy: str
) -> None:
    request, responses = told(live, policy)
    code, claims = verifier(request, responses, policy)
    left = {name for name, claim in claims.items() if claim["verdict"] != "holds"}
    assert (code, left) == (0, set()), claims
    assert len(claims) >= 7


def _swap(response: pb.RecommendResponse, one: int, other: int) -> None:
    first, second = response.items[one], response.items[other]
    kept = pb.RankedItem()
    kept.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(kept)
    first.rank, second.rank = one + 1, other + 1


def _leave_out_a_better_one(response: pb.RecommendResponse) -> None:
    listed = {item.item_id for item in response.items}
    last = response.items[-1]
    worse = min(
        (c for c in response.candidates if c.item_id not in listed and c.group == last.group),
        key=lambda c: c.score,
    )
    last.item_id, last.score = worse.item_id, worse.score
    order = sorted(response.candidates, key=lambda c: -c.score)
    last.rank_by_score = [c.item_id for c in order].index(worse.item_id) + 1


def _boosted(response: pb.RecommendResponse) -> None:
    """The worst candidate of the first item's group in front, with a boost that explains it."""
    listed = {item.item_id for item in response.items}
    first = response.items[0]
    worst = min(
        (c for c in response.candidates if c.item_id not in listed and c.group == first.group),
        key=lambda c: c.score,
    )
    worst.boost = 10
    first.item_id, first.score = worst.item_id, worst.score
    _mended(response)


def _by_score(response: pb.RecommendResponse, status: int) -> None:
    """Plain score order, consistent in all but the status."""
    best = sorted(response.candidates, key=lambda c: -c.score)[: len(response.items)]
    for item, candidate in zip(response.items, best, strict=True):
        item.item_id, item.score, item.group = candidate.item_id, candidate.score, candidate.group
        del item.groups[:]
        item.groups.extend(candidate.groups)
    _mended(response)
    response.receipt.status = status
    response.receipt.utility_of_best = 0
    bad = response.receipt.first_bad_prefix
    bad.prefix, bad.group, bad.needed, bad.available = 5, response.receipt.exposure[0].group, 1, 0


def _all_shown_before(response: pb.RecommendResponse) -> None:
    for item in response.items:
        if item.rank != item.rank_by_score:
            item.reason = pb.REASON_CODE_SHOWN_BEFORE


def _mended(response: pb.RecommendResponse) -> None:
    """Ranks, reasons, exposure and utility as they would be of this list."""
    order = [c.item_id for c in sorted(response.candidates, key=lambda c: -c.score)]
    scores = sorted((c.score for c in response.candidates), reverse=True)
    worth = [1 / math.log2(rank + 1) for rank in range(1, len(response.items) + 1)]
    shares: dict[str, list[float]] = {}
    for w, item in zip(worth, response.items, strict=True):
        item.rank_by_score = order.index(item.item_id) + 1
        moved = item.rank_by_score - item.rank
        item.reason = 2 if moved > 0 else 3 if moved < 0 else 1
        for group in item.groups or [item.group]:
            shares.setdefault(group, []).append(w / sum(worth))
    receipt = response.receipt
    del receipt.exposure[:]
    for group, own in shares.items():
        receipt.exposure.add(group=group, items=len(own), exposure_share=sum(own))
    lowest = min(0.0, *scores)
    got = sum(w * (item.score - lowest) for w, item in zip(worth, response.items, strict=True))
    ideal = sum(w * (score - lowest) for w, score in zip(worth, scores, strict=False))
    receipt.utility_kept = got / ideal
    receipt.places_moved = sum(item.rank != item.rank_by_score for item in response.items)


def _turn_a_reason(response: pb.RecommendResponse) -> None:
    moved = next(item for item in response.items if item.reason != pb.REASON_CODE_SCORE)
    moved.reason = pb.REASON_CODE_SCORE


LIES: dict[str, tuple[str, Callable[[pb.RecommendResponse], None]]] = {
    "two places change": ("tiers", lambda r: _swap(r, 0, 15)),
    "a better item is left out": ("tiers", _leave_out_a_better_one),
    "an item comes twice": ("tiers", lambda r: r.items[4].CopyFrom(r.items[3])),
    "an item is no candidate": ("tiers", lambda r: setattr(r.items[2], "item_id", "item-xyz")),
    "a score is nicer": ("tiers", lambda r: setattr(r.items[2], "score", r.items[2].score + 0.1)),
    "a rank by score is nicer": ("tiers", lambda r: setattr(r.items[19], "rank_by_score", 20)),
    "a group is another": ("tiers", lambda r: setattr(r.items[0], "group", "small")),
    "utility is nicer": ("tiers", lambda r: setattr(r.receipt, "utility_kept", 1.0)),
    "fewer places moved": ("tiers", lambda r: setattr(r.receipt, "places_moved", 0)),
    "a group got more": ("tiers", lambda r: setattr(r.receipt.exposure[0], "items", 11)),
    "a share is nicer": ("tiers", lambda r: setattr(r.receipt.exposure[0], "exposure_share", 0.5)),
    "a digest is another": ("tiers", lambda r: setattr(r.receipt, "policy_digest", "0" * 64)),
    "a version is another": ("tiers", lambda r: setattr(r.receipt, "policy_version", "2")),
    "the policy was not met": ("tiers", lambda r: setattr(r.receipt, "status", 2)),
    "a window's best is nicer": ("brands", lambda r: setattr(r.receipt, "utility_of_best", 1.5)),
    "the best of several tables is nicer": (
        "crossed", lambda r: setattr(r.receipt, "utility_of_best", 1.1)
    ),
    "a calibration is nicer": (
        "own-shares", lambda r: setattr(r.receipt.calibration[0], "after", 0.0)
    ),
    "a boost under a policy that gives none": ("tiers", _boosted),
    "a floor is broken and not found": ("tiers", lambda r: _by_score(r, 4)),
    "several tables could be kept": ("crossed", lambda r: _by_score(r, 2)),
    "the best is told too low": ("tiers", lambda r: setattr(r.receipt, "utility_of_best", 0.4)),
    "groups are the caller's": ("tiers", lambda r: setattr(r.receipt, "groups_from_caller", True)),
    "a discount that is none": ("tiers", lambda r: setattr(r.receipt, "discount", "foo")),
    "an item is missing": ("none", lambda r: r.items.pop()),
    "ranks from zero": ("tiers", lambda r: ranks_from_zero(None, r)),
    "purchases are counted that nothing rests on": ("tiers", more_bought),
    "more was bought": ("own-shares", more_bought),
    "nothing was bought": ("own-shares", lambda r: r.ClearField("bought")),
    "nothing at all": ("tiers", lambda r: r.ClearField("items")),
    "shown before, without pages": ("tiers", _all_shown_before),
    "the stage was skipped": ("tiers", lambda r: setattr(r.receipt, "status", 3)),
    "a reason points the other way": ("tiers", _turn_a_reason),
    "the best is no number": (
        "tiers", lambda r: setattr(r.receipt, "utility_of_best", float("nan"))
    ),
    "the best is below 0": ("brands", lambda r: setattr(r.receipt, "utility_of_best", -7.0)),
    "a bad prefix though met": ("tiers", lambda r: setattr(r.receipt.first_bad_prefix, "prefix", 3)),
    "met and skipped": ("tiers", lambda r: setattr(r.receipt, "skip_reason", 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_found(live: LiveServer, verifier: Verifier, name: str) -> None:
    policy, lie = LIES[name]
    request, (response,) = told(live, policy)
    lie(response)
    code, claims = verifier(request, [response], policy)
    assert code == 1, claims


def test_without_candidates_it_says_what_it_could_not_check(
    live: LiveServer, verifier: Verifier
) -> None:
    request, responses = told(live, "tiers", with_candidates=False)
    code, claims = verifier(request, responses, "tiers")
    assert code == 3
    assert claims["utility kept is right"]["verdict"] == "not checked"
    assert (
        claims["every prefix keeps its bounds, or the receipt says where not"]["verdict"] == "holds"
    )


def test_a_list_that_no_candidates_could_make_fair_is_proven_so(
    live: LiveServer, verifier: Verifier
) -> None:
    large = [f"item-{n:03}" for n in range(25)]
    request, (response,) = told(live, "tiers", candidate_item_ids=large)
    assert response.receipt.status == pb.RECEIPT_STATUS_INFEASIBLE
    assert verifier(request, [response], "tiers")[0] == 0
    response.receipt.first_bad_prefix.available += 1
    assert verifier(request, [response], "tiers")[0] == 1
    response.receipt.first_bad_prefix.available -= 1
    # A later prefix is bad too, but not the first.
    first = response.receipt.first_bad_prefix.prefix
    response.receipt.first_bad_prefix.prefix = first + 1
    assert verifier(request, [response], "tiers")[0] == 1


def test_a_list_that_cannot_keep_its_policy_keeps_what_the_supply_allows(
    live: LiveServer, verifier: Verifier
) -> None:
    """One small item among large ones: more are wanted, and the one there is must come in time."""
    every = [f"item-{n:03}" for n in range(N_ITEMS)]
    _, (response,) = told(live, "tiers", candidate_item_ids=every)
    by_score = sorted(response.candidates, key=lambda one: -one.score)
    large = [one.item_id for one in by_score if one.group == "large"]
    small = [one.item_id for one in by_score if one.group == "small"][-1:]
    request, (response,) = told(live, "tiers", candidate_item_ids=large + small)
    receipt = response.receipt
    assert receipt.status == pb.RECEIPT_STATUS_INFEASIBLE
    assert verifier(request, [response], "tiers")[0] == 0
    bad = pb.PrefixViolation()
    bad.CopyFrom(receipt.first_bad_prefix)
    _by_score(response, pb.RECEIPT_STATUS_INFEASIBLE)
    receipt.first_bad_prefix.CopyFrom(bad)
    code, claims = verifier(request, [response], "tiers")
    told_of = claims["every prefix keeps its bounds, or the receipt says where not"]
    assert (code, told_of["verdict"]) == (1, "lie")
    assert "of what there is, the first" in told_of["told"]


def test_more_places_than_anybody_answers_are_no_work(live: LiveServer, verifier: Verifier) -> None:
    request, (response,) = told(live, "tiers")
    request.count = 2**32 - 1
    assert verifier(request, [response], "tiers")[0] == 1


def test_a_rerank_is_verified_from_the_callers_own_scores(
    live: LiveServer, verifier: Verifier
) -> None:
    request = pb.RerankRequest(
        candidates=[
            pb.ScoredCandidate(
                item_id=f"x{n}", score=(n * 7 % 31) / 8, group=("large", "small")[n % 2]
            )
            for n in range(30)
        ],
        count=12,
        policy="tiers",
    )
    response = live.recommendation.Rerank(request, timeout=10)
    code, claims = verifier(request, [response], "tiers")
    assert code == 0, claims
    assert not [c for c in claims.values() if c["verdict"] == "lie"]
    assert response.receipt.groups_from_caller
    response.items[3].score += 1
    assert verifier(request, [response], "tiers")[0] == 1


@pytest.mark.parametrize("alpha", ["1/10", "48/100"])
@pytest.mark.parametrize("adjusted", ["true", "false"])
@pytest.mark.parametrize(
    "shares", ['a = "2/5"\nb = "1/5"', 'a = "3/5"\nb = "1/5"', 'a = "2/2"', 'a = "1/1"\nb = "0/1"']
)
def test_fa_ir_by_plain_python_is_the_servers(shares: str, alpha: str, adjusted: str) -> None:
    from bench.verify.bounds import Known, bounds
    from bench.verify.document import read_document
    from server.fairness import compile_policy, parse_policy
    from strategies.fairness import document

    text = document(
        "fa_ir",
        f'[fa_ir]\nalpha = "{alpha}"\nwithin_first = 21\nadjusted = {adjusted}\n'
        f"[fa_ir.shares]\n{shares}\n",
    )
    compiled = compile_policy(parse_policy(text, "test"), ("a", "b", "c"), 50)
    plain = bounds(read_document(text), Known({"t": dict.fromkeys("abc", 1)}, {}), 50)
    for row, label in enumerate(compiled.labels):
        assert [low for low, _ in plain[label]] == compiled.floors[row].tolist()
    assert compiled.floors[0, 21] > 0
