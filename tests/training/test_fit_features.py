"""Item statistics against closed forms and plain counting; nothing after the cut, nobody alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.features import FeatureState, SparseWeights
from server.features.types import DAY_MS
from strategies.purchases import Row, purchase_rows, shop_rows, tables
from training import itemitem
from training.data.dataset import Dataset, dataset_of
from training.fit_features import attribute_codes, fit_features, with_levels
from training.itemitem import ItemItem, fit_item_item
from training.settings import TrainSettings

SETTINGS = TrainSettings(keep_ease=60, keep_cosine=60, min_buyers=1)
HOUR_MS = 3_600_000


def dense(weights: SparseWeights, n: int) -> np.ndarray:
    """`[n, n]`: source by target."""
    table = np.zeros((n, n))
    for source in range(n):
        part = slice(weights.row_ptr[source], weights.row_ptr[source + 1])
        table[source, weights.items[part]] = weights.weights[part]
    return table


def fitted(pairs: list[tuple[int, int]], n_items: int = 9, **changes: int) -> ItemItem:
    settings = {"keep_ease": n_items, "keep_cosine": n_items, "min_buyers": 1, **changes}
    return fit_item_item(
        np.array([user for user, _ in pairs], np.int32),
        np.array([item for _, item in pairs], np.int32),
        6,
        n_items,
        regularization=3.0,
        **settings,
    )


def log_counts(pairs: list[tuple[int, int]], n_items: int = 9) -> np.ndarray:
    table = np.zeros((6, n_items))
    for user, item in pairs:
        table[user, item] += 1
    return np.log1p(table)


events = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), min_size=1, max_size=60)


def equation_8(x: np.ndarray) -> np.ndarray:
    p = np.linalg.inv(x.T @ x + 3.0 * np.eye(x.shape[1]))
    b = -p / np.diag(p)
    together = (x > 0).T.astype(int) @ (x > 0)
    b[(together == 0) | np.eye(x.shape[1], dtype=bool) | (b < 0)] = 0
    return np.asarray(b)


@pytest.mark.parametrize("n_items", [4, 9], ids=["fewer than users", "more than users"])
@given(pairs=events, block=st.integers(1, 10))
def test_ease_weights_are_those_of_the_papers_equation_8(
    n_items: int, pairs: list[tuple[int, int]], block: int
) -> None:
    pairs = [(user, item % n_items) for user, item in pairs]
    wanted = equation_8(log_counts(pairs, n_items))
    found = dense(fitted(pairs, n_items, block=block).ease, n_items)
    assert found == pytest.approx(wanted, abs=2e-6)


@given(events)
def test_where_both_sides_are_large_the_items_bought_most_have_ease_weights(
    pairs: list[tuple[int, int]],
) -> None:
    x = log_counts(pairs)
    known = np.sort(np.argsort(-(x > 0).sum(0), kind="stable")[:5])
    wanted = np.zeros((9, 9))
    wanted[np.ix_(known, known)] = equation_8(x[:, known])
    # The others have their cosine neighbours, as much larger or smaller as EASE weights are.
    others = np.setdiff1d(np.arange(9), known)
    cosine = dense(fitted(pairs).cosine, 9)
    ease, near = wanted[wanted > 0], cosine[:, known][cosine[:, known] > 0]
    if len(ease):
        wanted[:, others] = cosine[:, others] * ease.mean() / near.mean()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(itemitem, "MAX_SIDE", 5)
        found = fitted(pairs)
    assert dense(found.ease, 9) == pytest.approx(wanted, abs=2e-6)
    assert dense(found.cosine, 9) == pytest.approx(dense(fitted(pairs).cosine, 9))


@given(events)
def test_cosine_weights_are_cosines_of_log_counts(pairs: list[tuple[int, int]]) -> None:
    x = log_counts(pairs)
    norms = np.linalg.norm(x, axis=0)
    norms[norms == 0] = 1
    cosine = (x.T @ x) / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0)
    assert dense(fitted(pairs).cosine, 9) == pytest.approx(cosine, abs=2e-6)


@given(events, st.integers(1, 4))
def test_no_weight_rests_on_fewer_buyers_than_demanded(
    pairs: list[tuple[int, int]], min_buyers: int
) -> None:
    bought = log_counts(pairs) > 0
    together = bought.T.astype(int) @ bought
    weights = fitted(pairs, min_buyers=min_buyers)
    for kind in (weights.ease, weights.cosine):
        assert together[dense(kind, 9) != 0].min(initial=min_buyers) >= min_buyers


@given(events, st.integers(1, 4))
def test_each_item_keeps_its_strongest_sources(pairs: list[tuple[int, int]], keep: int) -> None:
    every = dense(fitted(pairs).ease, 9)
    kept = dense(fitted(pairs, keep_ease=keep).ease, 9)
    for target in range(9):
        strongest = sorted(every[:, target], reverse=True)[:keep]
        assert sorted(kept[:, target], reverse=True)[:keep] == pytest.approx(strongest)
        assert np.count_nonzero(kept[:, target]) <= keep


def state_of(data: Dataset, cut_ms: int, settings: TrainSettings = SETTINGS) -> FeatureState:
    return fit_features(data.until(cut_ms), cut_ms, settings, lambda _: None)


@given(purchase_rows(min_size=3))
def test_counts_repeats_and_gaps_are_those_of_plain_counting(
    rows: list[Row],
) -> None:
    rows = [(user, item, int(day), basket) for user, item, day, basket in rows]
    data = dataset_of(tables(rows))
    cut_ms = data.last_ms
    state = state_of(data, cut_ms, replace(SETTINGS, min_buyers=1))
    # Per item: days between a user's purchases on different days, buyers and repeaters.
    gaps: dict[str, list[float]] = {item: [] for item in data.item_ids}
    buyers = dict.fromkeys(data.item_ids, 0)
    again = dict.fromkeys(data.item_ids, 0)
    for item in data.item_ids:
        for user in data.user_ids:
            days = sorted({row[2] for row in rows if row[0] == user and row[1] == item})
            buyers[item] += bool(days)
            again[item] += len(days) > 1
            gaps[item] += [b - a for a, b in pairwise(days)]
    every = [gap for found in gaps.values() for gap in found]
    mean = sum(every) / len(every) if every else 28.0
    rate = sum(again.values()) / sum(buyers.values())
    last_day = max(row[2] for row in rows)
    for place, item in enumerate(data.item_ids):
        mine = [row for row in rows if row[1] == item]
        recent = [row for row in mine if row[2] > last_day - 28]
        assert state.popularity[place] == pytest.approx(math.log1p(len(mine)))
        assert state.popularity_recent[place] == pytest.approx(math.log1p(len(recent)))
        assert state.gap_days[place] == pytest.approx(
            (sum(gaps[item]) + 5 * mean) / (len(gaps[item]) + 5), rel=1e-5
        )
        assert state.repeat_rate[place] == pytest.approx(
            (again[item] + 5 * rate) / (buyers[item] + 5), rel=1e-5
        )
    ranks = [(-state.popularity_recent[i], -state.popularity[i], i) for i in state.popular]
    assert ranks == sorted(ranks)
    assert FeatureState.from_arrays(state.to_arrays()).n_items == data.n_items


@pytest.mark.parametrize(
    ("apart_ms", "repeat_rate", "gap_days"),
    [(6 * HOUR_MS - 1, 0.0, 28.0), (6 * HOUR_MS, 0.5, 0.25)],
)
def test_purchases_of_one_trip_are_no_repeat(
    apart_ms: int, repeat_rate: float, gap_days: float
) -> None:
    data = dataset_of(tables([("u", "milk", 0, "a"), ("u", "milk", 1, "b"), ("v", "milk", 0, "c")]))
    start_ms = int(data.times_ms[0])
    moved = replace(data, times_ms=np.array([start_ms, start_ms + apart_ms, start_ms]))
    state = state_of(moved, moved.last_ms)
    assert state.repeat_rate[0] == repeat_rate
    assert state.gap_days[0] == gap_days


def test_what_happens_after_the_cut_changes_no_bit() -> None:
    rows = shop_rows()
    data = dataset_of(tables(rows))
    cut_ms = data.last_ms - 30 * DAY_MS
    # The same ids, but after the cut everyone buys one thing only.
    other = replace(
        data, items=np.where(data.times_ms > cut_ms, np.int32(0), data.items).astype(np.int32)
    )
    assert not np.array_equal(other.items, data.items)
    before, after = state_of(data, cut_ms).to_arrays(), state_of(other, cut_ms).to_arrays()
    for name, array in before.items():
        assert array.tobytes() == after[name].tobytes(), name


def test_attributes_become_codes_in_the_order_of_their_labels() -> None:
    assert attribute_codes(("pear", "apple", "unknown", "apple")).tolist() == [1, 0, 2, 0]
    rows = shop_rows(n_users=3)
    data = dataset_of(tables(rows))
    brands = tuple("Private" if n % 3 == 0 else "National" for n in range(data.n_items))
    data = replace(data, item_attributes={**data.item_attributes, "brand": brands})
    state = state_of(data, data.last_ms)
    assert state.private_label.tolist() == [float(n % 3 == 0) for n in range(data.n_items)]


def test_department_and_category_come_from_the_path_unless_the_data_names_them() -> None:
    data = dataset_of(tables([("u", item, 0, "b") for item in ("cheese", "milk", "pear")]))
    paths = ("DAIRY > CHEESE > HARD", "DAIRY", "unknown")
    attributes = {**data.item_attributes, "category_path": paths}
    levelled = with_levels(replace(data, item_attributes=attributes)).item_attributes
    assert levelled["department"] == ("DAIRY", "DAIRY", "unknown")
    assert levelled["category"] == ("CHEESE", "DAIRY", "unknown")
    own = {**attributes, "category": ("a", "b", "c")}
    assert (
        with_levels(replace(data, item_attributes=own)).item_attributes["category"]
        == own["category"]
    )


def test_an_item_of_few_buyers_looks_like_one_of_none() -> None:
    """Two people's purchases of an item would tell each of them what the other did."""
    many = [(f"u{n}", "known", day, f"k{n}-{day}") for n in range(4) for day in (0, 7, 15)]
    few = [(f"u{n}", "rare", day, f"r{n}-{day}") for n in range(2) for day in (1, 2, 5)]
    once = [("u3", "single", 3, "s")]
    data = dataset_of(tables([*many, *few, *once]))
    state = state_of(data, data.last_ms, replace(SETTINGS, min_buyers=3))
    known, rare, single = (data.item_index[item] for item in ("known", "rare", "single"))
    for column in (state.popularity, state.popularity_recent, state.repeat_rate, state.gap_days):
        assert column[rare] == column[single]
        assert column[known] != column[rare]
    assert state.popularity[rare] == 0


@given(events, st.integers(1, 3), st.integers(1, 9))
def test_large_catalogues_get_the_same_weights(
    pairs: list[tuple[int, int]], min_buyers: int, keep: int
) -> None:
    """The sparse way against the dense one; of equal weights either may keep another."""
    with pytest.MonkeyPatch.context() as patched:
        # Otherwise the users' side is inverted.
        patched.setattr(itemitem, "_by_users", lambda logs: False)
        changes = {"min_buyers": min_buyers, "keep_ease": keep, "keep_cosine": keep}
        few = fitted(pairs, **changes)
        patched.setattr(itemitem, "FEW_PRODUCTS", 0)
        many = fitted(pairs, **changes)
    for one, other in ((few.ease, many.ease), (few.cosine, many.cosine)):
        # Each target's weights, of whichever sources.
        assert np.array_equal(np.sort(dense(one, 9), axis=0), np.sort(dense(other, 9), axis=0))
    if keep == 9:
        assert np.array_equal(dense(few.cosine, 9), dense(many.cosine, 9))


def test_of_equal_weights_the_first_sources_are_kept() -> None:
    # The user that comes first knows the later items: all of them are as near to item 0.
    pairs = [(0, item) for item in (0, 5, 6, 7, 8)] + [(1, item) for item in range(5)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(itemitem, "_by_users", lambda logs: False)
        patched.setattr(itemitem, "FEW_PRODUCTS", 0)
        found = fitted(pairs, keep_cosine=3)
    kept = dense(found.cosine, 9) > 0
    # Item 0 weighs less towards the others, which are nearer to each other.
    assert [np.flatnonzero(kept[:, target]).tolist() for target in (0, 2, 8)] == [
        [1, 2, 3],
        [1, 3, 4],
        [5, 6, 7],
    ]


def test_in_large_catalogues_an_item_without_ease_weights_can_be_a_candidate_too() -> None:
    pairs = [(user, item) for item in range(9) for user in range(6) if user >= item // 3]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(itemitem, "_by_users", lambda logs: False)
        patched.setattr(itemitem, "MAX_SIDE", 4)
        few = fitted(pairs)
        patched.setattr(itemitem, "FEW_PRODUCTS", 0)
        many = fitted(pairs)
    assert np.array_equal(dense(few.ease, 9), dense(many.ease, 9))
    # A column is a target: what leads to an item.
    assert (dense(many.ease, 9) > 0).any(axis=0).all()
    ratio = (
        dense(many.ease, 9)[:, 4:]
        / np.where(dense(many.cosine, 9) > 0, dense(many.cosine, 9), 1)[:, 4:]
    )
    assert len(np.unique(ratio[ratio > 0].round(5))) == 1
