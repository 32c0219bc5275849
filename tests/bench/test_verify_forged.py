"""`equipoise verify` on answers that were forged with care: each is consistent in all but one thing."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from bench.verify.claims import Verdict
from bench.verify.command import _show
from bench.verify.document import read_document
from bench.verify.evidence import evidence_of
from bench.verify.recompute import verify
from bench.verify.shares import shares_by_score
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


DISTANCE = "distance to the user's own shares is right"
OWN = of_kind("calibrated", 'at_least = "1/2"\nat_most = "3/2"')


@pytest.mark.parametrize("told", [99.0, math.inf, -math.inf, math.nan])
def test_equal_scores_excuse_no_distance_that_they_cannot_lead_to(told: float) -> None:
    made = drawn(OWN, 0)
    scores = [candidate.score for candidate in made.response.candidates]
    assert len(set(scores)) < len(scores)
    assert DISTANCE not in lies(made)
    made.response.receipt.calibration[0].before = told
    assert DISTANCE in lies(made)


def test_equal_scores_below_the_list_leave_its_distance_one_number() -> None:
    for seed in range(50):
        made = drawn(OWN, seed, n=25)
        scores = sorted((own.score for own in made.response.candidates), reverse=True)
        if len(set(scores)) < len(scores) and len(set(scores[:16])) == 16:
            break
    assert len(set(scores[:16])) == 16
    assert DISTANCE not in lies(made)
    made.response.receipt.calibration[0].before += 0.001
    assert DISTANCE in lies(made)


def test_every_order_of_equal_scores_is_within_what_is_told_of_them() -> None:
    rng = random.Random(3)
    for _ in range(50):
        scores = sorted((rng.randrange(3) for _ in range(7)), reverse=True)
        labels = [rng.choice("abc") for _ in scores]
        places = [1 / rank for rank in range(1, 5)]
        least, most = shares_by_score(scores, labels, places)
        seen: dict[str, list[float]] = {label: [] for label in labels}
        for order in itertools.permutations(range(len(scores))):
            if [scores[at] for at in order] == scores:
                for label, shares in seen.items():
                    own = [w for w, at in zip(places, order, strict=False) if labels[at] == label]
                    shares.append(sum(own) / sum(places))
        for label, shares in seen.items():
            assert least[label] == pytest.approx(min(shares))
            assert most[label] == pytest.approx(max(shares))


def infeasible(text: str, n: int, count: int, late: int = 1) -> Iterator[Drawn]:
    for seed in range(300):
        made = drawn(text, seed, n=n, count=count)
        receipt = made.response.receipt
        if (
            receipt.status == pb.RECEIPT_STATUS_INFEASIBLE
            and receipt.first_bad_prefix.prefix >= late
        ):
            assert lies(made) == set()
            yield made


def test_a_ceiling_is_proven_too_low_by_a_group_that_has_one() -> None:
    cap = of_kind("cap", 'at_most = 3\nwithin_first = 12\ngroups = ["a", "b"]')
    made = next(infeasible(cap, n=16, count=15))
    bad = made.response.receipt.first_bad_prefix
    bad.group, bad.needed, bad.available = "c", bad.prefix, bad.prefix + 1
    assert BOUNDS in lies(made)


def test_what_no_list_can_keep_excuses_no_prefix_before_it() -> None:
    """A list that keeps the floors as far as there are items, and goes above ceilings at will."""
    found = 0
    for made in infeasible(WINDOW, n=22, count=20, late=15):
        receipt = made.response.receipt
        group_of = {c.item_id: c.group for c in made.response.candidates}
        supply = Counter(group_of.values())
        shares = {"a": 1, "b": 2, "c": 2}
        left, listed = by_score(made), list[str]()
        for at in range(1, 21):
            for item in left:
                have = Counter(group_of[own] for own in [*listed, item])
                owed = [
                    sum(max(0, min(k * n // 5, supply[g]) - have[g]) for g, n in shares.items())
                    for k in range(at, 21)
                ]
                if all(asked <= room for room, asked in enumerate(owed)):
                    break
            listed.append(item)
            left.remove(item)
        have, early = Counter[str](), False
        for k, item in enumerate(listed[: receipt.first_bad_prefix.prefix - 1], start=1):
            have[group_of[item]] += 1
            early |= any(have[g] > -(-k * n // 5) for g, n in shares.items())
        relisted(made, listed, pb.REASON_CODE_RAISED_FOR_FLOOR, pb.REASON_CODE_LOWERED_FOR_FLOOR)
        receipt.utility_of_best = 0
        if early:
            told = made.claims()[BOUNDS]
            assert (told.verdict, "before it" in told.told) == (Verdict.LIE, True)
            found += 1
        if found == 3:
            return
    raise AssertionError("too few such lists were drawn")


CANDIDATES = "candidates are those that were asked for"


@pytest.mark.parametrize("bundle", [True, False])
@pytest.mark.parametrize("named", [0, 40])
def test_no_more_candidates_are_skipped_than_were_named(named: int, bundle: bool) -> None:
    made = drawn(WINDOW, 0)
    made.request.candidate_item_ids.extend(f"i{k:03}" for k in range(named))
    assert made.claims(bundle=bundle)[CANDIDATES].verdict is Verdict.HOLDS
    made.response.skipped_candidates = named + 1
    assert made.claims(bundle=bundle)[CANDIDATES].verdict is Verdict.LIE


def test_what_is_told_of_a_lie_is_read_at_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    claims = list(ranked_from_two().claims().values())
    _show(claims)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 3 * len(claims)
    for claim in claims:
        at = next(n for n, line in enumerate(lines) if claim.name in line)
        told = " ".join(" ".join(lines[at : at + 4]).split())
        assert lines[at].split()[0] == str(claim.verdict)
        assert claim.told in told
    assert any(line.lstrip().startswith("the receipt says met, but") for line in lines)
