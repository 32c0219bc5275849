"""`equipoise verify` on answers that were forged with care: each is consistent in all but one thing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from bench.verify.claims import Verdict
from bench.verify.document import read_document
from bench.verify.evidence import evidence_of
from bench.verify.recompute import verify
from equipoise.v1 import recommendation_pb2 as pb
from strategies.judged import Drawn, drawn, relisted, stack

BOUNDS = "every prefix keeps its bounds, or the receipt says where not"
PLACES = "places are in order, no item comes twice"
BEST = "utility of the best list is right"


def of_kind(kind: str, section: str) -> str:
    return (
        f'name = "p"\nversion = "1"\nkind = "{kind}"\nreason = "made for a test"\n'
        f'group_table = "t"\n[{kind}]\n{section}\n'
    )


WINDOW = of_kind("window", 'a = "1/5"\nb = "2/5"\nc = "2/5"')


def lies(made: Drawn) -> set[str]:
    return {name for name, own in made.claims().items() if own.verdict is Verdict.LIE}


def by_score(made: Drawn) -> list[str]:
    own = made.response.candidates
    return [c.item_id for c in sorted(own, key=lambda c: (-c.score, c.item_id))]


def ranked_from_two() -> Drawn:
    """Plain order that breaks its bounds under a receipt that says met; everything suits the ranks."""
    for seed in range(30):
        made = drawn(WINDOW, seed)
        response, receipt = made.response, made.response.receipt
        assert (receipt.status, lies(made)) == (pb.RECEIPT_STATUS_MET, set())
        relisted(made, by_score(made)[: len(response.items)], 2, 3)
        if BOUNDS in lies(made):
            break
    shares: dict[str, float] = {}
    for item in response.items:
        item.rank += 1
        moved = item.rank_by_score - item.rank
        item.reason = pb.REASON_CODE_LOWERED_FOR_FLOOR if moved < 0 else pb.REASON_CODE_SCORE
        shares[item.group] = shares.get(item.group, 0) + 1 / math.log2(item.rank + 1)
    for part in receipt.exposure:
        part.exposure_share = shares[part.group] / sum(shares.values())
    receipt.places_moved = len(response.items)
    return made


def test_ranks_that_begin_at_two_hide_no_broken_prefix() -> None:
    assert {PLACES, BOUNDS, BEST} <= lies(ranked_from_two())


def test_more_than_the_best_list_can_have_is_a_lie_by_itself() -> None:
    found = ranked_from_two().claims()[BEST]
    assert (found.verdict, "no list that keeps" in found.told) == (Verdict.LIE, True)


def second_page() -> Drawn:
    made = drawn(WINDOW, 0)
    rest = list(made.response.items)[8:]
    del made.response.items[:]
    made.response.items.extend(rest)
    made.response.page_offset = 8
    return made


def test_a_page_whose_first_is_not_given_is_not_told_to_keep_its_bounds() -> None:
    found = second_page().claims()[BOUNDS]
    assert (found.verdict, "give every page" in found.told) == (Verdict.NOT_CHECKED, True)


def test_ranks_go_on_from_the_places_before() -> None:
    made = second_page()
    assert PLACES not in lies(made)
    made.response.page_offset = 7
    assert PLACES in lies(made)


def test_each_page_begins_where_the_one_before_ends() -> None:
    made = drawn(WINDOW, 0)
    first, second = pb.RecommendResponse(), pb.RecommendResponse()
    for page, items in ((first, made.response.items[:8]), (second, made.response.items[8:])):
        page.CopyFrom(made.response)
        del page.items[:]
        page.items.extend(items)
    first.next_page_token = "next"
    second.page_offset = 8
    assert paged_places(made, first, second) is Verdict.HOLDS
    second.page_offset = 7
    assert paged_places(made, first, second) is Verdict.LIE


def paged_places(made: Drawn, *pages: pb.RecommendResponse) -> Verdict:
    document = read_document(made.text)
    claims = verify(evidence_of(made.request, pages), made.text, document, made.known)
    return next(own.verdict for own in claims if own.name == PLACES)


GROUPED = "each item tells its group"
GROUPS: dict[str, Callable[[pb.RecommendResponse], object]] = {
    "an item tells none": lambda r: r.items[3].ClearField("group"),
    "two fields of an item contradict": lambda r: r.items[3].groups.append("another"),
    "a candidate tells none": lambda r: r.candidates[3].ClearField("group"),
    "two fields of a candidate contradict": lambda r: r.candidates[3].groups.append("another"),
}


def calibrated() -> Drawn:
    """As a Recommend tells it whose user bought of every group."""
    made = drawn(stack(calibrated='t|at_least = "1/2", at_most = "3/2"', floors='u|x = "1/5"'), 1)
    assert lies(made) == set()
    return made


@pytest.mark.parametrize("bundle", [True, False])
@pytest.mark.parametrize("name", GROUPS)
def test_what_tells_not_one_group_is_a_lie(name: str, bundle: bool) -> None:
    section = 'at_least = "1/2"\nat_most = "3/2"'
    text = of_kind("calibrated", section if bundle else section + "\nsmoothing = 0")
    made = drawn(text, 1)
    assert GROUPED not in lies(made)
    GROUPS[name](made.response)
    assert made.claims(bundle=bundle)[GROUPED].verdict is Verdict.LIE


def test_of_several_tables_each_is_told_in_order() -> None:
    made = calibrated()
    for spoilt in (["t:a"], ["u:x", "t:a"], ["t:a", "u:x", "u:x"]):
        del made.response.items[3].groups[:]
        made.response.items[3].groups.extend(spoilt)
        assert lies(made) == {GROUPED}


def test_purchases_of_another_table_end_in_a_claim() -> None:
    made = drawn(WINDOW, 0)
    made.response.bought.add(group_table="other", group="z", count=1)
    found = made.claims(bundle=False)["what the user bought is counted right"]
    assert found.verdict is Verdict.LIE
