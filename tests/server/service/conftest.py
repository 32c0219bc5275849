"""One real server over a tiny bundle, shared by the tests of the wire."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from strategies.bundles import tiny_bundle
from strategies.live import LiveServer, live_server


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny_bundle(path)
    return path


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("live")
    with live_server(
        folder, bundle_path, "--events", folder / "events.db", "--clock", "data-end"
    ) as server:
        yield server


@pytest.fixture(scope="session")
def known_items(bundle_path: Path) -> list[str]:
    items: list[str] = json.loads((bundle_path / "items.json").read_text())["ids"]
    return items
