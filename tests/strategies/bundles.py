"""A tiny, valid bundle for the tests of every room: 60 items and a model made without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from server.bundle import (
    BundleParts,
    DataInfo,
    GroupTable,
    ItemTable,
    Manifest,
    Warmup,
    ports_for,
    write_bundle,
)
from server.bundle.manifest import bundle_id
from server.features import (
    FEATURE_NAMES,
    N_FEATURES,
    FeatureState,
    SparseWeights,
    generate_candidates,
    pair_features,
)
from server.features.sequence import sequence
from server.features.types import DAY_MS, History
from server.model import OnnxScorer, pair_ports
from strategies.fairness import document

N_ITEMS = 60
N_NOVEL = 20
HISTORY_LENGTH = 5
DATA_UNTIL_MS = 1_500_000_000_000
TIERS = ("large", "medium", "small")


def tiny_state(rng: np.random.Generator) -> FeatureState:
    """Item statistics that look like a shop's: popularity falls, neighbours are near."""
    popularity = np.log1p(np.linspace(900, 10, N_ITEMS)).astype(np.float32)
    neighbours = [
        [(j, float(rng.random())) for j in range(max(0, i - 4), min(N_ITEMS, i + 5)) if j != i]
        for i in range(N_ITEMS)
    ]
    weights = SparseWeights.of_rows(neighbours)
    return FeatureState(
        popularity=popularity,
        popularity_recent=(popularity * 0.4).astype(np.float32),
        repeat_rate=rng.random(N_ITEMS).astype(np.float32),
        gap_days=(5 + 20 * rng.random(N_ITEMS)).astype(np.float32),
        private_label=(np.arange(N_ITEMS) % 4 == 0).astype(np.float32),
        category=(np.arange(N_ITEMS) % 6).astype(np.int32),
        department=(np.arange(N_ITEMS) % 3).astype(np.int32),
        provider=(np.arange(N_ITEMS) % 10).astype(np.int32),
        popular=np.arange(N_ITEMS, dtype=np.int32),
        ease=weights,
        cosine=weights,
    )


ADDED = ("ease_4w", "ease_1w")
"""Beside each other; they weigh nothing, so that the tiny model's lists are those of before them."""


def tiny_model(rng: np.random.Generator, n_features: int = N_FEATURES) -> bytes:
    """sigmoid(relu(x A) b): `[batch, n, n_features]` -> `[batch, n]`, both axes dynamic."""
    added = [FEATURE_NAMES.index(name) for name in ADDED] if n_features == N_FEATURES else []
    drawn = rng.normal(0, 0.3, (n_features - len(added), 8))
    weights = {
        "a": np.insert(drawn, [min(added)] * len(added) if added else [], 0, axis=0).astype(
            np.float32
        ),
        "b": rng.normal(0, 0.3, (8, 1)).astype(np.float32),
        "last": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["features", "a"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "b"], ["wide"]),
        helper.make_node("Squeeze", ["wide", "last"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", "n", n_features])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "n"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    raw: bytes = model.SerializeToString()
    return raw


CALIBRATED = document(
    "calibrated", '[calibrated]\nat_least = "1/2"\nat_most = "3/2"\nsmoothing = 4\n'
).replace('"t"', '"category"')
INTERSECTION = document(
    "intersection",
    '[intersection.provider_tier]\nsmall = "1/5"\n[intersection.brand]\nPrivate = "2/5"\n',
).replace('group_table = "t"\n', "")
STACK = document(
    "stack",
    """[[stack]]
kind = "floors"
group_table = "provider_tier"
floors = {small = "1/5"}
[[stack]]
kind = "cap"
group_table = "category"
cap = {at_most = 3, within_first = 10}
[[stack]]
kind = "cap"
group_table = "provider_tier"
cap = {at_most = 12, within_first = 15, groups = ["large"]}
""",
).replace('group_table = "t"\n', "")


OVER_TIME = document(
    "stack",
    """[[stack]]
kind = "amortised"
group_table = "provider_tier"
amortised = {method = "p_mmf", strength = "1/5", lists = 5}
[[stack]]
kind = "cap"
group_table = "category"
cap = {at_most = 4, within_first = 20}
""",
).replace('group_table = "t"\n', "")
DIVERSE = document("diverse", '[diverse]\nmethod = "dpp"\ntrade_off = "1/5"\n').replace(
    'group_table = "t"\n', ""
)


def _policies() -> dict[str, str]:
    def named(name: str, text: str) -> str:
        return text.replace('name = "p"', f'name = "{name}"')

    floors = document("floors", '[floors]\nsmall = "1/5"\nmedium = "1/5"\n')
    window = document("window", '[window]\nNational = "3/4"\nPrivate = "1/4"\n')
    cap = document("cap", "[cap]\nat_most = 4\nwithin_first = 20\n")
    return {
        "none": named("none", document("none", "")),
        "tiers": named("tiers", floors.replace('"t"', '"provider_tier"')),
        "brands": named("brands", window.replace('"t"', '"brand"')),
        "categories": named("categories", cap.replace('"t"', '"category"')),
        "own-shares": named("own-shares", CALIBRATED),
        "crossed": named("crossed", INTERSECTION),
        "stacked": named("stacked", STACK),
        "over-time": named("over-time", OVER_TIME),
        "varied": named("varied", DIVERSE),
    }


def tiny_parts(seed: int = 0, **changes: object) -> BundleParts:
    """The parts of the bundle; `changes` replace some of them."""
    n_popular = changes.get("n_popular", 0)
    assert isinstance(n_popular, int)
    rng = np.random.default_rng(seed)
    state, model = tiny_state(rng), tiny_model(rng)
    scorer = OnnxScorer(model, pair_ports(N_FEATURES))
    inputs = {"features": rng.normal(0, 1, (3, 7, N_FEATURES)).astype(np.float32)}
    tiers = np.digitize(np.arange(N_ITEMS), [30, 48]).astype(np.int32)
    columns = np.arange(N_ITEMS)
    parts: dict[str, object] = {
        "name": "tiny",
        "created_unix_ms": DATA_UNTIL_MS,
        "data": DataInfo(
            source="synthetic", until_unix_ms=DATA_UNTIL_MS, users=9, items=N_ITEMS,
            interactions=99, digest="0" * 64,
        ),
        "family": "tiny-mlp",
        "model": model,
        "opset": 20,
        "feature_names": FEATURE_NAMES,
        "best_batch": 8,
        "n_novel": N_NOVEL,
        "state": state,
        "items": ItemTable(
            tuple(f"item-{n:03}" for n in columns),
            tuple(f"Item number {n}" for n in columns),
            {"category": tuple(f"category {n % 6}" for n in columns)},
        ),
        "groups": (
            GroupTable("provider_tier", TIERS, tiers),
            GroupTable("brand", ("National", "Private"), (columns % 4 == 0).astype(np.int32)),
            GroupTable(
                "category", tuple(f"category {n}" for n in range(6)), (columns % 6).astype(np.int32)
            ),
        ),
        "policies": _policies(),
        "default_policy": "tiers",
        "golden_inputs": inputs,
        "golden_outputs": scorer.score(inputs),
        "warmups": tuple(_warmup(rng, state, scorer, n_popular) for _ in range(3)),
        "model_card": "# A tiny bundle for tests\n",
        "horizon_days": 14,
        "quality": {"ndcg_at_20": 0.5},
        "made_with": {"numpy": np.__version__},
    }  # fmt: skip
    return BundleParts(**{**parts, **changes})  # type: ignore[arg-type]


def _warmup(
    rng: np.random.Generator, state: FeatureState, scorer: OnnxScorer, n_popular: int
) -> Warmup:
    size = 12
    history = History.of(
        rng.integers(0, N_ITEMS, size).astype(np.int32),
        (DATA_UNTIL_MS - rng.integers(0, 90, size) * DAY_MS).astype(np.int64),
        np.ones(size, np.float32),
    )
    found = generate_candidates(history, DATA_UNTIL_MS, state, N_NOVEL, n_popular=n_popular)
    features = pair_features(history, found.items, DATA_UNTIL_MS, state)
    scores = scorer.score_lists([{"features": features}])[0]
    best = np.lexsort((found.items, -scores))[:20]
    return Warmup(history, DATA_UNTIL_MS, found.items[best])


def tiny_sequence_model(
    rng: np.random.Generator, length: int = HISTORY_LENGTH, *, pairs: bool = False
) -> bytes:
    """Embedding of each candidate . sum of the history's: `[batch, length]`, `[batch, n]`.

    pairs: it reads pair features as well, and adds the first of them.
    """
    embedding = rng.normal(0, 1, (N_ITEMS + 1, 8)).astype(np.float32)
    embedding[0] = 0
    nodes = [
        helper.make_node("Gather", ["items", "history"], ["bought"]),
        helper.make_node("ReduceSum", ["bought", "time"], ["user"], keepdims=0),
        helper.make_node("Unsqueeze", ["user", "last"], ["column"]),
        helper.make_node("Gather", ["items", "candidates"], ["asked"]),
        helper.make_node("MatMul", ["asked", "column"], ["wide"]),
        helper.make_node("Squeeze", ["wide", "last"], ["own" if pairs else "scores"]),
    ]
    inputs: list[tuple[str, int, list[str | int]]] = [
        ("history", TensorProto.INT32, ["batch", length]),
        ("candidates", TensorProto.INT32, ["batch", "n"]),
    ]
    constants = []
    if pairs:
        nodes += [
            helper.make_node("Gather", ["features", "first"], ["pairs"], axis=2),
            helper.make_node("Add", ["own", "pairs"], ["scores"]),
        ]
        inputs.append(("features", TensorProto.FLOAT, ["batch", "n", N_FEATURES]))
        constants.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
    graph = helper.make_graph(
        nodes,
        "tiny-sequence",
        [helper.make_tensor_value_info(name, kind, axes) for name, kind, axes in inputs],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "n"])],
        [
            *constants,
            numpy_helper.from_array(embedding, "items"),
            numpy_helper.from_array(np.array([1], np.int64), "time"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    raw: bytes = model.SerializeToString()
    return raw


def sequence_parts(
    seed: int = 0, length: int = HISTORY_LENGTH, *, pairs: bool = False
) -> BundleParts:
    """The tiny bundle with a model that reads the last `length` items of the history, and, if asked
    for, pair features too."""
    parts = tiny_parts(seed)
    rng = np.random.default_rng(seed)
    model = tiny_sequence_model(rng, length, pairs=pairs)
    names = FEATURE_NAMES if pairs else ()
    scorer = OnnxScorer(model, ports_for(len(names), length))
    inputs = {
        "history": rng.integers(0, N_ITEMS + 1, (3, length)).astype(np.int32),
        "candidates": rng.integers(1, N_ITEMS + 1, (3, 7)).astype(np.int32),
    }
    if pairs:
        inputs |= parts.golden_inputs
    warmups = []
    for warmup in parts.warmups:
        found = generate_candidates(warmup.history, warmup.now_ms, parts.state, N_NOVEL)
        history, candidates = sequence(warmup.history, found.items, length)
        feed = {"history": history, "candidates": candidates}
        if pairs:
            own = pair_features(warmup.history, found.items, warmup.now_ms, parts.state)
            feed |= {"features": own}
        scores = scorer.score_lists([feed])[0]
        best = np.lexsort((found.items, -scores))[:20]
        warmups.append(replace(warmup, expected_top=found.items[best]))
    return replace(
        parts,
        family="tiny-both" if pairs else "tiny-sequence",
        model=model,
        feature_names=names,
        history_length=length,
        golden_inputs=inputs,
        golden_outputs=scorer.score(inputs),
        warmups=tuple(warmups),
    )


def tiny_bundle(path: Path, seed: int = 0, **changes: object) -> Manifest:
    """Write the tiny bundle."""
    return write_bundle(tiny_parts(seed, **changes), path)


def reseal(
    folder: Path,
    files: Mapping[str, bytes] | None = None,
    change: Callable[[dict[str, Any]], None] = lambda manifest: None,
) -> None:
    """Replace files of a bundle and write the manifest that belongs to them: every digest is right.

    What is refused after this is refused for its content. `change` edits the manifest last.
    """
    for name, content in (files or {}).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    present = [f for f in folder.rglob("*") if f.is_file() and f != path]
    manifest["files"] = {
        file.relative_to(folder).as_posix(): {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in present
    }
    if "model.onnx" in manifest["files"]:
        manifest["model"]["digest"] = manifest["files"]["model.onnx"]["sha256"]
    change(manifest)
    manifest["bundle_id"] = bundle_id(manifest["name"], manifest)
    text = json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=True)
    path.write_text(f"{text}\n", encoding="utf-8")
