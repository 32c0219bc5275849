"""What the tests of the wire know about the tiny bundle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def known_items(bundle_path: Path) -> list[str]:
    items: list[str] = json.loads((bundle_path / "items.json").read_text())["ids"]
    return items
