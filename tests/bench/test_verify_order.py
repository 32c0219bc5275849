"""`equipoise verify` on what a list is made by: greedy picks, boosts, bounds, reasons."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from bench.verify.claims import Claim, Verdict
from bench.verify.ordered import ALLOWED, BOOSTS, COME_FIRST
from bench.verify.vectors import Weights, vectors_of
from equipoise.v1 import recommendation_pb2 as pb
from server.features.vectors import item_vectors
from strategies.bundles import tiny_state
from strategies.fairness import document
from strategies.judged import Drawn, drawn, relisted, stack

REASONS = "reasons are those of the policy's rules"
P_MMF = 'method = "p_mmf", strength = "1/5", lists = 3'
CAP = "t|at_most = 6, within_first = 12"
FLOORS = 't|a = "1/3", b = "1/4"'


def one(kind: str, body: str) -> str:
    text = document(kind, f"[{kind}]\n" + "\n".join(body.split(", ")) + "\n")
    return text.replace('group_table = "t"\n', "") if kind == "diverse" else text


EXACT = {
    "mmr": one("diverse", 'method = "mmr", trade_off = "2/5"'),
    "dpp": one("diverse", 'method = "dpp", trade_off = "2/5"'),
    "barely dpp": one("diverse", 'method = "dpp", trade_off = "1/702"'),
    "hardly dpp": one("diverse", 'method = "dpp", trade_off = "1/100"'),
    "a little dpp": one("diverse", 'method = "dpp", trade_off = "1/690"'),
    "no mmr": one("diverse", 'method = "mmr", trade_off = "0/1"'),
    "floors": one("floors", 'a = "1/2", b = "2/5"'),
    "cap": one("cap", "at_most = 5, within_first = 12"),
    "p_mmf": one("amortised", P_MMF),
    "p_mmf by items": one("amortised", P_MMF + ', targets = "catalogue"'),
    "no fair_co": one("amortised", 'method = "fair_co", strength = "0/1"'),
    "boosts and floors": stack(amortised=f"u|{P_MMF}", floors=FLOORS),
    "boosts and a cap": stack(amortised=f"t|{P_MMF}", cap=CAP),
    "picks and a cap": stack(diverse='|method = "dpp", trade_off = "2/5"', cap=CAP),
    "all at once": stack(
        amortised=f"u|{P_MMF}", diverse='|method = "mmr", trade_off = "2/5"', floors=FLOORS
    ),
}  # fmt: skip
NEAR = {
    "a window": stack(amortised=f"u|{P_MMF}", window='t|a = "1/3", b = "1/4"'),
    "two tables": stack(amortised=f"u|{P_MMF}", cap_1=CAP, cap_2="u|at_most = 8, within_first = 9"),
}
FAIR_CO = one("amortised", 'method = "fair_co", strength = "1/5"')


def not_held(claims: dict[str, Claim]) -> dict[str, tuple[Verdict, str]]:
    return {
        name: (own.verdict, own.told)
        for name, own in claims.items()
        if own.verdict is not Verdict.HOLDS
    }


@pytest.mark.parametrize("name", EXACT)
def test_an_honest_order_holds(name: str) -> None:
    """Lists that keep their bounds, and of few candidates those that cannot."""
    for seed in range(6):
        for n in (12, 18, 40):
            made = drawn(EXACT[name], seed, n)
            assert not_held(made.claims()) == {}, (seed, n)


@pytest.mark.parametrize("name", NEAR)
def test_a_list_that_need_only_be_near_the_best_is_not_vouched_for(name: str) -> None:
    for seed in range(4):
        left = not_held(drawn(NEAR[name], seed).claims())
        assert left.keys() == {ALLOWED}
        assert left[ALLOWED] == (
            Verdict.NOT_CHECKED,
            "it is near the best by what is amortised, and nothing says how near",
        )


def test_how_much_fair_co_gives_is_taken_as_told() -> None:
    left = not_held(drawn(FAIR_CO, 1).claims())
    assert left.keys() == {BOOSTS}
    assert left[BOOSTS][0] is Verdict.NOT_CHECKED
    assert "FairCo has no bound" in left[BOOSTS][1]


def ids_of(made: Drawn) -> list[str]:
    return [item.item_id for item in made.response.items]


def _worst_ten(made: Drawn) -> None:
    own = made.response.candidates
    worst = sorted(own, key=lambda c: c.score)[: len(made.response.items)]
    relisted(made, [c.item_id for c in worst], 8, 9)


def _by_score(up: int, down: int) -> Callable[[Drawn], None]:
    def relist(made: Drawn) -> None:
        best = sorted(made.response.candidates, key=lambda c: (-c.score, c.item_id))
        relisted(made, [c.item_id for c in best[: len(made.response.items)]], up, down)

    return relist


def _one_late(made: Drawn) -> None:
    ids = ids_of(made)
    relisted(made, [*ids[:3], ids[4], ids[3], *ids[5:]], 8, 9)


def _group_behind(made: Drawn) -> None:
    """Two neighbours of different groups change places, though boosts have them otherwise."""
    group = {c.item_id: c.group for c in made.response.candidates}
    worth = {c.item_id: c.score + c.boost for c in made.response.candidates}
    ids = ids_of(made)
    at = next(
        k
        for k in range(len(ids) - 1)
        if group[ids[k]] != group[ids[k + 1]] and worth[ids[k]] > worth[ids[k + 1]] + 0.01
    )
    ids[at], ids[at + 1] = ids[at + 1], ids[at]
    relisted(made, ids, 6, 7)


def _more_for(factor: float) -> Callable[[Drawn], None]:
    """Boosts so many times as large, and the list that they make."""

    def relist(made: Drawn) -> None:
        own = made.response.candidates
        for candidate in own:
            candidate.boost *= factor
        best = sorted(own, key=lambda c: (-c.score - c.boost, c.item_id))
        relisted(made, [c.item_id for c in best[: len(made.response.items)]], 6, 7)

    return relist


def _all_raised(made: Drawn) -> None:
    for candidate in made.response.candidates:
        candidate.boost += 0.01


def _one_raised(made: Drawn) -> None:
    listed = ids_of(made)
    last = min((c for c in made.response.candidates), key=lambda c: c.score)
    assert last.item_id not in listed
    last.boost += 0.001


def _lowered(made: Drawn) -> None:
    for candidate in made.response.candidates:
        candidate.boost = -0.1 if candidate.boost else 0.0


def _reason(code: int) -> Callable[[Drawn], None]:
    def give(made: Drawn) -> None:
        way = 1 if code % 2 == 0 else -1
        moved = next(i for i in made.response.items if (i.rank_by_score - i.rank) * way > 0)
        moved.reason = code  # type: ignore[assignment]

    return give


def _foreign_boost(made: Drawn) -> None:
    min(made.response.candidates, key=lambda c: c.score).boost = 1e-6


# What is claimed falsely: of which policy, by what.
LIES: dict[str, tuple[str, str, Callable[[Drawn], None]]] = {
    "the worst of all, by mmr": (COME_FIRST, "mmr", _worst_ten),
    "the worst of all, by dpp": (COME_FIRST, "dpp", _worst_ten),
    "plain order, by mmr": (COME_FIRST, "mmr", _by_score(8, 9)),
    "plain order, by dpp": (COME_FIRST, "dpp", _by_score(8, 9)),
    "plain order, by hardly any dpp": (COME_FIRST, "hardly dpp", _by_score(8, 9)),
    "one place too late, by mmr": (COME_FIRST, "mmr", _one_late),
    "one place too late, by dpp": (COME_FIRST, "dpp", _one_late),
    "plain order, by boosts": (COME_FIRST, "p_mmf", _by_score(6, 7)),
    "a group too late, by boosts": (COME_FIRST, "p_mmf", _group_behind),
    "a group too late, within a cap": (ALLOWED, "boosts and a cap", _group_behind),
    "boosts beyond the strength": (BOOSTS, "p_mmf", _more_for(20)),
    "boosts beyond the strength, by items": (BOOSTS, "p_mmf by items", _more_for(20)),
    "boosts of no strength": (BOOSTS, "no fair_co", _one_raised),
    "a boost for every group": (BOOSTS, "p_mmf", _all_raised),
    "a boost for one item": (BOOSTS, "p_mmf", _one_raised),
    "boosts below 0": (BOOSTS, "p_mmf", _lowered),
    "a boost of no rule": (BOOSTS, "floors", _foreign_boost),
    "raised for a floor, of none": (REASONS, "cap", _reason(2)),
    "lowered for a floor, of none": (REASONS, "mmr", _reason(3)),
    "raised for a ceiling, of none": (REASONS, "floors", _reason(4)),
    "lowered for a ceiling, of none": (REASONS, "floors", _reason(5)),
    "raised for exposure, of none": (REASONS, "mmr", _reason(6)),
    "lowered for exposure, of none": (REASONS, "floors", _reason(7)),
    "raised for variety, of none": (REASONS, "floors", _reason(8)),
    "lowered for variety, of none": (REASONS, "p_mmf", _reason(9)),
    "a reason that is none": (REASONS, "floors", _reason(98)),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_about_the_order_is_found(name: str) -> None:
    claim, policy, lie = LIES[name]
    made = drawn(EXACT[policy], 5)
    assert not_held(made.claims()) == {}
    lie(made)
    found = made.claims()
    assert found[claim].verdict is Verdict.LIE, found


def test_boosts_of_fair_co_are_held_to_its_form() -> None:
    for lie in (_all_raised, _one_raised, _lowered):
        made = drawn(FAIR_CO, 5)
        lie(made)
        assert made.claims()[BOOSTS].verdict is Verdict.LIE


def test_a_list_that_cannot_keep_its_cap_is_the_best_of_what_there_is() -> None:
    """A ceiling yields only where every group that is left is full."""
    text = one("cap", "at_most = 2, within_first = 12")
    made = drawn(text, 3)
    assert made.response.receipt.status == pb.RECEIPT_STATUS_INFEASIBLE
    assert not_held(made.claims()) == {}
    _by_score(4, 5)(made)
    made.response.receipt.utility_of_best = 0
    found = made.claims()[ALLOWED]
    assert found.verdict is Verdict.LIE
    assert re.match("item '.*' stands where bounds want one of", found.told)


def test_orders_that_rest_on_the_bundle_need_it() -> None:
    for name in ("mmr", "picks and a cap", "p_mmf by items"):
        found = drawn(EXACT[name], 2).claims(bundle=False)
        claim = BOOSTS if name == "p_mmf by items" else COME_FIRST
        assert found[claim].verdict is Verdict.NOT_CHECKED
        assert "--bundle" in found[claim].told


def test_vectors_are_the_servers() -> None:
    state = tiny_state(np.random.default_rng(4))
    ids = [f"i{n:02}" for n in range(state.n_items)]
    own = Weights(
        {item: at for at, item in enumerate(ids)},
        state.cosine.row_ptr,
        state.cosine.items,
        state.cosine.weights,
        state.category,
    )
    made = vectors_of([*ids, "strange"], own)
    np.testing.assert_allclose(made[:-1], item_vectors(state), rtol=0, atol=1e-7)
    assert not made[-1].any()
