"""Item vectors for diversity: what an item goes with, projected to a few dimensions.

Two items are alike where the same items are bought with both (cosine item-item weights)
and where they share a category. The rows of these weights are projected by random signs,
which keeps inner products up to an error of about 1 / sqrt(d) (Achlioptas, JCSS 2003); a
bundle needs no file for them, and the signs are the same on every machine.

Owns the vectors; knows neither scores nor policies.
"""

from __future__ import annotations

import numpy as np

from server.features.state import FeatureState
from server.features.types import Float32, Int32, Int64
from server.jit import kernel

DIMENSIONS = 64
CATEGORY_WEIGHT = 0.5
"""Of one shared category, where the cosine of an item with itself is 1."""

_SEED = 20_230_425


def item_vectors(state: FeatureState) -> Float32:
    """`[n_items, 64] float32`, each of length 1, or 0 for an item of which nothing is known."""
    rng = np.random.default_rng(_SEED)
    n_codes, _, _ = state.n_codes
    signs = rng.integers(0, 2, (state.n_items + n_codes, DIMENSIONS), np.int8) * 2 - 1
    vectors = _projected(
        state.cosine.row_ptr, state.cosine.items, state.cosine.weights, signs.astype(np.float32)
    )
    vectors += CATEGORY_WEIGHT * signs[state.n_items + state.category]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Float32 = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit


@kernel
def _projected(row_ptr: Int64, items: Int32, weights: Float32, signs: Float32) -> Float32:
    """Each item's own row of signs, and those of the items it goes with by their weight."""
    n = row_ptr.shape[0] - 1
    vectors = np.empty((n, signs.shape[1]), np.float32)
    for item in range(n):
        vectors[item] = signs[item]
        for entry in range(row_ptr[item], row_ptr[item + 1]):
            vectors[item] += weights[entry] * signs[items[entry]]
    return vectors
