"""A damaged byte anywhere is refused, with the file's name; so is anything that does not belong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from server.bundle import BundleParts, load_bundle, read_manifest
from server.bundle.files import FIXED_FILES
from server.bundle.manifest import parse_manifest
from server.errors import BundleRefused
from strategies.bundles import reseal

FILES = (*FIXED_FILES, "policies/none.toml", "policies/tiers.toml")
SAMPLED_BYTES = 40


def refused_file(folder: Path) -> str:
    with pytest.raises(BundleRefused) as refused:
        load_bundle(folder)
    return refused.value.file


def flipped(raw: bytes, place: int, bit: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ (1 << bit)]) + raw[place + 1 :]


def test_every_byte_of_the_manifest_counts(folder: Path) -> None:
    raw = (folder / "manifest.json").read_bytes()
    parse_manifest(raw)
    told = []
    for place in range(len(raw)):
        # The lowest bit turns a digit into another one, the sixth an upper-case letter into a lower.
        for bit in (0, 5):
            with pytest.raises(BundleRefused) as refused:
                parse_manifest(flipped(raw, place, bit))
            told.append(refused.value.file)
    assert told == ["manifest.json"] * 2 * len(raw)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_refused_with_the_files_name(folder: Path, file: str) -> None:
    rng = np.random.default_rng(len(file))
    raw = (folder / file).read_bytes()
    places = {0, len(raw) - 1, *rng.integers(0, len(raw), SAMPLED_BYTES).tolist()}
    refused = []
    for place in places:
        (folder / file).write_bytes(flipped(raw, place, int(rng.integers(8))))
        refused.append(refused_file(folder))
    assert refused == [file] * len(places)
    (folder / file).write_bytes(raw)
    assert load_bundle(folder).manifest.name == "tiny"


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_truncated_or_lengthened_file_is_refused_with_its_name(folder: Path, file: str) -> None:
    raw = (folder / file).read_bytes()
    for changed in (b"", raw[: len(raw) // 2], raw[:-1], raw + b"\n"):
        (folder / file).write_bytes(changed)
        assert refused_file(folder) == file


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused_with_its_name(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert refused_file(folder) == file


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_refused_although_the_manifest_agrees(folder: Path, file: str) -> None:
    (folder / file).unlink()
    reseal(folder)
    if file == "policies/none.toml":  # a bundle may have other policies; its default must be there
        assert "none" not in load_bundle(folder).policies
    else:
        assert refused_file(folder) == ("manifest.json" if file.startswith("policies") else file)


@pytest.mark.parametrize("file", ["notes.txt", ".DS_Store", "policies/x.txt", "policies/y.toml"])
def test_a_foreign_file_is_refused_with_its_name(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"")
    assert refused_file(folder) == file


def test_a_foreign_file_is_refused_although_the_manifest_lists_it(folder: Path) -> None:
    reseal(folder, {"weights.bin": b"1"})
    assert refused_file(folder) == "weights.bin"


def test_a_foreign_folder_is_refused_even_when_empty(folder: Path) -> None:
    (folder / "cache").mkdir()
    assert refused_file(folder) == "cache"
    (folder / "cache").rmdir()
    (folder / "policies" / "old").mkdir()
    assert refused_file(folder) == "policies/old"


@pytest.mark.parametrize("file", [*FILES, "manifest.json"])
def test_a_link_to_the_right_bytes_is_refused(folder: Path, tmp_path: Path, file: str) -> None:
    outside = tmp_path / "outside"
    shutil.move(folder / file, outside)
    (folder / file).symlink_to(outside)
    with pytest.raises(BundleRefused, match="is a link") as refused:
        load_bundle(folder)
    assert refused.value.file == file


def test_a_linked_policies_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "policies", tmp_path / "outside")
    (folder / "policies").symlink_to(tmp_path / "outside")
    assert refused_file(folder) == "policies"


def test_a_link_to_the_whole_bundle_is_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(folder)
    assert load_bundle(tmp_path / "current").manifest == load_bundle(folder).manifest


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(folder: Path, file: str) -> None:
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert refused_file(folder) == file


def outside_path(path: str) -> Callable[[dict[str, object]], None]:
    def change(manifest: dict[str, object]) -> None:
        files = manifest["files"]
        assert isinstance(files, dict)
        files[path] = files["model.onnx"]

    return change


def test_a_manifest_that_points_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.onnx", tmp_path / "model.onnx")
    for path in ("../model.onnx", str(tmp_path / "model.onnx"), "policies/../../model.onnx"):
        reseal(folder, change=outside_path(path))
        assert refused_file(folder) == path


@pytest.mark.parametrize("version", [1, 0, None, "2", 1.5, [2]])
def test_another_schema_version_is_refused_naming_both(folder: Path, version: object) -> None:
    reseal(folder, change=lambda manifest: manifest.update(schema_version=version))
    with pytest.raises(BundleRefused) as refused:
        load_bundle(folder)
    assert refused.value.file == "manifest.json"
    assert f"schema_version: got {version!r}, this version of Equipoise reads 2" in str(
        refused.value
    )


def test_an_unknown_key_of_the_manifest_is_refused_by_name(folder: Path) -> None:
    reseal(folder, change=lambda manifest: manifest["model"].update(colour="red"))
    with pytest.raises(BundleRefused, match=r"manifest.json: model.colour: got 'red'"):
        load_bundle(folder)


def test_the_same_manifest_in_other_bytes_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    content = json.loads(path.read_bytes())
    for text in (
        json.dumps(content, sort_keys=True),
        json.dumps(content, indent=1),
        path.read_text() + "\n",
        path.read_text().replace('"opset": 20', '"opset": 20.0'),
    ):
        with pytest.raises(BundleRefused) as refused:
            parse_manifest(text.encode())
        assert refused.value.file == "manifest.json"


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":NaN}']
)
def test_what_is_no_manifest_is_refused(folder: Path, raw: bytes) -> None:
    (folder / "manifest.json").write_bytes(raw)
    assert refused_file(folder) == "manifest.json"


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.onnx").write_bytes(b"x")
    told = {}
    for name in ("empty", "file", "foreign", "absent"):
        with pytest.raises(BundleRefused) as refused:
            load_bundle(tmp_path / name)
        told[name] = str(refused.value).removeprefix("bundle refused: ")
    assert told == {
        "empty": f"manifest.json: is missing: {tmp_path}/empty is not a bundle",
        "file": f"{tmp_path}/file: is not a folder",
        "foreign": f"manifest.json: is missing: {tmp_path}/foreign is not a bundle",
        "absent": f"{tmp_path}/absent: does not exist",
    }


def test_the_manifest_alone_can_be_read_of_a_damaged_bundle(folder: Path) -> None:
    before = load_bundle(folder).manifest
    (folder / "model.onnx").unlink()
    assert read_manifest(folder) == before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("items.json", b"[]"),
        ("items.json", b'{"ids": ["a"]}'),
        ("items.json", b'{"ids": "abc", "names": "abc", "attributes": {}}'),
        ("items.json", b'{"ids": ["\\ud800"], "names": ["x"], "attributes": {}}'),
        ("items.json", b"[" * 100_000),
        ("groups.json", b"[1]"),
        ("groups.json", b'{"brand": "ab", "category": ["x"], "provider_tier": ["y"]}'),
        ("groups.safetensors", b"\xff" * 64),
        ("features.safetensors", b""),
        ("goldens.safetensors", b"\x10\0\0\0\0\0\0\0{}              "),
        ("warmups.json", b"{}"),
        ("warmups.json", b"[{}]"),
        (
            "warmups.json",
            b'[{"items":[1.5],"times_ms":[1],"quantities":[1],"now_ms":2,"expected_top":[1]}]',
        ),
        (
            "warmups.json",
            b'[{"items":[1],"times_ms":[1],"quantities":[1],"now_ms":2,"expected_top":[1,1]}]',
        ),
        (
            "warmups.json",
            b'[{"items":[1],"times_ms":[1],"quantities":[1,2],"now_ms":2,"expected_top":[1]}]',
        ),
        ("policies/none.toml", b"\xff"),
        ("policies/none.toml", b'name = "none"'),
        ("model.onnx", b"not a model"),
    ],
)
def test_content_of_another_form_is_refused_although_digests_are_right(
    folder: Path, file: str, content: bytes
) -> None:
    reseal(folder, {file: content})
    assert refused_file(folder) == file


def test_a_model_digest_that_is_not_the_models_is_refused(folder: Path) -> None:
    reseal(folder, change=lambda manifest: manifest["model"].update(digest="0" * 64))
    with pytest.raises(BundleRefused, match=r"manifest\.json: model\.digest"):
        load_bundle(folder)


def test_an_array_that_the_features_do_not_know_is_refused(
    folder: Path, parts: BundleParts
) -> None:
    arrays = {**parts.state.to_arrays(), "histories": np.arange(3)}
    reseal(folder, {"features.safetensors": save(arrays)})
    with pytest.raises(BundleRefused, match="histories: is no array of the feature state"):
        load_bundle(folder)
