"""What the items table tells of an item, as words: what can be known of one that nobody bought yet.

Owns which columns become words. Attributes of users are never among them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from server.features.types import Int64
from training.data.dataset import Dataset
from training.data.schema import UNKNOWN

NAME = "name"
"""A column whose values are one for each item."""
PATH = "category_path"
LEAST_ITEMS = 2
"""A word of fewer items tells nothing of others."""


@dataclass(frozen=True)
class Words:
    """The words of each item: of item i they are places[ptr[i] : ptr[i + 1]], numbers below `count`."""

    ptr: Int64
    places: Int64
    count: int


def words_of(data: Dataset) -> Words:
    """A word for each value of each column, and for each step of a category path."""
    columns = [name for name in sorted(data.item_attributes) if name != NAME]
    texts: list[list[str]] = []
    for item in range(data.n_items):
        values = {column: data.item_attributes[column][item] for column in columns}
        texts.append(
            [
                f"{column}={part}"
                for column, value in values.items()
                if value not in (UNKNOWN, "")
                for part in (dict.fromkeys(value.split(" > ")) if column == PATH else (value,))
            ]
        )
    items_of = Counter(word for own in texts for word in own)
    common = (word for word, items in items_of.items() if items >= LEAST_ITEMS)
    number = {word: place for place, word in enumerate(common)}
    places = [[number[word] for word in own if word in number] for own in texts]
    return Words(
        np.cumsum([0, *map(len, places)]).astype(np.int64),
        np.array([place for own in places for place in own], np.int64),
        len(number),
    )
