"""Novelty, coverage, concentration and popularity of lists, against plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from server.bundle import load_bundle
from training.data.dataset import Dataset
from training.data.prepare import Prepared
from training.evaluate import Evaluation, compare
from training.intervals import Resampler
from training.measures.popularity import popularity_block, self_information
from training.task import task_of


def buyers_of(history: Dataset) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {item: set() for item in range(history.n_items)}
    for user, item in zip(history.event_users.tolist(), history.items.tolist(), strict=True):
        found[item].add(user)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_each_number_is_that_of_a_loop(audit_prepared: Prepared) -> None:
    task = task_of(audit_prepared, "test")
    history, targets = task.history, task.targets
    rng = np.random.default_rng(1)
    lists = np.stack([rng.permutation(history.n_items)[:6] for _ in range(len(targets))])
    lists[3, 2:] = -1
    lists = lists.astype(np.int32)
    block = popularity_block({"x": lists}, history, targets, Resampler(len(targets), resamples=100))
    told = block["lists"]["x"]
    buyers = buyers_of(history)
    n_users = len(set(history.event_users.tolist()))
    share = {item: len(found) / n_users for item, found in buyers.items()}
    bits = {item: -math.log2(max(len(found), 1) / n_users) for item, found in buyers.items()}

    rows = [[item for item in row if item >= 0] for row in lists.tolist()]
    assert told["novelty"]["value"] == pytest.approx(
        mean([mean([bits[i] for i in r]) for r in rows])
    )
    own = [sorted(set(history.history(user).items.tolist())) for user in targets.users.tolist()]
    wanted = [targets.of(place).tolist() for place in range(len(targets))]
    shown = mean([mean([share[i] for i in r]) for r in rows])
    for name, other in (("popularity_of_history", own), ("popularity_of_targets", wanted)):
        beside = mean([mean([share[i] for i in one]) for one in other])
        assert told[name]["value"] == pytest.approx(shown / beside)
        assert told[name]["low"] <= told[name]["value"] <= told[name]["high"]
    novelty = mean([mean([bits[i] for i in one]) for one in wanted])
    assert block["novelty_of_targets"]["value"] == pytest.approx(novelty)

    seen = {item for row in rows for item in row}
    assert told["catalogue_coverage"]["value"] == pytest.approx(len(seen) / history.n_items)
    exposure = dict.fromkeys(range(history.n_items), 0.0)
    for row in rows:
        for rank, item in enumerate(row, start=1):
            exposure[item] += 1 / math.log2(rank + 1)
    total = sum(exposure.values())
    apart = sum(abs(a - b) for a in exposure.values() for b in exposure.values())
    gini = apart / (2 * history.n_items * total)
    assert told["exposure_gini"]["value"] == pytest.approx(gini)

    order = sorted(share, key=lambda item: (-share[item], item))
    for decile in range(10):
        members = [
            item for place, item in enumerate(order) if place * 10 // history.n_items == decile
        ]
        assert block["deciles"]["n_items"][decile] == len(members)
        got = told["exposure_by_decile"][decile]
        assert got == pytest.approx(sum(exposure[item] for item in members) / total)
        bought = sum(int((history.items == item).sum()) for item in members) / history.n_events
        assert block["deciles"]["share_of_purchases_before"][decile] == pytest.approx(bought)
        after = sum(int((targets.items == item).sum()) for item in members) / len(targets.items)
        assert block["deciles"]["share_of_targets"][decile] == pytest.approx(after)


def test_best_sellers_are_less_novel_and_more_popular_than_what_users_bought(
    shop_evaluation: Evaluation,
) -> None:
    told = shop_evaluation.results["popularity_bias"]["lists"]
    best, own = told["popularity"], told["personal_frequency"]
    assert best["novelty"]["value"] < own["novelty"]["value"]
    assert best["popularity_of_history"]["value"] > own["popularity_of_history"]["value"]
    assert best["catalogue_coverage"]["value"] == pytest.approx(20 / 60)
    assert best["exposure_gini"]["value"] > own["exposure_gini"]["value"]
    assert set(told) == {"ranker", *shop_evaluation.results["baselines"]}


def test_the_rankers_row_speaks_of_the_lists_that_are_served(
    audit_bundle: Path, audit_prepared: Prepared, shop_evaluation: Evaluation
) -> None:
    from server.engine.engine import Engine

    compared = compare(
        Engine(load_bundle(audit_bundle)),
        audit_prepared,
        "test",
        20,
        lambda what, done, total: None,
    )
    sample = Resampler(len(compared.task.targets), resamples=300)
    task = compared.task
    again = popularity_block(
        {"ranker": compared.lists["ranker"]}, task.history, task.targets, sample
    )
    assert again["lists"]["ranker"] == shop_evaluation.results["popularity_bias"]["lists"]["ranker"]


def test_what_nobody_bought_is_as_surprising_as_what_one_user_bought() -> None:
    assert self_information(np.array([0.5, 0.125, 0.0]), 8).tolist() == [1.0, 3.0, 3.0]
