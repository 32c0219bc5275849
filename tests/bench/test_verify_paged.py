"""`equipoise verify` on pages that were forged with care: what each page says is looked at."""

from __future__ import annotations

import itertools
import math

import pytest

from bench.verify.claims import Claim, Verdict
from bench.verify.document import read_document
from bench.verify.evidence import evidence_of
from bench.verify.recompute import verify
from equipoise.v1 import recommendation_pb2 as pb
from strategies.fairness import document
from strategies.judged import Drawn, drawn

REASONS = "reasons are those of the policy's rules"
EARLIER = "the earlier pages' receipts suit what they show"
FLOORS = document("floors", '[floors]\na = "1/2"\nb = "2/5"\n')
HALF = document("floors", '[floors]\nx = "1/2"\n').replace('"t"', '"u"')


def pages(made: Drawn, each: int) -> list[pb.RecommendResponse]:
    """The list of an answer in pages; nothing has moved between them."""
    found = []
    for start in range(0, len(made.response.items), each):
        page = pb.RecommendResponse()
        page.CopyFrom(made.response)
        del page.items[:]
        page.items.extend(made.response.items[start : start + each])
        page.page_offset = start
        page.next_page_token = "" if start + each >= len(made.response.items) else "next"
        found.append(page)
    return found


def claims_of(made: Drawn, paged: list[pb.RecommendResponse]) -> dict[str, Claim]:
    text = read_document(made.text)
    found = verify(evidence_of(made.request, paged), made.text, text, made.known)
    return {claim.name: claim for claim in found}


@pytest.mark.parametrize("page", [0, 1, 2])
@pytest.mark.parametrize("lie", ["of no rule of the policy", "the other way", "by its score"])
def test_a_reason_that_lies_is_found_on_every_page(page: int, lie: str) -> None:
    made = drawn(FLOORS, 5)
    paged = pages(made, 5)
    assert len(paged) == 3
    assert claims_of(made, paged)[REASONS].verdict is Verdict.HOLDS
    moved = next(item for item in paged[page].items if item.rank != item.rank_by_score)
    other = {
        pb.REASON_CODE_RAISED_FOR_FLOOR: pb.REASON_CODE_LOWERED_FOR_FLOOR,
        pb.REASON_CODE_LOWERED_FOR_FLOOR: pb.REASON_CODE_RAISED_FOR_FLOOR,
    }[moved.reason]
    moved.reason = {
        "of no rule of the policy": pb.REASON_CODE_RAISED_FOR_DIVERSITY,
        "the other way": other,
        "by its score": pb.REASON_CODE_SCORE,
    }[lie]  # fmt: skip
    found = claims_of(made, paged)[REASONS]
    assert (found.verdict, repr(moved.item_id) in found.told) == (Verdict.LIE, True)


@pytest.mark.parametrize("seed", range(4))
def test_an_earlier_page_tells_a_share_that_its_list_can_still_come_to(seed: int) -> None:
    """By all orders of the groups that the page's receipt says are to come."""
    made = drawn(HALF, seed, n=24, count=7)
    assert made.response.receipt.status == pb.RECEIPT_STATUS_MET
    groups = [item.group for item in made.response.items]
    worth = [1 / math.log2(rank + 1) for rank in range(1, 8)]
    can_be = [
        sum(w for w, group in zip(worth, [*groups[:3], *rest], strict=True) if group == "x")
        / sum(worth)
        for rest in itertools.permutations(groups[3:])
    ]
    assert min(can_be) < max(can_be)

    def judged(share: float) -> Verdict:
        paged = pages(made, 3)
        for part in paged[0].receipt.exposure:
            part.exposure_share = share if part.group == "x" else 1 - share
        return claims_of(made, paged)[EARLIER].verdict

    assert judged(min(can_be)) is judged(max(can_be)) is Verdict.HOLDS
    assert judged(min(can_be) - 0.001) is judged(max(can_be) + 0.001) is Verdict.LIE
