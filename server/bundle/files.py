"""The contents of a bundle <-> the bytes of its files. No disk, no digests.

Owns the form of each file. Reading checks everything that a file can say wrong
and names it; what is read back equals what was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from server.bundle.contents import Bundle, BundleParts, GroupTable, ItemTable, Warmup
from server.bundle.manifest import Manifest
from server.bundle.onnx_check import check_model
from server.errors import BundleRefused, EquipoiseError, listed
from server.fairness import CompiledPolicy, compile_policy, parse_policy
from server.features import FeatureState
from server.features.types import History
from server.model import OnnxScorer

MODEL = "model.onnx"
FEATURES = "features.safetensors"
ITEMS = "items.json"
GROUP_LABELS = "groups.json"
GROUP_CODES = "groups.safetensors"
GOLDENS = "goldens.safetensors"
WARMUPS = "warmups.json"
CARD = "MODEL_CARD.md"
POLICIES = "policies/"
# How far a model's answer may stray from the recorded one on another processor.
TOLERANCE = 1e-4

T = TypeVar("T")


def _json(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def encode(parts: BundleParts) -> dict[str, bytes]:
    """Every file but the manifest, by path."""
    files = {
        MODEL: parts.model,
        FEATURES: safetensors.numpy.save(parts.state.to_arrays()),
        ITEMS: _json(
            {
                "ids": parts.items.ids,
                "names": parts.items.names,
                "attributes": {
                    name: parts.items.attributes[name] for name in parts.items.attributes
                },
            }
        ),
        GROUP_LABELS: _json({table.name: table.labels for table in parts.groups}),
        GROUP_CODES: safetensors.numpy.save(
            {table.name: table.codes.astype(np.int32) for table in parts.groups}
        ),
        GOLDENS: safetensors.numpy.save(
            {"inputs": parts.golden_inputs, "outputs": parts.golden_outputs}
        ),
        WARMUPS: _json([_warmup_document(warmup) for warmup in parts.warmups]),
        CARD: parts.model_card.encode(),
    }
    files |= {f"{POLICIES}{name}.toml": text.encode() for name, text in parts.policies.items()}
    return files


def _warmup_document(warmup: Warmup) -> dict[str, Any]:
    return {
        "items": warmup.history.items.tolist(),
        "times_ms": warmup.history.times_ms.tolist(),
        "quantities": warmup.history.quantities.tolist(),
        "now_ms": warmup.now_ms,
        "expected_top": warmup.expected_top.tolist(),
    }


def _read(file: str, read: Callable[[], T]) -> T:
    """What `read` gives; whatever it finds wrong is told with the file's name."""
    try:
        return read()
    except BundleRefused:
        raise
    except (EquipoiseError, ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        told = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise BundleRefused(file, told) from error
    except Exception as error:
        # safetensors has exceptions of its own that derive from Exception only.
        raise BundleRefused(file, f"{type(error).__name__}: {error}") from error


def decode(manifest: Manifest, files: Mapping[str, bytes], max_count: int) -> Bundle:
    """A bundle from the bytes of its files, with the goldens replayed.

    Raises:
        BundleRefused: which file, and why.
    """
    for name in (MODEL, FEATURES, ITEMS, GROUP_LABELS, GROUP_CODES, GOLDENS, WARMUPS, CARD):
        if name not in files:
            raise BundleRefused(name, "is missing")
    items = _read(ITEMS, lambda: _items(json.loads(files[ITEMS])))
    state = _read(
        FEATURES, lambda: FeatureState.from_arrays(safetensors.numpy.load(files[FEATURES]))
    )
    if state.n_items != len(items.ids):
        raise BundleRefused(FEATURES, f"{state.n_items} items, {ITEMS} has {len(items.ids)}")
    labels = _read(GROUP_LABELS, lambda: dict(json.loads(files[GROUP_LABELS])))
    codes = _read(GROUP_CODES, lambda: safetensors.numpy.load(files[GROUP_CODES]))
    if set(labels) != set(codes):
        raise BundleRefused(
            GROUP_CODES, f"tables {listed(codes)}, {GROUP_LABELS} has {listed(labels)}"
        )
    groups = _read(
        GROUP_CODES,
        lambda: {
            name: _group_table(name, labels[name], codes[name], len(items.ids))
            for name in sorted(labels)
        },
    )
    policies = _policies(files, groups, max_count)
    if manifest.default_policy not in policies:
        raise BundleRefused(
            "manifest.json",
            f"default_policy: got {manifest.default_policy!r}; there are: {listed(policies)}",
        )
    goldens = _read(GOLDENS, lambda: safetensors.numpy.load(files[GOLDENS]))
    bundle = Bundle(
        manifest=manifest,
        items=items,
        groups=groups,
        policies=policies,
        state=state,
        model=files[MODEL],
        golden_inputs=_read(GOLDENS, lambda: goldens["inputs"]),
        golden_outputs=_read(GOLDENS, lambda: goldens["outputs"]),
        warmups=_read(
            WARMUPS, lambda: tuple(_warmup(w, len(items.ids)) for w in json.loads(files[WARMUPS]))
        ),
    )
    _replay(bundle)
    return bundle


def _items(document: Any) -> ItemTable:
    table = ItemTable(
        tuple(document["ids"]),
        tuple(document["names"]),
        {name: tuple(column) for name, column in document["attributes"].items()},
    )
    n = len(table.ids)
    for name, column in {"names": table.names, **table.attributes}.items():
        if len(column) != n:
            raise ValueError(f"{name}: {len(column)} entries, there are {n} ids")
        if not all(isinstance(text, str) for text in column):
            raise ValueError(f"{name}: holds an entry that is not text")
    if not n or any(not isinstance(item, str) or not item for item in table.ids):
        raise ValueError("ids: must be texts, at least one, none empty")
    if any(first >= second for first, second in zip(table.ids, table.ids[1:], strict=False)):
        raise ValueError("ids: must be sorted, none twice")
    return table


def _group_table(name: str, labels: Any, codes: NDArray[Any], n_items: int) -> GroupTable:
    texts = tuple(labels)
    if not texts or len(set(texts)) != len(texts) or not all(isinstance(t, str) for t in texts):
        raise ValueError(f"{name}: labels must be texts, at least one, none twice")
    if codes.dtype != np.int32 or codes.shape != (n_items,):
        raise ValueError(
            f"{name}: got {codes.dtype} {list(codes.shape)}, expected int32 [{n_items}]"
        )
    if codes.min() < 0 or codes.max() >= len(texts):
        raise ValueError(f"{name}: a code is outside 0 to {len(texts) - 1}")
    return GroupTable(name, texts, codes)


def _policies(
    files: Mapping[str, bytes], groups: Mapping[str, GroupTable], max_count: int
) -> dict[str, CompiledPolicy]:
    policies: dict[str, CompiledPolicy] = {}
    for path in sorted(path for path in files if path.startswith(POLICIES)):

        def read(path: str = path) -> CompiledPolicy:
            policy = parse_policy(files[path].decode(), path)
            if path != f"{POLICIES}{policy.name}.toml":
                raise ValueError(f"name: got {policy.name!r}, the file is {path}")
            if policy.kind != "none" and policy.group_table not in groups:
                raise ValueError(
                    f"group_table: got {policy.group_table!r}; there are: {listed(groups)}"
                )
            labels = () if policy.kind == "none" else groups[policy.group_table].labels
            return compile_policy(policy, labels, max_count)

        policies[path.removeprefix(POLICIES).removesuffix(".toml")] = _read(path, read)
    return policies


def _warmup(document: Any, n_items: int) -> Warmup:
    items = np.array(document["items"], np.int32)
    top = np.array(document["expected_top"], np.int32)
    for name, indices in (("items", items), ("expected_top", top)):
        if len(indices) and (indices.min() < 0 or indices.max() >= n_items):
            raise ValueError(f"{name}: an index is outside 0 to {n_items - 1}")
    times_ms = np.array(document["times_ms"], np.int64)
    quantities = np.array(document["quantities"], np.float32)
    if not len(items) == len(times_ms) == len(quantities):
        raise ValueError("items, times_ms and quantities must be of one length")
    return Warmup(History.of(items, times_ms, quantities), int(document["now_ms"]), top)


def _replay(bundle: Bundle) -> None:
    """Load the model as the server will, and compare its answers with the recorded ones."""
    model = bundle.manifest.model
    opset = _read(MODEL, lambda: check_model(bundle.model))
    if opset != model.opset:
        raise BundleRefused(MODEL, f"opset {opset}, the manifest says {model.opset}")
    if len(model.feature_names) != model.n_features:
        raise BundleRefused(
            "manifest.json",
            f"{len(model.feature_names)} feature names, n_features is {model.n_features}",
        )
    scorer = _read(
        MODEL,
        lambda: OnnxScorer(
            bundle.model,
            input_name=model.input_name,
            output_name=model.output_name,
            n_features=model.n_features,
        ),
    )
    recorded = bundle.golden_outputs
    given = _read(GOLDENS, lambda: scorer.score(bundle.golden_inputs))
    if recorded.shape != given.shape or not recorded.size:
        raise BundleRefused(
            GOLDENS, f"outputs {list(recorded.shape)}, the model gives {list(given.shape)}"
        )
    if not (np.isfinite(recorded).all() and np.isfinite(given).all()):
        raise BundleRefused(GOLDENS, "a score is not finite")
    worst = float(np.abs(recorded - given).max())
    if worst > TOLERANCE:
        raise BundleRefused(
            GOLDENS,
            f"the model's answers differ by {worst:.2g} from the recorded ones, allowed: {TOLERANCE}",
        )
