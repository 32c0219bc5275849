"""The user profile: one example by hand, and its agreement with the features."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from server.features import FEATURE_NAMES, History, pair_features, user_profile
from server.features.types import DAY_MS
from strategies.bundles import N_ITEMS
from strategies.histories import NOW_MS, event_lists, history_of, shop_state

STATE = shop_state()


def test_a_profile_by_hand() -> None:
    codes = np.zeros(N_ITEMS, np.int32)
    codes[2] = 1
    own = np.zeros(N_ITEMS, np.float32)
    own[2] = 1
    state = replace(STATE, category=codes, department=codes, private_label=own)
    week = 7 * DAY_MS
    # Item 1 now and 13 weeks ago (weights 1 and 1/2), item 2 13 weeks ago (1/2).
    profile = user_profile(history_of([(1, 0), (1, 13 * week), (2, 13 * week)]), NOW_MS, state)
    assert (profile.trips, profile.distinct_items) == (2, 2)
    assert profile.days_between_trips == 91.0
    assert profile.days_since_trip == 0.0
    assert profile.items_per_trip == 1.5
    assert profile.repeat_share == pytest.approx(1 / 3)
    assert profile.private_label_share == pytest.approx(1 / 4)
    assert profile.categories == ((0, pytest.approx(3 / 4)), (1, pytest.approx(1 / 4)))
    assert profile.departments == profile.categories
    assert profile.favourites.tolist() == [1, 2]


def test_nobody_has_an_empty_profile() -> None:
    profile = user_profile(History.empty(), NOW_MS, STATE)
    assert (profile.trips, profile.days_between_trips, profile.days_since_trip) == (0, None, None)
    assert profile.categories == ()
    assert len(profile.favourites) == 0


@given(event_lists())
def test_the_profile_says_what_the_features_say(events: list[tuple[int, int]]) -> None:
    history = history_of(events)
    profile = user_profile(history, NOW_MS, STATE)
    row = dict(
        zip(
            FEATURE_NAMES,
            pair_features(history, np.zeros(1, np.int32), NOW_MS, STATE)[0].tolist(),
            strict=True,
        )
    )
    assert row["user_trips"] == pytest.approx(math.log1p(profile.trips))
    assert row["user_items"] == pytest.approx(math.log1p(profile.distinct_items))
    assert row["user_trip_size"] == pytest.approx(math.log1p(profile.items_per_trip))
    assert row["user_trip_gap"] == pytest.approx(math.log1p(profile.days_between_trips or 0))
    assert row["user_since_trip"] == pytest.approx(math.log1p(profile.days_since_trip or 0))
