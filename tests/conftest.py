"""Hypothesis profiles, and one real server over a tiny bundle for the tests of the wire.

Profiles: quick while one works, the same examples every time in CI; for mutants few examples, always
the same, and no shrinking, since all that counts is whether one fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from strategies.bundles import tiny_bundle
from strategies.live import LiveServer, live_server

# The first example of a kernel pays for its compilation: deadlines would time numba, not us.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=60, derandomize=True, **_COMMON)
settings.register_profile("ci", max_examples=200, derandomize=True, print_blob=True, **_COMMON)
settings.register_profile(
    "mutants",
    max_examples=40,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    **_COMMON,
)
settings.load_profile("ci" if os.environ.get("CI") else "quick")


LONGEST = {"test_demo.py", "test_docs.py"}


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that talk to a server process are slow, like the modules that say so themselves.

    The longest files come first: side by side, one that began last would be waited for alone.
    """
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if "live" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
