"""A request file made of real histories: whoever is in an event store, drawn evenly, with his groups.

Users are drawn as they come, so that the sample has the store's mix of groups, as far as its size
allows; the mix is told. The requests are for the moment after the store's last event.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from bench.load.requests import DEFAULT_COUNT, HistoryLine, LoadRequest
from bench.refused import InputRefused
from server.events import EventBatch, EventKind, SqliteEventStore

HISTORY_EVENTS = 200
USER = "user"


@dataclass(frozen=True)
class Sampled:
    """The requests, and of how many users they were drawn. mix: attribute -> label -> its share among
    those users, and in the sample."""

    requests: tuple[LoadRequest, ...]
    users: int
    mix: Mapping[str, Mapping[str, tuple[float, float]]]


def read_groups(path: Path) -> dict[str, dict[str, str]]:
    """User -> attribute -> label, of a CSV or Parquet file with a column `user`.

    Raises:
        InputRefused: it cannot be read, or has no such column.
    """
    try:
        frame = (
            pl.read_parquet(path)
            if path.suffix == ".parquet"
            else pl.read_csv(path, infer_schema=False)
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputRefused(str(path), "", f"cannot be read: {error}") from error
    if USER not in frame.columns:
        raise InputRefused(
            str(path), "", f"no column 'user'; there are: {', '.join(frame.columns)}"
        )
    attributes = [name for name in frame.columns if name != USER]
    frame = frame.cast(pl.String)
    return {
        row[USER]: {name: row[name] for name in attributes if row[name]}
        for row in frame.iter_rows(named=True)
    }


def sample(
    store: SqliteEventStore,
    groups: Mapping[str, Mapping[str, str]],
    *,
    n: int,
    seed: int,
    by_id: bool = False,
    on_events: Callable[[int], None] = lambda events: None,
) -> Sampled:
    """`n` requests of users of the store, none twice as long as there are enough.

    by_id: the server reads the history from its own store; else the request brings his last
    `HISTORY_EVENTS` purchases, and needs no such user there.

    Raises:
        InputRefused: the store holds no purchase.
    """
    bought: Counter[str] = Counter()
    last_ms = 0
    for batch in store.export():
        last_ms = max(last_ms, int(batch.times_ms.max(initial=0)))
        bought.update(_buyers(batch))
        on_events(len(batch))
    if not bought:
        raise InputRefused(
            "--events", "", "the store holds no purchase: 'equipoise events load' fills it"
        )
    users = sorted(bought)
    rng = np.random.default_rng(seed)
    drawn = [users[place] for place in rng.choice(len(users), n, replace=n > len(users))]
    requests = tuple(
        LoadRequest(
            user_id=user if by_id else "",
            history=() if by_id else _history(store, user),
            count=DEFAULT_COUNT,
            as_of_unix_ms=last_ms + 1,
            groups=dict(groups.get(user, {})),
        )
        for user in drawn
    )
    return Sampled(requests, len(users), _mix(users, drawn, groups))


def _buyers(batch: EventBatch) -> list[str]:
    purchases = np.flatnonzero(batch.kinds == EventKind.PURCHASE)
    return [batch.user_ids[place] for place in purchases.tolist()]


def _history(store: SqliteEventStore, user: str) -> tuple[HistoryLine, ...]:
    events = store.history(user)
    purchases = np.flatnonzero(events.kinds == EventKind.PURCHASE)[-HISTORY_EVENTS:].tolist()
    return tuple(
        HistoryLine(
            item_id=events.item_ids[place],
            time_unix_ms=int(events.times_ms[place]),
            quantity=int(np.clip(round(float(events.quantities[place])), 1, 10_000)),
        )
        for place in purchases
    )


def _mix(
    users: list[str], drawn: list[str], groups: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, tuple[float, float]]]:
    attributes = sorted({name for labels in groups.values() for name in labels})
    mix: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for attribute in attributes:
        of = [
            Counter(groups.get(user, {}).get(attribute, "unknown") for user in some)
            for some in (users, drawn)
        ]
        for label in sorted(of[0] | of[1]):
            mix[attribute][label] = (of[0][label] / len(users), of[1][label] / len(drawn))
    return dict(mix)
