"""A bundle made from people's purchases holds nothing of any one of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from server.bundle import load_bundle, write_bundle
from server.features import N_FEATURES
from server.features.types import DAY_MS
from strategies.bundles import tiny_model
from strategies.purchases import shop_rows, tables
from training.choose_policies import choose_policies
from training.data.dataset import Dataset, dataset_of
from training.families import Family
from training.fit_features import fit_features
from training.release import assemble, group_tables
from training.settings import TrainSettings

CANARY = "canary-7f3a9c"
# Nothing else in the folder has such a number by chance.
CANARY_OFFSET_MS = 12_345_678


@pytest.fixture(scope="module")
def data() -> Dataset:
    rows = [(f"{CANARY}-{user}", *rest) for user, *rest in shop_rows(n_users=12)]
    raw = dataset_of(tables(rows))
    attributes = {
        **raw.item_attributes,
        "category": tuple(f"category {place % 6}" for place in range(raw.n_items)),
    }
    return replace(raw, times_ms=raw.times_ms + CANARY_OFFSET_MS, item_attributes=attributes)


@pytest.fixture(scope="module")
def files(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    settings = TrainSettings(min_buyers=2)
    # The end of the data is in the manifest; it is the end of a period, not one person's event.
    until_ms = data.last_ms + DAY_MS // 2
    groups = group_tables(data)
    parts = assemble(
        name="canary",
        data=data,
        until_ms=until_ms,
        state=fit_features(data, until_ms, settings, lambda done: None),
        model=tiny_model(np.random.default_rng(0), N_FEATURES),
        groups=groups,
        policies=choose_policies(None, None, groups),
        family=Family("tiny-mlp", N_FEATURES, 0, 0, "a tiny MLP"),
        settings=settings,
        horizon_days=14,
        quality={},
    )
    folder = tmp_path_factory.mktemp("canary") / "bundle"
    write_bundle(parts, folder)
    assert load_bundle(folder).manifest.data.users == 12
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def forms(number: int) -> list[bytes]:
    return [str(number).encode(), np.int64(number).tobytes(), np.float64(number).tobytes()]


def found(files: dict[str, bytes], wanted: list[bytes]) -> list[tuple[str, bytes]]:
    return [(name, form) for name, raw in files.items() for form in wanted if form in raw]


def test_no_user_id_is_in_any_file(data: Dataset, files: dict[str, bytes]) -> None:
    assert all(user.startswith(CANARY) for user in data.user_ids)
    assert found(files, [CANARY.encode(), CANARY.encode("utf-16-le")]) == []


def test_no_time_of_anyones_purchase_is_in_any_file(data: Dataset, files: dict[str, bytes]) -> None:
    wanted = [form for time_ms in np.unique(data.times_ms) for form in forms(int(time_ms))]
    assert len(wanted) > 100
    assert found(files, wanted) == []


def test_no_ones_history_is_in_any_file(data: Dataset, files: dict[str, bytes]) -> None:
    wanted = []
    for user in range(data.n_users):
        items = data.history(user).items
        assert len(items) > 8
        for start in range(len(items) - 8):
            part = items[start : start + 8]
            texts = [data.item_ids[item] for item in part]
            wanted += [
                part.tobytes(), part.astype(np.int64).tobytes(),
                ",".join(map(str, part.tolist())).encode(), ", ".join(map(str, part.tolist())).encode(),
                '","'.join(texts).encode(),
            ]  # fmt: skip
    assert found(files, wanted) == []


def test_the_search_finds_what_it_looks_for(data: Dataset) -> None:
    # A test of absence proves nothing unless the search works.
    time_ms = int(data.times_ms[3])
    planted = {"a": f"x{time_ms}y".encode(), "b": b"1" + np.int64(time_ms).tobytes()}
    assert {name for name, _ in found(planted, forms(time_ms))} == {"a", "b"}
