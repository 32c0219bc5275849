"""What is written is what is read, and the same parts give the same bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bundle import (
    BundleParts,
    GroupTable,
    ItemTable,
    MeasuredBatch,
    Warmup,
    load_bundle,
    write_bundle,
)
from server.bundle.files import decode, encode
from server.bundle.write import make_manifest
from server.errors import BundleRefused
from server.features.types import History
from strategies.bundles import N_ITEMS, tiny_bundle

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_loaded_bundle_holds_what_was_written(folder: Path, parts: BundleParts) -> None:
    bundle = load_bundle(folder)
    assert bundle.items == parts.items
    assert bundle.items.index == {item: place for place, item in enumerate(parts.items.ids)}
    assert bundle.model == parts.model
    for name, array in parts.state.to_arrays().items():
        read = bundle.state.to_arrays()[name]
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    for table in parts.groups:
        read_table = bundle.groups[table.name]
        assert (read_table.name, read_table.labels) == (table.name, table.labels)
        np.testing.assert_array_equal(read_table.codes, table.codes)
    assert {name: c.policy.document for name, c in bundle.policies.items()} == parts.policies
    assert bundle.golden_inputs.keys() == parts.golden_inputs.keys()
    for name, array in parts.golden_inputs.items():
        np.testing.assert_array_equal(bundle.golden_inputs[name], array)
    np.testing.assert_array_equal(bundle.golden_outputs, parts.golden_outputs)
    for read_warmup, warmup in zip(bundle.warmups, parts.warmups, strict=True):
        assert read_warmup.now_ms == warmup.now_ms
        np.testing.assert_array_equal(read_warmup.expected_top, warmup.expected_top)
        for field in fields(History):
            np.testing.assert_array_equal(
                getattr(read_warmup.history, field.name), getattr(warmup.history, field.name)
            )


def test_what_batches_cost_is_written_where_it_was_measured_and_nowhere_else(
    folder: Path, tmp_path: Path, parts: BundleParts
) -> None:
    """A bundle of before has no such key, and keeps its bytes and its id."""
    plain = json.loads((folder / "manifest.json").read_bytes())
    assert "measured_batches" not in plain["model"]
    assert load_bundle(folder).manifest.model.measured_batches == ()
    measured = (
        MeasuredBatch(lists=1, candidates=48, list_us=9.5),
        MeasuredBatch(lists=8, candidates=48, list_us=3.25),
    )
    write_bundle(replace(parts, measured_batches=measured), tmp_path / "measured")
    manifest = load_bundle(tmp_path / "measured").manifest
    assert manifest.model.measured_batches == measured
    assert manifest.bundle_id != plain["bundle_id"]


def test_best_sellers_among_the_candidates_are_told_where_there_are_some(
    folder: Path, tmp_path: Path, parts: BundleParts
) -> None:
    """A bundle of before has no such key, keeps its bytes and its id, and serves as it did."""
    plain = json.loads((folder / "manifest.json").read_bytes())
    assert "n_popular" not in plain["model"]
    assert load_bundle(folder).manifest.model.n_popular == 0
    write_bundle(replace(parts, n_popular=5), tmp_path / "popular")
    manifest = load_bundle(tmp_path / "popular").manifest
    assert manifest.model.n_popular == 5
    assert manifest.bundle_id != plain["bundle_id"]


def test_policies_are_compiled_against_their_group_tables(folder: Path) -> None:
    policies = load_bundle(folder, max_count=30).policies
    assert policies["tiers"].labels == ("large", "medium", "small")
    assert policies["tiers"].floors.shape == (3, 31)
    assert policies["none"].labels == ()


def test_the_manifest_says_what_the_files_are(folder: Path, parts: BundleParts) -> None:
    manifest = load_bundle(folder).manifest
    assert {name: info.sha256 for name, info in manifest.files.items()} == {
        name: hashlib.sha256(raw).hexdigest()
        for name, raw in bytes_of(folder).items()
        if name != "manifest.json"
    }
    assert manifest.model.digest == hashlib.sha256(parts.model).hexdigest()
    assert manifest.model.feature_names == parts.feature_names
    assert manifest.bundle_id.startswith("tiny-")
    assert len(manifest.bundle_id) == len("tiny-") + 12


def test_the_same_parts_give_the_same_bytes_whatever_their_order(
    tmp_path: Path, parts: BundleParts
) -> None:
    turned = replace(
        parts,
        groups=parts.groups[::-1],
        policies=dict(reversed(parts.policies.items())),
        quality=dict(reversed(parts.quality.items())),
    )
    first, second = write_bundle(parts, tmp_path / "a"), write_bundle(turned, tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert first == second


def test_arrays_in_another_memory_order_are_written_by_their_values(
    tmp_path: Path, parts: BundleParts
) -> None:
    turned = replace(
        parts,
        golden_inputs={"features": np.asfortranarray(parts.golden_inputs["features"])},
        golden_outputs=np.asfortranarray(parts.golden_outputs),
    )
    write_bundle(turned, tmp_path / "b")
    read = load_bundle(tmp_path / "b")
    np.testing.assert_array_equal(read.golden_inputs["features"], parts.golden_inputs["features"])
    np.testing.assert_array_equal(read.golden_outputs, parts.golden_outputs)


def test_other_content_gets_another_id(tmp_path: Path) -> None:
    ids = {
        tiny_bundle(tmp_path / str(number), **changes).bundle_id
        for number, changes in enumerate(
            [{}, {"seed": 1}, {"created_unix_ms": 1}, {"quality": {"ndcg_at_20": 0.51}}]
        )
    }
    assert len(ids) == 4


@given(st.lists(TEXT, min_size=N_ITEMS, max_size=N_ITEMS), st.dictionaries(TEXT, TEXT, max_size=3))
def test_any_text_survives_the_item_table(
    parts: BundleParts, names: list[str], attributes: dict[str, str]
) -> None:
    items = ItemTable(
        parts.items.ids,
        tuple(names),
        {name: (value,) * N_ITEMS for name, value in attributes.items()},
    )
    changed = replace(parts, items=items)
    files = encode(changed)
    assert decode(make_manifest(changed, files), files, 20).items == items


def broken_parts(parts: BundleParts) -> dict[str, tuple[dict[str, Any], str]]:
    """Changes that make parts which no server may get, and the file that is refused."""
    ids, names = parts.items.ids, parts.items.names
    nan = parts.golden_outputs.copy()
    nan[0, 0] = np.nan
    codes = parts.groups[0].codes.copy()
    codes[7] = 3
    warmup = parts.warmups[0]
    return {
        "items out of order": ({"items": ItemTable(ids[::-1], names, {})}, "items.json"),
        "an item twice": ({"items": ItemTable((ids[0], *ids[:-1]), names, {})}, "items.json"),
        "a name too few": ({"items": ItemTable(ids, names[1:], {})}, "items.json"),
        "fewer items than the state": (
            {"items": ItemTable(ids[1:], names[1:], {})}, "features.safetensors",
        ),
        "a code without a label": (
            {"groups": (replace(parts.groups[0], codes=codes), *parts.groups[1:])},
            "groups.safetensors",
        ),
        "codes for half of the items": (
            {"groups": (*parts.groups, GroupTable("half", ("a",), codes[:30]))},
            "groups.safetensors",
        ),
        "codes of another type": (
            {"groups": (*parts.groups, GroupTable("wide", ("a", "b", "c", "d"), codes.astype(np.int64)))},
            "groups.safetensors",
        ),
        "a label twice": (
            {"groups": (replace(parts.groups[0], labels=("a", "b", "a")), *parts.groups[1:])},
            "groups.json",
        ),
        "two tables of one name": ({"groups": (*parts.groups, parts.groups[0])}, "groups.json"),
        "no such default policy": ({"default_policy": "absent"}, "manifest.json"),
        "a policy under another name": (
            {"policies": {**parts.policies, "other": parts.policies["none"]}}, "policies/other.toml",
        ),
        "a policy that climbs out": (
            {"policies": {**parts.policies, "../x": parts.policies["none"]}}, "policies/'../x'",
        ),
        "a policy for a table that is not there": (
            {"groups": parts.groups[1:]}, "policies/crossed.toml",
        ),
        "a golden that is not a number": ({"golden_outputs": nan}, "goldens.safetensors"),
        "a golden that the model does not give": (
            {"golden_outputs": parts.golden_outputs + np.float32(2e-4)}, "goldens.safetensors",
        ),
        "goldens of another shape": (
            {"golden_outputs": parts.golden_outputs[:, :-1]}, "goldens.safetensors",
        ),
        "no goldens": (
            {
                "golden_inputs": {"features": parts.golden_inputs["features"][:0]},
                "golden_outputs": parts.golden_outputs[:0],
            },
            "goldens.safetensors",
        ),
        "no warm-up": ({"warmups": ()}, "warmups.json"),
        "a warm-up for an item that is not there": (
            {"warmups": (replace(warmup, expected_top=np.array([N_ITEMS], np.int32)),)},
            "warmups.json",
        ),
        "a warm-up that expects nothing": (
            {"warmups": (replace(warmup, expected_top=np.empty(0, np.int32)),)}, "warmups.json",
        ),
        "a warm-up before its own history": (
            {"warmups": (Warmup(warmup.history, 5, warmup.expected_top),)}, "warmups.json",
        ),
        "another opset than the model's": ({"opset": 19}, "model.onnx"),
        "another input than the model's": (
            {"golden_inputs": {"x": parts.golden_inputs["features"]}}, "goldens.safetensors",
        ),
        "goldens without the history": ({"history_length": 5}, "goldens.safetensors"),
        "neither features nor a length": ({"feature_names": ()}, "manifest.json"),
        "no model": ({"model": b""}, "model.onnx"),
        "features in another order": ({"feature_names": parts.feature_names[::-1]}, "manifest.json"),
        "a feature too few": ({"feature_names": parts.feature_names[:-1]}, "manifest.json"),
        "a batch of none": ({"best_batch": 0}, "manifest.json"),
        "a list at no cost at all": (
            {"measured_batches": (MeasuredBatch.model_construct(
                lists=1, candidates=1, list_us=-1.0),)}, "manifest.json",
        ),
        "more best sellers than novel candidates": (
            {"n_popular": parts.n_novel + 1}, "manifest.json",
        ),
        "an unknown kind of event": ({"positive_kinds": ("gaze",)}, "manifest.json"),
        "quality that is not a number": ({"quality": {"ndcg": float("nan")}}, "manifest.json"),
        "a name that is no file name": ({"name": "a/b"}, "manifest.json"),
    }  # fmt: skip


CASES = (
    "items out of order", "an item twice", "a name too few", "fewer items than the state",
    "a code without a label", "codes for half of the items", "codes of another type",
    "a label twice", "two tables of one name", "no such default policy",
    "a policy under another name", "a policy that climbs out",
    "a policy for a table that is not there", "a golden that is not a number",
    "a golden that the model does not give", "goldens of another shape", "no goldens",
    "no warm-up", "a warm-up for an item that is not there", "a warm-up that expects nothing",
    "a warm-up before its own history", "another opset than the model's",
    "another input than the model's", "goldens without the history", "neither features nor a length", "no model",
    "features in another order", "a feature too few", "a batch of none", "a list at no cost at all",
    "more best sellers than novel candidates", "an unknown kind of event", "quality that is not a number", "a name that is no file name",
)  # fmt: skip


def test_every_kind_of_broken_parts_is_listed(parts: BundleParts) -> None:
    assert tuple(broken_parts(parts)) == CASES


@pytest.mark.parametrize("case", CASES)
def test_parts_that_no_server_would_load_are_not_written(
    parts: BundleParts, tmp_path: Path, case: str
) -> None:
    changes, file = broken_parts(parts)[case]
    with pytest.raises(BundleRefused) as refused:
        write_bundle(replace(parts, **changes), tmp_path / "new" / "bundle")
    assert refused.value.file == file
    assert f"bundle refused: {file}: " in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_quality_of_any_json_form_is_kept(tmp_path: Path) -> None:
    quality = {"protocol": "weeks", "rows": [{"model": "mlp", "ndcg": [0.1, None, 3]}], "n": 2.0}
    tiny_bundle(tmp_path / "b", quality=quality)
    assert load_bundle(tmp_path / "b").manifest.quality == quality
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["quality"] == quality
