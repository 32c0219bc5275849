"""Histories with ties and long gaps, and item statistics in which no two columns agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from server.features import FeatureState, SparseWeights
from server.features.types import DAY_MS, History
from strategies.bundles import N_ITEMS, tiny_state

NOW_MS = 1_500_000_000_000
HOUR_MS = 3_600_000

# Ages around the edges of a trip (six hours), equal ones, and some as old as time allows.
AGES_MS = (0, 1, HOUR_MS, 5 * HOUR_MS, 6 * HOUR_MS, 7 * HOUR_MS, DAY_MS, 9 * DAY_MS, 300 * DAY_MS)


def shop_state(seed: int = 0, max_history: int = 10_000) -> FeatureState:
    """The tiny shop with neighbours, codes and ranks that differ from one another."""
    rng = np.random.default_rng(seed)

    def weights(lowest: int) -> SparseWeights:
        # Few different values: some items tie, and some weights are 0.
        rows = []
        for item in range(N_ITEMS):
            others = rng.choice(N_ITEMS, int(rng.integers(0, 9)), replace=False)
            rows.append(
                [(int(o), int(rng.integers(lowest, 5)) / 4) for o in sorted(others) if o != item]
            )
        return SparseWeights.of_rows(rows)

    return replace(
        tiny_state(rng),
        popularity_recent=rng.random(N_ITEMS).astype(np.float32),
        private_label=rng.integers(0, 2, N_ITEMS).astype(np.float32),
        category=rng.integers(0, 7, N_ITEMS).astype(np.int32),
        department=rng.integers(0, 4, N_ITEMS).astype(np.int32),
        provider=rng.integers(0, 11, N_ITEMS).astype(np.int32),
        popular=rng.permutation(N_ITEMS).astype(np.int32),
        ease=weights(-2),
        cosine=weights(1),
        max_history=max_history,
    )


def history_of(events: list[tuple[int, int]], now_ms: int = NOW_MS) -> History:
    """A history of (item, age in ms) pairs."""
    return History.of(
        np.array([item for item, _ in events], np.int32),
        np.array([now_ms - age_ms for _, age_ms in events], np.int64),
        np.ones(len(events), np.float32),
    )


def event_lists(max_size: int = 25) -> st.SearchStrategy[list[tuple[int, int]]]:
    """(item, age in ms) pairs over few items, so that purchases repeat and times are equal."""
    ages = st.sampled_from(AGES_MS) | st.integers(0, NOW_MS)
    return st.lists(st.tuples(st.integers(0, 11), ages), max_size=max_size)
