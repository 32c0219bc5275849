"""One real server over the tiny bundle, shared by the tests that need one."""

from __future__ import annotations

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
