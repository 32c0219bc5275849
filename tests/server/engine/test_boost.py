"""What an amortised policy promises of its boost: `strength` after `lists` lists without exposure."""

from __future__ import annotations

import numpy as np
import pytest

from server.engine.fair import LIST_PLACES, boost_of
from server.fairness import parse_policy
from server.fairness.compile import TableGroups, compile_tables
from server.fairness.discount import discounts
from server.fairness.policy_sections import Discount
from strategies.fairness import compiled, document

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


@pytest.mark.parametrize("method", ["p_mmf", "fair_co"])
@pytest.mark.parametrize("targets", ["equal", "catalogue"])
def test_a_group_without_items_in_the_catalogue_is_not_raised(method: str, targets: str) -> None:
    """A caller of Rerank may put an item into it; its boost once had no bound."""
    body = BODY.replace("p_mmf", method) + f'targets = "{targets}"\n'
    policy = parse_policy(document("amortised", body), "test")
    groups = TableGroups(("a", "b", "none"), np.array([3, 1, 0]))
    evened = compile_tables(policy, {"t": groups}).amortisation
    assert evened is not None
    exposure = np.array([500 * discounts(LIST_PLACES).sum(), 0.0, 0.0])
    boosts = boost_of(evened, "log2", exposure, np.array([0, 1, 2], np.int32))
    assert boosts[1] > 0
    assert boosts[[0, 2]].tolist() == [0.0, 0.0]
    # Nor where nobody else is there.
    assert not boost_of(evened, "log2", exposure, np.array([2], np.int32)).any()
