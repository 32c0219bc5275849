"""Users of few events: what they get is no worse than what everybody gets who is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from server.features import FeatureState, generate_candidates, pair_features
from server.features.types import DAY_MS, History, Int32
from strategies.purchases import START_MS, Row, tables
from training.data.dataset import Dataset, dataset_of
from training.data.split import Targets, targets_between
from training.fit_features import fit_features
from training.metrics import hits, ndcg
from training.model import PairRanker
from training.rows import make_lists
from training.settings import TrainSettings
from training.train import train_ranker

K = 20
WEEKS = 12
TRAIN_MS, CUT_MS, END_MS = (START_MS + week * 7 * DAY_MS - 1 for week in (8, 10, 12))
SETTINGS = replace(TrainSettings.quick(), n_novel=30, epochs=6)


def large_shop(seed: int = 0, n_users: int = 250, n_items: int = 500) -> list[Row]:
    """Everyone buys best sellers, and some things of a taste that few share."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(8, 8 + n_items)
    chance /= chance.sum()
    tastes = [rng.choice(np.arange(60, n_items), 40, replace=False) for _ in range(10)]
    rows: list[Row] = []
    for user in range(n_users):
        taste = tastes[user % len(tastes)]
        for week in range(WEEKS):
            basket = set(rng.choice(n_items, 6, replace=False, p=chance).tolist())
            basket |= set(rng.choice(taste, 2, replace=False).tolist())
            day = week * 7 + float(rng.integers(0, 7))
            rows += [
                (f"user-{user:03}", f"item-{item:03}", day, f"{user}-{week}")
                for item in sorted(basket)
            ]
    return rows


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are small: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset_of(tables(large_shop()))


@pytest.fixture(scope="module")
def states(data: Dataset) -> dict[int, FeatureState]:
    return {
        cut_ms: fit_features(data.until(cut_ms), cut_ms, SETTINGS, lambda _: None)
        for cut_ms in (TRAIN_MS, CUT_MS)
    }


def trained(data: Dataset, state: FeatureState, settings: TrainSettings) -> PairRanker:
    lists = make_lists(
        data.until(TRAIN_MS), targets_between(data, TRAIN_MS, CUT_MS), TRAIN_MS, state, settings,
        with_short=True, on_list=lambda _: None,
    )  # fmt: skip
    return train_ranker([lists], None, settings, settings.epochs, lambda *_: None).model


def few_events(history: History, events: int) -> History:
    start = len(history) - events
    return History(history.items[start:], history.times_ms[start:], history.quantities[start:])


def worth(lists: list[Int32], targets: Targets) -> float:
    """The mean NDCG of the lists."""
    found = hits(np.stack(lists), targets.ptr, targets.items)
    return float(ndcg(found, np.diff(targets.ptr)).mean())


@pytest.fixture(scope="module")
def measured(data: Dataset, states: dict[int, FeatureState]) -> dict[tuple[float, int], float]:
    """NDCG by share of best sellers and number of events."""
    targets, past, state = targets_between(data, CUT_MS, END_MS), data.until(CUT_MS), states[CUT_MS]
    values = {}
    for share in (0.0, SETTINGS.popular_share):
        settings = replace(SETTINGS, popular_share=share)
        model = trained(data, states[TRAIN_MS], settings)
        for events in (0, 1, 3):
            lists = []
            for user in targets.users.tolist():
                part = few_events(past.history(user), events)
                found = generate_candidates(
                    part, CUT_MS, state, settings.n_novel, n_popular=settings.n_popular
                )
                features = torch.from_numpy(pair_features(part, found.items, CUT_MS, state))
                with torch.no_grad():
                    scores = model.logits(features).numpy()
                lists.append(found.items[np.lexsort((found.items, -scores))[:K]])
            values[share, events] = worth(lists, targets)
    return values


@pytest.fixture(scope="module")
def non_personal(data: Dataset, states: dict[int, FeatureState]) -> float:
    """NDCG of the best sellers of the last four weeks, for everyone."""
    targets = targets_between(data, CUT_MS, END_MS)
    return worth([states[CUT_MS].popular[:K]] * len(targets), targets)


@pytest.mark.parametrize("events", [0, 1, 3])
def test_a_user_of_few_events_is_served_no_worse_than_an_unknown_one(
    events: int, measured: dict[tuple[float, int], float], non_personal: float
) -> None:
    assert measured[SETTINGS.popular_share, events] > 0.97 * non_personal


def test_without_best_sellers_among_the_candidates_he_would_be(
    measured: dict[tuple[float, int], float], non_personal: float
) -> None:
    """Or the test above would prove nothing."""
    assert measured[0.0, 1] < 0.8 * non_personal
