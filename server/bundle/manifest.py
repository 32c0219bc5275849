"""The manifest: what a bundle is, what it was made from, and the digest of every file in it.

Owns the schema and its canonical bytes. The bundle id is derived from the
manifest's own content (the files' digests are part of it), and the bytes on
disk must be the canonical ones: a changed byte anywhere is another bundle or
none. That finds damage, not forgery: nothing is signed.

    manifest = parse_manifest(Path("bundle/manifest.json").read_bytes())
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from server.errors import BundleRefused, shown

SCHEMA_VERSION = 2
FILE = "manifest.json"
MAX_BYTES = 4 * 1024 * 1024

MOST_TOLERANCE = 0.05
"""A quantised model whose scores are off by more than this is refused."""

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Kind = Annotated[str, StringConstraints(pattern=r"^(view|click|cart|purchase)$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class FileInfo(_Part):
    """One file of the bundle."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0)]


class MeasuredBatch(_Part):
    """What a list of so many candidates cost the model, in a run of so many lists, on one thread."""

    lists: Annotated[int, Field(ge=1, le=1024)]
    candidates: Annotated[int, Field(ge=1, le=100_000)]
    list_us: Annotated[float, Field(ge=0)]


class Quantised(_Part):
    """That the model's weights are whole numbers of 8 bits, and what follows.

    operators: of which the weights are. source: the digest of the model that it was made of.
    golden_tolerance: how far goldens and warm-ups may be off: with ranges taken over all that shares a
    run, a score moves a little with its company. It is no word on quality; `quality.quantisation` is.
    """

    operators: Annotated[tuple[Name, ...], Field(min_length=1)]
    source: Digest
    golden_tolerance: Annotated[float, Field(gt=0, le=MOST_TOLERANCE)]


class Retrieval(_Part):
    """A graph beside the model that searches the whole catalogue for candidates.

    items: how many it gives. recall: what share of those that exact search gives, measured where the
    bundle was made.
    """

    file: Literal["retrieval.onnx"]
    items: Annotated[int, Field(ge=1, le=100_000)]
    recall: Annotated[float, Field(ge=0, le=1)]


Reads = Literal["pair-features", "history", "pair-features-and-history"]
NEEDS: Mapping[Reads, str] = {
    "pair-features": "features and no length",
    "history": "a history_length and no features",
    "pair-features-and-history": "features and a history_length",
}


def reads_of(n_features: int, history_length: int) -> Reads | None:
    """What a model with so many features and such a history reads; None where that is nothing."""
    if n_features and history_length:
        return "pair-features-and-history"
    if history_length:
        return "history"
    return "pair-features" if n_features else None


class ModelInfo(_Part):
    """The model and how to run it.

    reads: features of each candidate (`n_features` of them, `feature_names`); or the last
        `history_length` items of the history and the candidates; or all of these.
    best_batch: the batch size measured to be cheapest per list. n_novel: how many items outside
        the history the candidate generator adds. n_popular: how many of those are best sellers;
        bundles of before have none, and then it is not written.
    measured_batches: what that was chosen from, where the model was made; bundles of before have
        none, and then it is not written.
    quantised: None, and then not written, where the weights are as they were trained.
    retrieval: None, and then not written, where candidates come by item-item weights.
    """

    family: Name
    file: Literal["model.onnx"]
    digest: Digest
    reads: Reads
    opset: Annotated[int, Field(ge=1)]
    feature_names: tuple[Name, ...]
    history_length: Annotated[int, Field(ge=0, le=10_000)]
    best_batch: Annotated[int, Field(ge=1, le=1024)]
    n_novel: Annotated[int, Field(ge=1, le=100_000)]
    n_popular: Annotated[int, Field(ge=0)] = 0
    measured_batches: tuple[MeasuredBatch, ...] = ()
    quantised: Quantised | None = None
    retrieval: Retrieval | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = plain(self)
        if not self.measured_batches:
            del content["measured_batches"]
        if not self.n_popular:
            del content["n_popular"]
        if self.quantised is None:
            del content["quantised"]
        if self.retrieval is None:
            del content["retrieval"]
        return content

    @property
    def n_features(self) -> int:
        return len(self.feature_names)

    @model_validator(mode="after")
    def _best_sellers_among_the_novel(self) -> ModelInfo:
        if self.n_popular > self.n_novel:
            raise ValueError(
                f"n_popular {self.n_popular} beside n_novel {self.n_novel}, allowed: at most as many"
            )
        return self

    @model_validator(mode="after")
    def _only_histories_are_searched_for(self) -> ModelInfo:
        if self.retrieval is not None and not self.history_length:
            raise ValueError("retrieval beside history_length 0, allowed: with a history_length")
        return self

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> ModelInfo:
        if self.reads != reads_of(self.n_features, self.history_length):
            raise ValueError(
                f"{self.n_features} feature_names and history_length {self.history_length} beside "
                f"reads = {self.reads!r}, which needs {NEEDS[self.reads]}"
            )
        return self


class DataInfo(_Part):
    """What the bundle was made from. Counts and a digest only: no user is in a bundle."""

    source: str
    until_unix_ms: Annotated[int, Field(ge=0)]
    users: Annotated[int, Field(ge=0)]
    items: Annotated[int, Field(ge=0)]
    interactions: Annotated[int, Field(ge=0)]
    digest: str


class Manifest(_Part):
    """The whole manifest.

    files: every other file of the bundle, by its path in the folder.
    positive_kinds: which events make a history; the others are stored only.
    quality: measured figures by name, with what they were measured on.
    """

    schema_version: int
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    bundle_id: str
    created_unix_ms: Annotated[int, Field(ge=0)]
    data: DataInfo
    model: ModelInfo
    files: dict[str, FileInfo]
    default_policy: str
    positive_kinds: Annotated[tuple[Kind, ...], Field(min_length=1)]
    horizon_days: Annotated[int, Field(ge=1)]
    quality: dict[str, JsonValue]
    made_with: dict[str, str]


def bundle_id(name: str, content: dict[str, Any]) -> str:
    """The name and the first 12 hex digits of the digest of everything else in the manifest."""
    rest = {key: value for key, value in content.items() if key != "bundle_id"}
    return f"{name}-{hashlib.sha256(_canonical(rest)).hexdigest()[:12]}"


def _canonical(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return f"{text}\n".encode()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The one way to write this manifest."""
    return _canonical(manifest.model_dump(mode="json"))


def refusal(invalid: ValidationError) -> BundleRefused:
    """What pydantic found first, in our words."""
    first = invalid.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    seen = "" if first["type"] == "missing" else f"got {shown(first['input'])}; "
    return BundleRefused(FILE, f"{key}: {seen}{message}")


def parse_manifest(raw: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises:
        BundleRefused: not JSON, another schema version, a key or value that is not allowed, an id
            that is not this content's, or bytes in another form than Equipoise writes.
    """
    try:
        content = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
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
        raise refusal(invalid) from invalid
    expected = bundle_id(manifest.name, manifest.model_dump(mode="json"))
    if manifest.bundle_id != expected:
        raise BundleRefused(
            FILE,
            f"is damaged or was edited: bundle_id is {shown(manifest.bundle_id)}, "
            f"its content gives {expected!r}",
        )
    if manifest_bytes(manifest) != raw:
        raise BundleRefused(
            FILE, "is damaged or was edited: its bytes are not those that Equipoise writes"
        )
    return manifest


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
