"""Groups of features: each feature in one, and one that is off counts for nothing."""

from __future__ import annotations

import dataclasses

import numpy as np

from server.features import FEATURE_NAMES
from training.feature_groups import FEATURE_GROUPS, columns_of
from training.rows import Lists
from training.settings import TrainSettings
from training.train import predict, train_ranker


def test_each_feature_is_in_one_group() -> None:
    assert sorted(n for names in FEATURE_GROUPS.values() for n in names) == sorted(FEATURE_NAMES)
    assert columns_of(["neighbours"]) == [
        FEATURE_NAMES.index(name)
        for name in ("ease", "ease_recent", "ease_4w", "ease_1w", "cosine_recent")
    ]


def test_what_is_off_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    rows = 200
    lists = Lists(
        rng.normal(0, 1, (rows, len(FEATURE_NAMES))).astype(np.float32),
        rng.random(rows) < 0.2,
        np.tile(np.arange(20, dtype=np.int32), 10),
        np.arange(0, rows + 1, 20),
        np.full(10, 4),
        np.zeros((10, 0), np.int32),
    )
    other = lists.features.copy()
    off = columns_of(["neighbours"])
    other[:, off] = rng.normal(0, 9, (rows, len(off)))
    changed = dataclasses.replace(lists, features=other)
    base = TrainSettings.quick()
    for settings, same in (
        (base, False),
        (dataclasses.replace(base, without=("neighbours",)), True),
    ):
        model = train_ranker([lists], None, settings, 1, lambda epoch, ndcg: None).model
        assert np.array_equal(predict(model, lists), predict(model, changed)) is same
