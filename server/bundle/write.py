"""Parts -> a bundle on disk: verified in memory, written aside, fsynced, renamed into place.

A reader sees the old bundle or the new one. Replacing an existing folder takes
two renames; a crash exactly between them leaves the old one beside the target
under a name of its own, and no target.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from server.bundle.contents import BundleParts
from server.bundle.files import MODEL, decode, encode
from server.bundle.manifest import (
    FILE,
    SCHEMA_VERSION,
    FileInfo,
    Manifest,
    ModelInfo,
    bundle_id,
    manifest_bytes,
    parse_manifest,
)
from server.errors import Refused


def make_manifest(parts: BundleParts, files: dict[str, bytes]) -> Manifest:
    """The manifest that belongs to these parts and files."""
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=parts.name,
        bundle_id="",
        created_unix_ms=parts.created_unix_ms,
        data=parts.data,
        model=ModelInfo(
            family=parts.family,
            file=MODEL,
            digest=hashlib.sha256(parts.model).hexdigest(),
            input_name=parts.input_name,
            output_name=parts.output_name,
            opset=parts.opset,
            n_features=len(parts.feature_names),
            feature_names=parts.feature_names,
            best_batch=parts.best_batch,
            n_novel=parts.n_novel,
        ),
        files={
            name: FileInfo(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
            for name, content in sorted(files.items())
        },
        default_policy=parts.default_policy,
        positive_kinds=parts.positive_kinds,
        horizon_days=parts.horizon_days,
        quality=dict(parts.quality),
        made_with=dict(parts.made_with),
    )
    own_id = bundle_id(parts.name, manifest.model_dump(mode="json"))
    return manifest.model_copy(update={"bundle_id": own_id})


def write_bundle(parts: BundleParts, target: Path) -> Manifest:
    """Write a bundle and return its manifest.

    Raises:
        BundleRefused: the parts would not load; nothing is written.
        Refused: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    files = encode(parts)
    manifest = make_manifest(parts, files)
    raw = manifest_bytes(manifest)
    # What a server would refuse is refused here, before a byte is on disk.
    decode(parse_manifest(raw), files, max_count=200)
    aside = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        _write_all(aside, {**files, FILE: raw})
        _swap(aside, target)
    except OSError as error:
        raise Refused(
            f"cannot write the bundle {target}: {error.strerror}; nothing was changed"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return manifest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    for inner in {(folder / name).parent for name in files}:
        _sync_folder(inner)


def _swap(aside: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    if target.exists():
        target.rename(old)
    try:
        aside.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    _sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)
