"""Features and candidates: one implementation, used by training and by serving."""

from __future__ import annotations

import numpy as np

from server.features.candidates import HISTORY, POPULAR, SIMILAR, Candidates, generate_candidates
from server.features.pairs import FEATURE_NAMES, N_FEATURES, pair_features
from server.features.profile import UserProfile, user_profile
from server.features.state import FeatureState, SparseWeights
from server.features.types import History

__all__ = [
    "FEATURE_NAMES",
    "HISTORY",
    "N_FEATURES",
    "POPULAR",
    "SIMILAR",
    "Candidates",
    "FeatureState",
    "History",
    "SparseWeights",
    "UserProfile",
    "generate_candidates",
    "pair_features",
    "user_profile",
    "warm_up",
]


def warm_up(state: FeatureState) -> None:
    """Compile the kernels (or load them from their cache), so that no request pays for it."""
    if state.n_items == 0:
        return
    history = History(np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.float32))
    chosen = generate_candidates(history, 0, state, 1)
    pair_features(history, chosen.items, 0, state)
