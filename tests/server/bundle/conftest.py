"""One tiny bundle, written once; each test gets a copy of its own to break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from server.bundle import BundleParts
from strategies.bundles import tiny_bundle, tiny_parts


@pytest.fixture(scope="session")
def parts() -> BundleParts:
    return tiny_parts()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine") / "bundle"
    tiny_bundle(folder)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))
