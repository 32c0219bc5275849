"""Strategies for events: few users and ids, so that examples collide, and awkward text."""

from __future__ import annotations

from hypothesis import strategies as st

from server.events import Event, EventKind

# Text that a store may mangle: NUL, quotes, what looks like a number, two forms of one letter.
AWKWARD = ("17", "017", "a'b", "x\0y", "\u00e9", "e\u0301", "\U0001f34e", "%_")

user_ids = st.sampled_from(("ann", *AWKWARD))
event_ids = st.sampled_from([f"e{number}" for number in range(12)] + list(AWKWARD))


def events() -> st.SearchStrategy[Event]:
    """A valid event; times repeat, so that the order of equal times matters."""
    return st.builds(
        Event,
        event_id=event_ids,
        user_id=user_ids,
        item_id=st.sampled_from(("i1", "i2", *AWKWARD)),
        kind=st.sampled_from([int(kind) for kind in EventKind]),
        time_ms=st.sampled_from((0, 1, 2, 1_700_000_000_000, 253_402_300_799_999)),
        quantity=st.sampled_from((1, 2, 0.5, 10_000)),
        request_id=st.sampled_from(("", "r-1")),
        rank=st.integers(0, 50),
        basket=st.sampled_from(("", "b-1")),
        value=st.none() | st.floats(-100, 100),
    )
