"""Item vectors for diversity, from a bundle's item-item weights: written anew from what the bundle
holds, so that a wrong vector in the server is found.

An item's row of random signs, those of what it goes with by their weight, and half of its category's;
scaled to length 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

# The definition's: another seed or width is another order.
_SEED, _DIMENSIONS, _CATEGORY = 20_230_425, 64, 0.5


@dataclass(frozen=True)
class Weights:
    """What goes with what: of item i the entries `rows[i]` to `rows[i + 1]` of items and weights."""

    place: Mapping[str, int]
    rows: NDArray[np.int64]
    items: NDArray[np.int32]
    weights: Float32
    category: NDArray[np.int32]


def vectors_of(ids: Sequence[str], of: Weights) -> Float32:
    """`[n, d]`; 0 for an item that the bundle lacks.

    In 32 bits, as the definition has them: rounding decides between items that are nearly the same.
    """
    size = (len(of.place) + int(of.category.max(initial=-1)) + 1, _DIMENSIONS)
    drawn = np.random.default_rng(_SEED).integers(0, 2, size, np.int8) * 2 - 1
    signs = drawn.astype(np.float32)
    found = np.zeros((len(ids), _DIMENSIONS), np.float32)
    for row, item in enumerate(ids):
        if item not in of.place:
            continue
        i = of.place[item]
        vector = signs[i].copy()
        for entry in range(of.rows[i], of.rows[i + 1]):
            vector += of.weights[entry] * signs[of.items[entry]]
        vector += np.float32(_CATEGORY) * signs[len(of.place) + of.category[i]]
        length = np.linalg.norm(vector)
        found[row] = vector / length if length > 0 else vector
    return found
