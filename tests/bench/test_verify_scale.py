"""`equipoise verify` on the optimum: of scores of any size, of orders that something else shapes."""

from __future__ import annotations

import pytest

from bench.verify.claims import Verdict
from strategies.judged import Drawn, drawn, stack

BEST = "utility of the best list is right"
EXPOSURE = "exposure of each group is right"
CROSSED = stack(floors_1='t|a = "2/5"', floors_2='u|x = "3/5"')
POLICIES = {
    "floors of two tables": CROSSED,
    "floors and a cap of two tables": stack(
        floors='t|a = "1/3"', cap="u|at_most = 6, within_first = 10"
    ),
    "floors": stack(floors_1='t|a = "2/5"', floors_2='t|b = "1/5"'),
    "window": stack(window='t|a = "1/2", b = "1/4"', cap="t|at_most = 9, within_first = 10"),
}
SCALES = (1e-43, 1e-38, 1e-8, 1e-4, 1.0, 1e12, 1e30, 3e38)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", POLICIES)
def test_an_honest_list_holds_whatever_the_size_of_its_scores(name: str, scale: float) -> None:
    for seed in range(8):
        claims = drawn(POLICIES[name], seed, scale=scale).claims()
        left = {key: own for key, own in claims.items() if own.verdict is not Verdict.HOLDS}
        assert left == {}, seed


@pytest.mark.parametrize("scale", SCALES[1:])
@pytest.mark.parametrize("name", ["floors of two tables", "floors"])
def test_a_boast_of_a_thousandth_is_a_lie_whatever_the_size_of_the_scores(
    name: str, scale: float
) -> None:
    for seed in range(3):
        made = drawn(POLICIES[name], seed, scale=scale)
        made.response.receipt.utility_of_best = min(
            made.response.receipt.utility_of_best * 1.001, 1.001
        )
        assert made.claims()[BEST].verdict is Verdict.LIE


def _of_best(made: Drawn, told: float) -> Verdict:
    made.response.receipt.utility_of_best = told
    return made.claims()[BEST].verdict


def test_a_bound_of_nothing_is_not_taken_for_one() -> None:
    """Of kinds whose lists are near the best less may be told than is true, but 0 tells nothing."""
    honest = drawn(POLICIES["window"], 1).response.receipt.utility_of_best
    assert _of_best(drawn(POLICIES["window"], 1), honest * 0.99) is Verdict.HOLDS
    assert _of_best(drawn(POLICIES["window"], 1), 0.0) is Verdict.NOT_CHECKED
    assert _of_best(drawn(CROSSED, 1), 0.0) is Verdict.NOT_CHECKED
    assert _of_best(drawn(POLICIES["floors"], 1), 0.0) is Verdict.LIE


def test_what_evened_out_exposure_costs_is_told_to_the_digit() -> None:
    """The best list under floors or caps of one table is known, whatever orders this one."""
    evened = 't|method = "p_mmf", strength = "2/1", lists = 3'
    for bounds in ({"floors": 't|a = "1/3"'}, {"cap": "t|at_most = 6, within_first = 10"}):
        text = stack(amortised=evened, **bounds)
        made = [drawn(text, seed) for seed in range(6)]
        assert min(one.response.receipt.utility_of_best for one in made) < 0.99
        for one in made:
            honest = one.response.receipt.utility_of_best
            assert _of_best(one, honest) is Verdict.HOLDS
            assert _of_best(one, honest - 0.001) is Verdict.LIE
            assert _of_best(one, honest + 0.001) is Verdict.LIE


@pytest.mark.parametrize("group", ["no such group", "a"])
def test_exposure_of_no_item_or_told_twice_is_a_lie(group: str) -> None:
    made = drawn(POLICIES["floors"], 2)
    assert made.claims()[EXPOSURE].verdict is Verdict.HOLDS
    if group == "a":
        first = made.response.receipt.exposure[0]
        made.response.receipt.exposure.add(group=first.group, items=1, exposure_share=0.5)
        made.response.receipt.exposure.append(first)
    else:
        made.response.receipt.exposure.add(group=group)
    assert made.claims()[EXPOSURE].verdict is Verdict.LIE
