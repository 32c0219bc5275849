"""The manifest: what a bundle is, what it was made from, and the digest of every file in it.

Owns the schema and its canonical bytes. The bundle id is derived from the
manifest's own content, so a changed byte anywhere is another bundle or none.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.errors import BundleRefused, shown

SCHEMA_VERSION = 1
FILE = "manifest.json"
MAX_BYTES = 4 * 1024 * 1024

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileInfo(_Part):
    """One file of the bundle."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]


class ModelInfo(_Part):
    """The model and how to run it. `best_batch`: the batch size measured to be cheapest per list.
    `n_novel`: how many items outside the history the candidate generator adds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    family: str
    file: str
    digest: Digest
    input_name: str
    output_name: str
    opset: Annotated[int, Field(ge=1)]
    n_features: Annotated[int, Field(ge=1, le=10_000)]
    feature_names: tuple[str, ...]
    best_batch: Annotated[int, Field(ge=1, le=1024)]
    n_novel: Annotated[int, Field(ge=1, le=100_000)]


class DataInfo(_Part):
    """What the bundle was made from. Counts and a digest only: no user is in a bundle."""

    source: str
    until_unix_ms: Annotated[int, Field(ge=0)]
    users: Annotated[int, Field(ge=0)]
    items: Annotated[int, Field(ge=0)]
    interactions: Annotated[int, Field(ge=0)]
    digest: str


class Manifest(_Part):
    """The whole manifest. `quality`: measured figures by name, with what they were measured on."""

    schema_version: int
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    bundle_id: str
    created_unix_ms: Annotated[int, Field(ge=0)]
    data: DataInfo
    model: ModelInfo
    files: dict[str, FileInfo]
    default_policy: str
    positive_kinds: tuple[str, ...]
    horizon_days: Annotated[int, Field(ge=1)]
    quality: dict[str, Any]
    made_with: dict[str, str]


def bundle_id(name: str, content: dict[str, Any]) -> str:
    """The name and the first 12 hex digits of the digest of everything else in the manifest."""
    rest = {key: value for key, value in content.items() if key != "bundle_id"}
    return f"{name}-{hashlib.sha256(_canonical(rest)).hexdigest()[:12]}"


def _canonical(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=True) + "\n").encode()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one way to write this manifest."""
    return _canonical(manifest.model_dump(mode="json"))


def parse_manifest(raw: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises:
        BundleRefused: not JSON, another schema version, a key or value that is not allowed, an id
            that is not this content's, or bytes in another form than Equipoise writes.
    """
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise BundleRefused(FILE, f"not JSON: {error}") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise BundleRefused(
            FILE,
            f"schema_version: got {shown(version)}, this version of Equipoise reads "
            f"{SCHEMA_VERSION}: serve it with the version that made it, or train again",
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleRefused(
            FILE, f"{key}: got {shown(first['input'])}; {first['msg']}"
        ) from invalid
    expected = bundle_id(manifest.name, manifest.model_dump(mode="json"))
    if manifest.bundle_id != expected:
        raise BundleRefused(
            FILE, f"bundle_id: got {shown(manifest.bundle_id)}, its content gives {expected!r}"
        )
    if manifest_bytes(manifest) != raw:
        raise BundleRefused(FILE, "was edited: its bytes are not those that Equipoise wrote")
    return manifest
