"""The cold start: one row and one test each for no history, little of it, and items that few bought."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.bundle import Bundle, load_bundle
from server.engine.engine import Engine
from server.engine.query import Answer, RecommendQuery
from server.events import StoredHistory
from training.baselines import BASELINES
from training.data.dataset import Dataset
from training.data.prepare import Prepared
from training.evaluate import Evaluation, Protocol, evaluate
from training.measures.cold import beside, last_events, targets_of_strangers
from training.metrics import hits, ndcg, recall
from training.task import task_of

PROTOCOL = Protocol(resamples=100, min_users=5)


@pytest.fixture(scope="module")
def bundle(audit_bundle: Path) -> Bundle:
    return load_bundle(audit_bundle)


@pytest.fixture(scope="module")
def cold(shop_evaluation: Evaluation) -> dict[str, Any]:
    block: dict[str, Any] = shop_evaluation.results["cold_start"]
    return block


def asked(bundle: Bundle, query: RecommendQuery) -> list[str]:
    (answer,) = Engine(bundle).run_batch([query])
    assert isinstance(answer, Answer)
    return list(answer.item_ids)


def measured(lists: list[list[str]], prepared: Prepared) -> tuple[float, float]:
    """NDCG and recall of lists of items, one for each user of the test."""
    task = task_of(prepared, "test")
    index = prepared.dataset.item_index
    places = np.array([[index[item] for item in one] for one in lists])
    found = hits(places, task.targets.ptr, task.targets.items)
    counts = np.diff(task.targets.ptr)
    return float(np.mean(ndcg(found, counts))), float(np.mean(recall(found, counts)))


def test_without_a_history_everyone_gets_the_non_personal_list(
    bundle: Bundle, audit_prepared: Prepared, cold: dict[str, Any], shop_evaluation: Evaluation
) -> None:
    cut_ms = audit_prepared.split.validation_until_ms
    one = asked(bundle, RecommendQuery(20, policy="none", personal=False, as_of_ms=cut_ms))
    assert cold["no_history"]["list"] == one
    row = cold["no_history"]["histories_hidden"]
    n_users = len(task_of(audit_prepared, "test").targets)
    value, share = measured([one] * n_users, audit_prepared)
    assert row["n_users"] == n_users
    assert row["ndcg_at_20"]["value"] == pytest.approx(value)
    assert row["recall_at_20"]["value"] == pytest.approx(share)
    assert row["ndcg_at_20"]["low"] < value < row["ndcg_at_20"]["high"]
    best = row["ndcg_at_20_best_baseline"]
    baselines = shop_evaluation.results["baselines"]
    known = {n: baselines[n]["ndcg_at_20"]["value"] for n in ("popularity", "popularity_4_weeks")}
    assert best["name"] == max(known, key=lambda name: known[name])
    assert best["value"] == pytest.approx(known[best["name"]])
    gap = row["ndcg_at_20_minus_best_baseline"]["value"]
    assert gap == pytest.approx(value - best["value"])


def test_users_who_have_no_history_indeed_are_measured_where_there_are_enough(
    bundle: Bundle, audit_prepared: Prepared, cold: dict[str, Any]
) -> None:
    assert cold["no_history"]["no_history_indeed"]["n_users"] == 0
    assert "withheld" in cold["no_history"]["no_history_indeed"]
    dataset, cut_ms = audit_prepared.dataset, audit_prepared.split.validation_until_ms
    late = np.isin(dataset.event_users, np.arange(8)) & (dataset.times_ms <= cut_ms)
    counts = np.bincount(dataset.event_users[~late], minlength=dataset.n_users)
    columns = ("items", "times_ms", "baskets", "quantities", "values")
    newcomers = dataclasses.replace(
        dataset,
        user_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        **{name: getattr(dataset, name)[~late] for name in columns},
    )
    history = newcomers.until(cut_ms)
    ptr, items = targets_of_strangers(
        newcomers, history, cut_ms, audit_prepared.split.test_until_ms
    )
    after = dataset.between(cut_ms, audit_prepared.split.test_until_ms)
    wanted = [sorted(set(after.history(user).items.tolist())) for user in range(8)]
    assert [items[a:b].tolist() for a, b in itertools.pairwise(ptr)] == wanted
    prepared = dataclasses.replace(audit_prepared, dataset=newcomers)
    row = evaluate(bundle, prepared, PROTOCOL).results["cold_start"]["no_history"]
    indeed = row["no_history_indeed"]
    assert indeed["n_users"] == 8
    found = [[dataset.item_index[item] for item in row["list"]]] * 8
    shares = recall(hits(np.array(found), ptr, items), np.diff(ptr))
    assert indeed["recall_at_20"]["value"] == pytest.approx(np.mean(shares))


@pytest.mark.parametrize("n", [1, 3, 5])
def test_of_a_new_user_the_last_events_are_enough_for_a_list_of_his_own(
    n: int, bundle: Bundle, audit_prepared: Prepared, cold: dict[str, Any]
) -> None:
    task = task_of(audit_prepared, "test")
    dataset = audit_prepared.dataset
    lists = []
    for user in task.targets.users.tolist():
        part = slice(int(task.history.user_ptr[user]), int(task.history.user_ptr[user + 1]))
        items = task.history.items[part][-n:].tolist()
        told = StoredHistory(
            tuple(dataset.item_ids[item] for item in items),
            task.history.times_ms[part][-n:],
            np.full(len(items), 4, np.int8),
            task.history.quantities[part][-n:],
        )
        query = RecommendQuery(20, history=told, policy="none", as_of_ms=task.cut_ms)
        lists.append(asked(bundle, query))
    assert len({tuple(one) for one in lists}) > 1
    value, share = measured(lists, audit_prepared)
    row = cold["fold_in"][str(n)]
    assert row["n_users"] == len(lists)
    assert row["ndcg_at_20"]["value"] == pytest.approx(value)
    assert row["recall_at_20"]["value"] == pytest.approx(share)


def test_baselines_of_a_new_user_see_no_more_of_him_than_the_ranker(
    audit_prepared: Prepared, cold: dict[str, Any]
) -> None:
    """Frequency of the last event alone: that item first, and then what sells."""
    task = task_of(audit_prepared, "test")
    users = task.targets.users
    together = beside(task.history, last_events(task.history, 1), users)
    assert together.n_users == task.history.n_users + len(users)
    for place, user in enumerate(users.tolist()):
        copied = together.history(task.history.n_users + place)
        assert copied.items.tolist() == [
            int(task.history.items[task.history.user_ptr[user + 1] - 1])
        ]
        assert together.history(user).items.tolist() == task.history.history(user).items.tolist()
    frequency = next(one for one in BASELINES if one.name == "recency_frequency")
    asked_for = np.arange(task.history.n_users, together.n_users, dtype=np.int32)
    lists, _ = frequency.rank(together, asked_for, task.cut_ms)
    last = task.history.items[task.history.user_ptr[users + 1] - 1]
    assert lists[:, 0].tolist() == last.tolist()
    for row in cold["fold_in"].values():
        best = row["recall_at_20_best_baseline"]
        assert best["name"] in {one.name for one in BASELINES}
        gap = row["recall_at_20"]["value"] - best["value"]
        assert row["recall_at_20_minus_best_baseline"]["value"] == pytest.approx(gap)


def test_of_rare_items_that_too_few_users_bought_only_counts_are_told(
    cold: dict[str, Any],
) -> None:
    never = cold["new_items"][0]
    assert never["withheld"] == "0 users, fewer than 5"
    assert never["n_listed_of_those"] is None
    assert "recall_at_20" not in never


def test_last_events_keep_order_and_other_users() -> None:
    history = Dataset(
        ("a", "b", "c"), ("x", "y", "z"), np.array([0, 3, 3, 5]),
        np.array([0, 1, 2, 2, 1], np.int32), np.arange(5), np.arange(5),
        np.ones(5, np.float32), np.ones(5), {}, {}, "by hand",
    )  # fmt: skip
    short = last_events(history, 2)
    assert short.user_ptr.tolist() == [0, 2, 2, 4]
    assert short.items.tolist() == [1, 2, 2, 1]
    assert last_events(history, 0).n_events == 0


def test_recall_of_rare_items_counts_those_that_the_bundle_does_not_know(
    bundle: Bundle, audit_prepared: Prepared
) -> None:
    """Ten items are bought by nobody before the cut, five of which are in no bundle at all."""
    dataset, cut_ms = audit_prepared.dataset, audit_prepared.split.validation_until_ms
    rare = np.arange(10)
    gone = np.isin(dataset.items, rare) & (dataset.times_ms <= cut_ms)
    counts = np.bincount(dataset.event_users[~gone], minlength=dataset.n_users)
    columns = ("items", "times_ms", "baskets", "quantities", "values")
    unknown = tuple(f"item-{n:03}" + ("-new" if n < 5 else "") for n in range(dataset.n_items))
    changed = dataclasses.replace(
        dataset,
        item_ids=unknown,
        user_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        **{name: getattr(dataset, name)[~gone] for name in columns},
    )
    assert dataset.item_ids[:5] == tuple(f"item-{n:03}" for n in range(5))
    prepared = dataclasses.replace(audit_prepared, dataset=changed)
    evaluation = evaluate(bundle, prepared, PROTOCOL)
    task = task_of(prepared, "test")
    never = evaluation.results["cold_start"]["new_items"][0]
    wanted = [
        set(task.targets.of(row).tolist()) & set(rare.tolist()) for row in range(len(task.targets))
    ]
    assert (never["buyers_from"], never["buyers_to"]) == (0, 0)
    assert (never["n_items"], never["n_items_known_to_bundle"]) == (10, 5)
    assert never["n_targets"] == sum(len(one) for one in wanted) == never["n_targets_new_to_user"]
    known = sum(item >= 5 for one in wanted for item in one)
    assert never["n_targets_known_to_bundle"] == known < never["n_targets"]
    shares, listed = [], 0
    for user, mine in zip(task.targets.users.tolist(), wanted, strict=True):
        own = task.history.history(user)
        told = StoredHistory(
            tuple(changed.item_ids[item] for item in own.items.tolist()),
            own.times_ms, np.full(len(own), 4, np.int8), own.quantities,
        )  # fmt: skip
        query = RecommendQuery(20, history=told, policy="none", as_of_ms=task.cut_ms)
        names = {changed.item_ids[item] for item in mine}
        if mine:
            shares.append(len(names & set(asked(bundle, query))) / len(mine))
        listed += len(names & set(asked(bundle, dataclasses.replace(query, seen=False))))
    assert never["n_users"] == len(shares)
    assert never["recall_at_20"]["value"] == pytest.approx(np.mean(shares))
    assert never["n_listed_of_those"] == listed
