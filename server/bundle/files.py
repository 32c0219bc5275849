"""The contents of a bundle <-> the bytes of its files. No disk, no digests.

Owns the form of each file. Reading checks everything that a file can say wrong
and names it; what is read back equals what was written.

    files = encode(parts)                       # {"items.json": b"...", ...}
    bundle = decode(manifest, files, max_count=200)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from server.bundle.contents import Bundle, BundleParts, GroupTable, ItemTable, Warmup
from server.bundle.golden import TOLERANCE, replay
from server.bundle.inputs import ports_of, retriever_for
from server.bundle.manifest import FILE, Manifest
from server.bundle.onnx_check import check_model
from server.errors import BundleRefused, EquipoiseError, listed, shown
from server.fairness import CompiledPolicy, compile_tables, parse_policy
from server.features import FEATURE_NAMES, FeatureState
from server.features.types import History
from server.model import OnnxScorer

MODEL: Final = "model.onnx"
RETRIEVAL: Final = "retrieval.onnx"
FEATURES = "features.safetensors"
ITEMS = "items.json"
GROUP_LABELS = "groups.json"
GROUP_CODES = "groups.safetensors"
GOLDENS = "goldens.safetensors"
OUTPUTS = "outputs"
WARMUPS = "warmups.json"
CARD = "MODEL_CARD.md"
POLICIES = "policies/"
FIXED_FILES = (MODEL, FEATURES, ITEMS, GROUP_LABELS, GROUP_CODES, GOLDENS, WARMUPS, CARD)

T = TypeVar("T")


def encode(parts: BundleParts) -> dict[str, bytes]:
    """Every file but the manifest, by path. Says nothing about whether it would load.

    Raises:
        BundleRefused: a part that has no form in a file, such as a policy named "../x".
    """
    attributes = {name: parts.items.attributes[name] for name in sorted(parts.items.attributes)}
    items = {"ids": parts.items.ids, "names": parts.items.names, "attributes": attributes}
    groups = sorted(parts.groups, key=lambda table: table.name)
    files = {
        MODEL: parts.model,
        FEATURES: _tensors(FEATURES, parts.state.to_arrays()),
        ITEMS: _json(ITEMS, items),
        GROUP_LABELS: _json(GROUP_LABELS, {table.name: table.labels for table in groups}),
        GROUP_CODES: _tensors(GROUP_CODES, {table.name: table.codes for table in groups}),
        GOLDENS: _tensors(GOLDENS, {**parts.golden_inputs, OUTPUTS: parts.golden_outputs}),
        WARMUPS: _json(WARMUPS, [_warmup_document(warmup) for warmup in parts.warmups]),
        CARD: parts.model_card.encode(),
    }
    if parts.retrieval is not None:
        files[RETRIEVAL] = parts.retrieval[1]
    if len({table.name for table in groups}) != len(groups):
        raise BundleRefused(GROUP_LABELS, "two group tables have one name")
    for name, text in sorted(parts.policies.items()):
        if not name or "/" in name or "\0" in name:
            raise BundleRefused(f"{POLICIES}{shown(name)}", "is no name for a policy")
        files[f"{POLICIES}{name}.toml"] = text.encode()
    return files


def decode(manifest: Manifest, files: Mapping[str, bytes], max_count: int) -> Bundle:
    """A bundle from the bytes of its files, with the goldens replayed.

    Raises:
        BundleRefused: which file, and why.
    """
    _check_names(files, manifest.model.retrieval is not None)
    items = _read(ITEMS, lambda: _items(json.loads(files[ITEMS])))
    n_items = len(items.ids)
    state = _read(FEATURES, lambda: _state(files[FEATURES], n_items))
    groups = _groups(files, n_items)
    policies = _policies(files, groups, max_count)
    if manifest.default_policy not in policies:
        raise BundleRefused(
            FILE, f"default_policy: got {manifest.default_policy!r}; there are: {listed(policies)}"
        )
    warmups = _read(WARMUPS, lambda: _warmups(json.loads(files[WARMUPS]), n_items))
    names = {port.name for port in ports_of(manifest.model)}
    goldens = _read(GOLDENS, lambda: _arrays(files[GOLDENS], {*names, OUTPUTS}))
    outputs = goldens.pop(OUTPUTS)
    scorer = _scorer(manifest, files[MODEL])
    quantised = manifest.model.quantised
    tolerance = TOLERANCE if quantised is None else quantised.golden_tolerance
    _read(GOLDENS, lambda: replay(scorer, goldens, outputs, tolerance))
    retrieval = files.get(RETRIEVAL)
    if retrieval is not None:
        _read(RETRIEVAL, lambda: check_model(retrieval))
        _read(RETRIEVAL, lambda: retriever_for(manifest.model, retrieval, n_items))
    return Bundle(
        manifest=manifest,
        items=items,
        groups=groups,
        policies=policies,
        state=state,
        model=files[MODEL],
        golden_inputs=goldens,
        golden_outputs=outputs,
        warmups=warmups,
        retrieval=retrieval,
    )


# Writing.


def _json(file: str, value: object) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return f"{text}\n".encode()
    except (TypeError, ValueError) as error:
        raise BundleRefused(file, str(error)) from error


def _tensors(file: str, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    try:
        # It writes an array's memory as it lies, so the order of the axes has to be C's.
        raw: bytes = safetensors.numpy.save(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        )
    except Exception as error:  # its own exceptions derive from Exception only
        raise BundleRefused(file, str(error)) from error
    return raw


def _warmup_document(warmup: Warmup) -> dict[str, Any]:
    return {
        "items": warmup.history.items.tolist(),
        "times_ms": warmup.history.times_ms.tolist(),
        "quantities": warmup.history.quantities.tolist(),
        "now_ms": warmup.now_ms,
        "expected_top": warmup.expected_top.tolist(),
    }


# Reading.


def _read(file: str, read: Callable[[], T]) -> T:
    """What `read` gives; whatever it finds wrong is told with the file's name."""
    try:
        return read()
    except BundleRefused:
        raise
    except KeyError as error:
        raise BundleRefused(file, f"no key {error}") from error
    except (EquipoiseError, ValueError) as error:
        raise BundleRefused(file, str(error)) from error
    except Exception as error:
        # A file of another form than expected: lists where there are objects, a tensor file cut
        # short (safetensors' own exceptions derive from Exception only), nesting without end.
        raise BundleRefused(file, f"{type(error).__name__}: {error}") from error


def _check_names(files: Mapping[str, bytes], retrieval: bool) -> None:
    wanted = {*FIXED_FILES, *([RETRIEVAL] if retrieval else [])}
    for name in sorted(wanted):
        if name not in files:
            raise BundleRefused(name, "is missing from the manifest")
    for name in sorted(files.keys() - wanted):
        if not (name.startswith(POLICIES) and name.endswith(".toml")):
            raise BundleRefused(name, "does not belong to a bundle")


def _state(raw: bytes, n_items: int) -> FeatureState:
    arrays = safetensors.numpy.load(raw)
    state = FeatureState.from_arrays(arrays)
    foreign = arrays.keys() - state.to_arrays().keys()
    if foreign:
        raise ValueError(f"{min(foreign)}: is no array of the feature state")
    if state.n_items != n_items:
        raise ValueError(f"{state.n_items} items, {ITEMS} has {n_items}")
    return state


def _arrays(raw: bytes, names: set[str]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(raw)
    if arrays.keys() != names:
        raise ValueError(f"arrays {listed(arrays)}, expected {listed(names)}")
    return arrays


def _texts(name: str, values: Any, length: int | None = None) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise ValueError(f"{name}: must be a list of texts")
    if length is not None and len(values) != length:
        raise ValueError(f"{name}: {len(values)} entries, there are {length} ids")
    "".join(values).encode()  # half a surrogate pair could not be sent
    return tuple(values)


def _items(document: Any) -> ItemTable:
    ids = _texts("ids", document["ids"])
    if not ids or not all(ids):
        raise ValueError("ids: at least one, none empty")
    for first, second in pairwise(ids):
        if first >= second:
            raise ValueError(
                f"ids: must be sorted, none twice: got {shown(first)} before {shown(second)}"
            )
    return ItemTable(
        ids,
        _texts("names", document["names"], len(ids)),
        {name: _texts(name, column, len(ids)) for name, column in document["attributes"].items()},
    )


def _groups(files: Mapping[str, bytes], n_items: int) -> dict[str, GroupTable]:
    labels = _read(
        GROUP_LABELS,
        lambda: {
            name: _texts(name, texts) for name, texts in json.loads(files[GROUP_LABELS]).items()
        },
    )
    codes = _read(GROUP_CODES, lambda: _arrays(files[GROUP_CODES], set(labels)))
    for name, texts in labels.items():
        if not texts or not all(texts) or len(set(texts)) != len(texts):
            raise BundleRefused(
                GROUP_LABELS, f"{name}: labels: at least one, none empty, none twice"
            )
    return _read(
        GROUP_CODES,
        lambda: {
            name: _group_table(name, labels[name], codes[name], n_items) for name in sorted(labels)
        },
    )


def _group_table(
    name: str, labels: tuple[str, ...], codes: NDArray[Any], n_items: int
) -> GroupTable:
    if codes.dtype != np.int32 or codes.shape != (n_items,):
        raise ValueError(
            f"{name}: got {codes.dtype} {list(codes.shape)}, expected int32 [{n_items}]"
        )
    if codes.min() < 0 or codes.max() >= len(labels):
        raise ValueError(
            f"{name}: codes from {codes.min()} to {codes.max()}, allowed: 0 to {len(labels) - 1}"
        )
    return GroupTable(name, labels, codes)


def _policies(
    files: Mapping[str, bytes], groups: Mapping[str, GroupTable], max_count: int
) -> dict[str, CompiledPolicy]:
    tables = {name: table.sizes for name, table in groups.items()}

    def read(path: str) -> CompiledPolicy:
        policy = parse_policy(files[path].decode(), path)
        if path != f"{POLICIES}{policy.name}.toml":
            raise ValueError(f"name: got {policy.name!r}, but the file is {path}")
        return compile_tables(policy, tables, max_count)

    paths = sorted(path for path in files if path.startswith(POLICIES))
    compiled = [_read(path, lambda path=path: read(path)) for path in paths]  # type: ignore[misc]
    return {one.policy.name: one for one in compiled}


def _warmups(documents: Any, n_items: int) -> tuple[Warmup, ...]:
    if not isinstance(documents, list) or not documents:
        raise ValueError("must be a list of at least one request")
    made = []
    for number, document in enumerate(documents):
        try:
            made.append(_warmup(document, n_items))
        except ValueError as error:
            raise ValueError(f"request {number}: {error}") from error
    return tuple(made)


def _warmup(document: Any, n_items: int) -> Warmup:
    items = _integers(document, "items", n_items - 1).astype(np.int32)
    top = _integers(document, "expected_top", n_items - 1).astype(np.int32)
    times_ms = _integers(document, "times_ms", 2**62)
    now_ms = int(_integers({"now_ms": [document["now_ms"]]}, "now_ms", 2**62)[0])
    quantities = np.array(document["quantities"], np.float32)
    if not np.isfinite(quantities).all() or not items.shape == times_ms.shape == quantities.shape:
        raise ValueError("items, times_ms and quantities must be of one length, and finite")
    if len(times_ms) and times_ms.max() > now_ms:
        raise ValueError(f"now_ms: got {now_ms}, before the last event ({times_ms.max()})")
    if not len(top) or len(np.unique(top)) != len(top):
        raise ValueError("expected_top: at least one item, none twice")
    return Warmup(History.of(items, times_ms, quantities), now_ms, top)


def _integers(document: Any, key: str, highest: int) -> NDArray[np.int64]:
    values = document[key]
    # numpy would cut 1.5 to 1, and True is an int.
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{key}: must be a list of integers")
    if values and not 0 <= min(values) <= max(values) <= highest:
        raise ValueError(f"{key}: got {min(values)} to {max(values)}, allowed: 0 to {highest}")
    return np.array(values, np.int64)


def _scorer(manifest: Manifest, model: bytes) -> OnnxScorer:
    """The model as the server will load it, once it is what the manifest says."""
    info = manifest.model
    if info.digest != manifest.files[MODEL].sha256:
        raise BundleRefused(FILE, f"model.digest: is not the SHA-256 of {MODEL}")
    if info.feature_names and info.feature_names != FEATURE_NAMES:
        raise BundleRefused(FILE, f"model.feature_names: {_first_difference(info.feature_names)}")
    opset = _read(MODEL, lambda: check_model(model))
    if opset != info.opset:
        raise BundleRefused(MODEL, f"opset {opset}, the manifest says {info.opset}")
    return _read(
        MODEL,
        lambda: OnnxScorer(model, ports_of(info)),
    )


def _first_difference(names: tuple[str, ...]) -> str:
    for place, (got, own) in enumerate(zip(names, FEATURE_NAMES, strict=False)):
        if got != own:
            return f"place {place}: the model reads {got!r}, this server computes {own!r}"
    return f"the model reads {len(names)}, this server computes {len(FEATURE_NAMES)}"
