"""What a quality run has done already: one folder, an entry for each row, found again by its key.

The key says what the entry depends on: data, settings, protocol, and the source code itself, since a
figure of other code is no figure of this one. An entry is written aside and renamed: there whole, or not.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from training.checkpoints import write_whole
from training.metrics import PerUser

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Entry:
    """One row's: facts as JSON, and arrays with a value for each user."""

    facts: dict[str, Any]
    arrays: PerUser


class Kept:
    """The entries in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, key: Mapping[str, Any]) -> Entry | None:
        """The entry, or None where there is none with this key."""
        try:
            known = json.loads((self._folder / f"{name}.json").read_text())
            if known["key"] != _plain(key):
                return None
            with np.load(self._folder / f"{name}.npz", allow_pickle=False) as arrays:
                values = {column: arrays[column] for column in arrays.files}
        except (OSError, ValueError, KeyError, TypeError, BadZipFile):
            return None
        if known["arrays"] != _digest(values):
            return None
        return Entry(known["facts"], values)

    def write(self, name: str, key: Mapping[str, Any], entry: Entry) -> None:
        """Keep it. The arrays come first: without the facts, which name them, they count for nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        raw = io.BytesIO()
        np.savez_compressed(raw, **entry.arrays)  # type: ignore[arg-type]
        write_whole(self._folder / f"{name}.npz", raw.getvalue(), "what was measured")
        facts = {"key": _plain(key), "facts": entry.facts, "arrays": _digest(entry.arrays)}
        text = json.dumps(facts, indent=1, allow_nan=False)
        write_whole(self._folder / f"{name}.json", text.encode(), "what was measured")


def code_digest() -> str:
    """Of the source that a figure depends on, and of the policies that come along."""
    told = hashlib.sha256()
    for part in ("server", "training"):
        for path in sorted([*(ROOT / part).rglob("*.py"), *(ROOT / part).rglob("*.toml")]):
            told.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return told.hexdigest()


def _plain(key: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(key, sort_keys=True))


def _digest(arrays: PerUser) -> str:
    told = hashlib.sha256()
    for name in sorted(arrays):
        told.update(name.encode() + b"\0" + np.ascontiguousarray(arrays[name]).tobytes())
    return told.hexdigest()
