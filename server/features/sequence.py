"""What a sequence model reads of one list: the newest items of a history, and the candidates.

Owns the numbering: item i is i + 1 to the model, 0 is nothing.

>>> sequence(History.empty(), np.array([4], np.int32), 3)
(array([0, 0, 0], dtype=int32), array([5], dtype=int32))
"""

from __future__ import annotations

import numpy as np

from server.features.types import History, Int32


def sequence(history: History, candidates: Int32, length: int) -> tuple[Int32, Int32]:
    """The last `length` items, `[length] int32`, newest last and 0 before them; candidates `[n] int32`.

    Events of one instant are in item order, so that the order of arrival changes nothing.
    """
    recent = history.items[len(history.items) - min(length, len(history.items)) :]
    items = np.zeros(length, np.int32)
    if len(recent):
        items[length - len(recent) :] = recent + 1
    return items, (candidates + 1).astype(np.int32, copy=False)
