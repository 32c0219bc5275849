"""The baselines against slow, plain versions of themselves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.features.types import DAY_MS
from strategies.purchases import Row, purchase_rows, shop_rows, tables
from training.baselines import BASELINES, DECAY_PER_WEEK, EASE_LAMBDA, top
from training.data.clean import Rules, clean
from training.data.dataset import Dataset, dataset_of
from training.itemitem import fit_item_item
from training.neighbours import Tifu, tifu_scores

WEEK_MS = 7 * DAY_MS
K = 10


@pytest.fixture(scope="module")
def shop() -> Dataset:
    return dataset_of(clean(tables(shop_rows(n_items=40)), Rules())[0])


def scores_of(name: str, shop: Dataset, now_ms: int) -> np.ndarray:
    baseline = next(b for b in BASELINES if b.name == name)
    return baseline.fit(shop, now_ms)(np.arange(shop.n_users, dtype=np.int32))


@given(
    hnp.arrays(np.float32, st.integers(1, 12), elements=st.sampled_from([-np.inf, 0, 1, 2])),
    st.integers(1, 14),
)
def test_top_is_a_full_sort_by_score_and_place(scores: np.ndarray, k: int) -> None:
    places = [i for i in range(len(scores)) if scores[i] > -np.inf]
    wanted = sorted(places, key=lambda i: (-scores[i], i))[:k]
    assert top(scores, k).tolist() == wanted + [-1] * (k - len(wanted))


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda b: b.name)
def test_lists_are_full_without_repeats_and_novel_ones_hold_nothing_bought(
    baseline: object, shop: Dataset
) -> None:
    users = np.arange(shop.n_users, dtype=np.int32)[::2]
    done: list[int] = []
    lists, novel = baseline.rank(  # type: ignore[attr-defined]
        shop, users, shop.last_ms, K, block=4, on_users=done.append
    )
    assert lists.shape == novel.shape == (len(users), K)
    assert sum(done) == len(users)
    for row, user in enumerate(users.tolist()):
        assert len(set(lists[row].tolist())) == K
        assert not set(novel[row].tolist()) & set(shop.history(user).items.tolist())


def test_popularity_counts_purchases(shop: Dataset) -> None:
    scores = scores_of("popularity", shop, shop.last_ms)
    for item in range(shop.n_items):
        assert scores[0, item] == sum(1 for bought in shop.items if bought == item)
    assert (scores == scores[0]).all()


def test_recent_popularity_counts_the_last_four_weeks(shop: Dataset) -> None:
    now_ms = shop.last_ms - 3 * DAY_MS
    scores = scores_of("popularity_4_weeks", shop.until(now_ms), now_ms)
    wanted = np.zeros(shop.n_items)
    for item, ms in zip(shop.items, shop.times_ms, strict=True):
        if now_ms - 4 * WEEK_MS < ms <= now_ms:
            wanted[item] += 1
    assert scores[0].tolist() == wanted.tolist()


@pytest.mark.parametrize("decay", [1.0, DECAY_PER_WEEK])
def test_own_items_rank_by_their_decayed_counts_before_all_others(
    shop: Dataset, decay: float
) -> None:
    name = "personal_frequency" if decay == 1.0 else "recency_frequency"
    scores = scores_of(name, shop, shop.last_ms)
    for user in range(shop.n_users):
        own = np.zeros(shop.n_items)
        history = shop.history(user)
        for item, ms in zip(history.items, history.times_ms, strict=True):
            own[item] += decay ** ((shop.last_ms - ms) // WEEK_MS)
        bought = own > 0
        assert scores[user][bought].min() > scores[user][~bought].max()
        # The fill breaks ties and may never do more.
        np.testing.assert_allclose(scores[user][bought], own[bought], rtol=2e-3)


def test_ease_in_the_dual_equals_the_weights_of_the_paper(shop: Dataset) -> None:
    counts = np.zeros((shop.n_users, shop.n_items))
    np.add.at(counts, (shop.event_users, shop.items), 1)
    x = np.log1p(counts)
    p = np.linalg.inv(x.T @ x + EASE_LAMBDA * np.eye(shop.n_items))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    np.testing.assert_allclose(scores_of("ease", shop, shop.last_ms), x @ b, atol=1e-4)
    # Asked with counts that fade, by the same weights; and so where the items are fewer.
    (ease,) = (one for one in BASELINES if one.name == "ease")
    everyone = np.arange(shop.n_users, dtype=np.int32)
    faded = {one.settings: one.fit for one in ease.choices()}
    assert len(faded) == 4
    for weeks in (13, 4, 1):
        q = np.zeros_like(counts)
        ages = (shop.last_ms - shop.times_ms) / WEEK_MS
        np.add.at(q, (shop.event_users, shop.items), 0.5 ** (ages / weeks))
        fit = faded[f"asked with counts that halve in {weeks} weeks"]
        found = fit(shop, shop.last_ms)(everyone)
        np.testing.assert_allclose(found, np.log1p(q) @ b, atol=1e-4)


@given(purchase_rows(min_size=3), st.integers(1, 3), st.integers(1, 4), st.floats(0, 1))
def test_tifu_knn_is_that_of_the_papers_equations(
    rows: list[Row], group: int, neighbours: int, mine: float
) -> None:
    shop = dataset_of(clean(tables(rows), Rules())[0])
    settings = Tifu(group, 0.8, 0.5, neighbours, mine)
    own = np.zeros((shop.n_users, shop.n_items))
    for user in range(shop.n_users):
        part = slice(shop.user_ptr[user], shop.user_ptr[user + 1])
        baskets = [
            shop.items[part][shop.baskets[part] == number]
            for number in dict.fromkeys(shop.baskets[part].tolist())
        ][::-1]  # the newest first
        groups = [baskets[at : at + group] for at in range(0, len(baskets), group)]
        for age, members in enumerate(groups):
            for place, items in enumerate(members):
                weight = 0.8**place / len(members) * 0.5**age / len(groups)
                own[user, items] += weight
    found = tifu_scores(shop, settings)(np.arange(shop.n_users, dtype=np.int32))
    distance = ((own[:, None] - own[None]) ** 2).sum(-1)
    for user in range(shop.n_users):
        others = [one for one in range(shop.n_users) if one != user]
        near = sorted(others, key=lambda one: distance[user, one])[:neighbours]
        last = distance[user, near[-1]] if near else 0.0
        if sum(distance[user, others] <= last + 1e-6) > len(near):
            continue  # who of equals is nearer is no question of the paper's
        mixed = mine * own[user] + (1 - mine) * (own[near].mean(0) if near else 0)
        assert found[user] == pytest.approx(mixed, abs=1e-5)


def test_ials_finds_who_buys_what() -> None:
    """Two kinds of people and of items: each gets what those like him buy."""
    rows = [
        (f"{kind}{person}", f"{kind}-item{item}", float(item), f"{person}-{item}")
        for kind in "ab"
        for person in range(12)
        for item in range(8)
        if item != person % 8
    ]
    shop = dataset_of(clean(tables(rows), Rules())[0])
    scores = scores_of("ials", shop, shop.last_ms)
    kinds = [name[0] for name in shop.item_ids]
    for user, name in enumerate(shop.user_ids):
        missing = shop.item_index[f"{name[0]}-item{int(name[1:]) % 8}"]
        others = [place for place, kind in enumerate(kinds) if kind != name[0]]
        assert scores[user, missing] > scores[user, others].max() + 0.1
    again = scores_of("ials", shop, shop.last_ms)
    assert (scores == again).all(), "of the same seed"


def test_ease_scores_agree_with_the_weights_that_a_bundle_carries() -> None:
    # Few enough items that all pairs have a common buyer: others have no weight in a bundle.
    shop = dataset_of(clean(tables(shop_rows(n_items=12)), Rules())[0])
    weights = fit_item_item(
        shop.event_users,
        shop.items,
        shop.n_users,
        shop.n_items,
        regularization=EASE_LAMBDA,
        keep_ease=shop.n_items,
        keep_cosine=shop.n_items,
        min_buyers=1,
    )
    counts = np.zeros((shop.n_users, shop.n_items))
    np.add.at(counts, (shop.event_users, shop.items), 1)
    for name, sparse in (("ease", weights.ease), ("item_knn", weights.cosine)):
        dense = np.zeros((shop.n_items, shop.n_items))
        for item in range(shop.n_items):
            part = slice(int(sparse.row_ptr[item]), int(sparse.row_ptr[item + 1]))
            dense[item, sparse.items[part]] = sparse.weights[part]
        got = scores_of(name, shop, shop.last_ms)
        np.testing.assert_allclose(got, np.log1p(counts) @ dense, atol=1e-4)
