"""Whether two evaluations can be compared: the same data, the same cut, the same lists' length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PROTOCOL = ("split", "on", "history_until_unix_ms", "targets_until_unix_ms", "k", "ranking")


def incomparable(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What differs, or is not told on either side; empty if nothing."""
    digests = [_part(document, "dataset").get("digest") for document in (ours, theirs)]
    if None in digests:
        return "a result does not tell the digest of its data"
    if digests[0] != digests[1]:
        return f"measured on other data: digest {digests[0]} and {digests[1]}"
    mine, others = _part(ours, "protocol"), _part(theirs, "protocol")
    for key in _PROTOCOL:
        if mine.get(key) != others.get(key):
            return f"protocol.{key} differs: {mine.get(key)!r} and {others.get(key)!r}"
    return ""


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}
