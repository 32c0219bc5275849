"""Lists to learn from, made by hand: what is bought follows the first feature."""

from __future__ import annotations

import numpy as np

from training.rows import Lists

F = 5


def lists_of(seed: int, n_lists: int = 60) -> Lists:
    """Lists in which the first feature speaks for a purchase and the last is constant."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 40, n_lists)
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    features = rng.normal(3, 2, (int(ptr[-1]), F)).astype(np.float32)
    features[:, -1] = 7
    chance = 1 / (1 + np.exp(-2 * (features[:, 0] - 5)))
    labels = rng.random(len(features)) < chance
    items = np.concatenate([rng.permutation(length) for length in lengths]).astype(np.int32)
    found = np.add.reduceat(labels.astype(np.int64), ptr[:-1])
    recent = np.zeros((n_lists, 0), np.int32)
    users = np.arange(n_lists, dtype=np.int32)
    return Lists(features, labels, items, ptr, found + rng.integers(1, 3, n_lists), recent, users)
