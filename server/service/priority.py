"""Who goes first when there is more work than time: what a call's metadata says."""

from __future__ import annotations

from collections.abc import Iterable

from server.errors import InvalidField

METADATA = "equipoise-priority"
INTERACTIVE, BATCH = "interactive", "batch"


def is_background(metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
    """Whether the call is work for which nobody waits at a screen.

    Raises:
        InvalidField: a priority that does not exist.
    """
    for key, value in metadata or ():
        if key == METADATA and value != INTERACTIVE:
            if value != BATCH:
                raise InvalidField.of(f"metadata {METADATA}", value, f"{INTERACTIVE} or {BATCH}")
            return True
    return False
