"""The pair features in groups that can be switched off, to see what each is worth.

A group that is off still has its columns: the ranker takes them for constants, so that serving is as it
was. Owns which feature is in which group, each in one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from server.features import FEATURE_NAMES

Group = Literal["own purchases", "rhythm", "neighbours", "attributes", "item", "user"]
FEATURE_GROUPS: dict[Group, tuple[str, ...]] = {
    "own purchases": (
        "decayed_1w", "decayed_4w", "decayed_13w", "decayed_52w", "count", "trip_share",
        "trip_share_13w", "in_history",
    ),
    "rhythm": ("since_last", "gap", "since_over_gap", "trips_since_last", "trips_over_gap"),
    "neighbours": ("ease", "ease_recent", "ease_4w", "ease_1w", "cosine_recent"),
    "attributes": (
        "category_share", "category_recent", "department_share", "provider_share", "private_label",
        "user_private_share",
    ),
    "item": ("popularity", "popularity_recent", "repeat_rate", "item_gap"),
    "user": (
        "user_trips", "user_trip_size", "user_trip_gap", "user_since_trip", "user_items",
        "user_novelty",
    ),
}  # fmt: skip


def columns_of(groups: Sequence[Group]) -> list[int]:
    """The columns of these groups, rising."""
    names = {name for group in groups for name in FEATURE_GROUPS[group]}
    return [column for column, name in enumerate(FEATURE_NAMES) if name in names]
