"""Requests of real users for a load test, as JSON lines.

Owns the draw. Half of the lines name the user (the server reads the history),
half bring the history, so that bodies differ in size as those of real callers do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from training.data.dataset import Dataset

COUNT = 20
HISTORY_EVENTS = 200


def request_lines(history: Dataset, user_ids: Sequence[str], n: int, seed: int) -> list[str]:
    """`n` requests of these users of `history`, drawn without replacement as far as they go."""
    rng = np.random.default_rng(seed)
    users = np.flatnonzero(np.isin(np.array(history.user_ids), np.array(user_ids)))
    drawn = rng.choice(users, n, replace=n > len(users))
    lines = []
    for number, user in enumerate(drawn.tolist()):
        request: dict[str, object] = {"user_id": history.user_ids[user], "count": COUNT}
        if number % 2:
            events = history.history(user)
            start = max(0, len(events) - int(rng.integers(1, HISTORY_EVENTS + 1)))
            request["history"] = [
                {
                    "item_id": history.item_ids[item],
                    "time_unix_ms": time_ms,
                    "quantity": int(quantity),
                }
                for item, time_ms, quantity in zip(
                    events.items[start:].tolist(),
                    events.times_ms[start:].tolist(),
                    np.clip(events.quantities[start:], 1, 10_000).tolist(),
                    strict=True,
                )
            ]
        lines.append(json.dumps(request))
    return lines
