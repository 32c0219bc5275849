"""What an amortised policy promises of its boost: `strength` after `lists` lists without exposure."""

from __future__ import annotations

import numpy as np
import pytest

from server.engine.fair import LIST_PLACES, boost_of
from server.fairness.discount import discounts
from server.fairness.policy_sections import Discount
from strategies.fairness import compiled

BODY = '[amortised]\nmethod = "p_mmf"\nstrength = "1/10"\nlists = 50\n'


@pytest.mark.parametrize("discount", ["log2", "reciprocal", "top_heavy"])
@pytest.mark.parametrize(("lists", "share"), [(0, 0.0), (25, 0.5), (50, 1.0), (500, 1.0)])
def test_a_group_that_got_nothing_for_so_many_lists_gains_the_strength(
    discount: Discount, lists: int, share: float
) -> None:
    evened = compiled("amortised", BODY, ("a", "b")).amortisation
    assert evened is not None
    exposure = np.array([lists * discounts(LIST_PLACES, discount).sum(), 0.0])
    boosts = boost_of(evened, discount, exposure, np.array([0, 1, -1], np.int32))
    assert boosts.tolist() == pytest.approx([0.0, share / 10, 0.0])


def test_a_group_without_a_candidate_takes_nothing_from_the_others() -> None:
    evened = compiled("amortised", BODY, ("a", "b", "c")).amortisation
    assert evened is not None
    exposure = np.array([500 * discounts(LIST_PLACES).sum(), 0.0, 0.0])
    boosts = boost_of(evened, "log2", exposure, np.array([0, 1, 1], np.int32))
    assert boosts.tolist() == pytest.approx([0.0, 0.1, 0.1])
