"""The SQLite store against a dict, over any sequence of calls and reopenings."""

from __future__ import annotations

import math
import tempfile
from hashlib import blake2b
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.events import Event, SqliteEventStore
from strategies.events import AWKWARD, events, user_ids


class StoreMachine(RuleBasedStateMachine):
    """`oracle[user][event_id]` is the first event of that id: the whole specification."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "events.db"
        self.oracle: dict[str, dict[str, Event]] = {}
        self.versions: dict[str, int] = {}

    @initialize()
    def open(self) -> None:
        self.store = SqliteEventStore(self.path)

    @rule(batch=st.lists(events(), max_size=8))
    def record(self, batch: list[Event]) -> None:
        new = 0
        for event in batch:
            mine = self.oracle.setdefault(event.user_id, {})
            if event.event_id not in mine:
                mine[event.event_id] = event
                new += 1
        answer = self.store.record(batch)
        assert (answer.recorded, answer.duplicates) == (new, len(batch) - new)

    @rule(user_id=user_ids)
    def erase(self, user_id: str) -> None:
        assert self.store.erase(user_id) == len(self.oracle.pop(user_id, {}))

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = SqliteEventStore(self.path, create=False)

    @rule()
    def export_equals_the_oracle(self) -> None:
        found = set()
        for batch in self.store.export(batch_events=3):
            for place in range(len(batch)):
                value = float(batch.values[place])
                found.add(
                    (
                        batch.user_ids[place],
                        batch.item_ids[place],
                        int(batch.kinds[place]),
                        int(batch.times_ms[place]),
                        float(batch.quantities[place]),
                        batch.baskets[place],
                        None if math.isnan(value) else value,
                        batch.request_ids[place],
                        int(batch.ranks[place]),
                    )
                )
        assert found == {
            (
                event.user_id,
                event.item_id,
                event.kind,
                event.time_ms,
                float(event.quantity),
                event.basket,
                event.value,
                event.request_id,
                event.rank,
            )
            for mine in self.oracle.values()
            for event in mine.values()
        }

    @invariant()
    def histories_equal_the_oracle(self) -> None:
        if not hasattr(self, "store"):
            return
        for user_id in ("ann", *AWKWARD):
            expected = sorted(
                self.oracle.get(user_id, {}).values(),
                key=lambda e: (e.time_ms, blake2b(e.event_id.encode(), digest_size=16).digest()),
            )
            found = self.store.history(user_id)
            assert found.item_ids == tuple(event.item_id for event in expected)
            assert found.times_ms.tolist() == [event.time_ms for event in expected]
            assert found.kinds.tolist() == [event.kind for event in expected]
            assert found.quantities.tolist() == [event.quantity for event in expected]
            assert found.times_ms.dtype == np.int64
            assert found.kinds.dtype == np.int8
            assert found.quantities.dtype == np.float32
            version = self.store.version(user_id)
            assert (version == 0) == (not expected)
            if version:
                # Never backwards, not even for a user who was erased and came back.
                assert version >= self.versions.get(user_id, 0)
                self.versions[user_id] = version

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        self.folder.cleanup()


TestStoreEqualsADict = StoreMachine.TestCase
TestStoreEqualsADict.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
