"""A bundle of a made-up catalogue with an untrained model, for load tests of any size.

Its lists mean nothing; what they cost is what those of a trained model of the
same shape cost. No data is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from server.bundle import BundleParts, DataInfo, GroupTable, ItemTable
from server.features import FEATURE_NAMES, FeatureState, SparseWeights
from server.model import Feed, OnnxScorer, pair_ports, sequence_ports
from training import export, model, sequence_model
from training.choose_policies import choose_policies
from training.release import warmups

CREATED_MS = 1_700_000_000_000
N_NOVEL = 80
NEIGHBOURS = 20
CATEGORIES, DEPARTMENTS, PROVIDERS = 300, 20, 500
TIERS = ("large", "medium", "small", "unknown")
GOLDEN_LISTS, GOLDEN_CANDIDATES = 3, 32
TIER_FLOORS, FLOORS_OR_FALLBACK = "provider-tiers", "provider-tiers-or-fallback"

Reads = Literal["history", "pair-features"]


def synthetic_parts(n_items: int, reads: Reads, length: int, seed: int) -> BundleParts:
    """The parts of a bundle of `n_items` items.

    length: how many items of the history a model that reads it gets.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    state = made_up_state(n_items, rng)
    groups = _groups(state, n_items)
    policies = choose_policies(None, None, groups)
    sequences = reads == "history"
    width = len(FEATURE_NAMES)
    if sequences:
        raw = export.export_onnx(sequence_model.SequenceRanker(n_items, length))
    else:
        raw = export.export_onnx(model.PairRanker(torch.zeros(width), torch.ones(width), (64, 32)))
    scorer = OnnxScorer(raw, sequence_ports(length) if sequences else pair_ports(width))

    def draw(lists: int, candidates: int) -> Feed:
        if sequences:
            return {
                "history": rng.integers(0, n_items + 1, (lists, length)).astype(np.int32),
                "candidates": rng.integers(1, n_items + 1, (lists, candidates)).astype(np.int32),
            }
        return {"features": rng.normal(0, 1, (lists, candidates, width)).astype(np.float32)}

    measured = export.measured_batches(scorer, draw)
    goldens = draw(GOLDEN_LISTS, GOLDEN_CANDIDATES)
    return BundleParts(
        name="synthetic",
        created_unix_ms=CREATED_MS,
        data=DataInfo(
            source=f"made up, seed {seed}", until_unix_ms=CREATED_MS, users=0, items=n_items,
            interactions=0, digest="",
        ),
        family=sequence_model.FAMILY if sequences else model.FAMILY,
        model=raw,
        opset=export.OPSET,
        feature_names=() if sequences else FEATURE_NAMES,
        history_length=length if sequences else 0,
        best_batch=export.best_batch(measured),
        measured_batches=measured,
        n_novel=N_NOVEL,
        state=state,
        items=_items(state, n_items),
        groups=groups,
        policies=_with_fallback(policies.documents),
        default_policy=policies.default,
        golden_inputs=goldens,
        golden_outputs=scorer.score(goldens),
        warmups=warmups(state, scorer, CREATED_MS, N_NOVEL, seed),
        model_card="# synthetic\n\nAn untrained model over a made-up catalogue, for load tests only.\n",
        horizon_days=14,
    )  # fmt: skip


def made_up_state(n_items: int, rng: np.random.Generator) -> FeatureState:
    """Item statistics with the shape of a shop's: popularity by Zipf, neighbours at random."""
    popularity = np.log1p(1e5 / np.arange(1, n_items + 1)).astype(np.float32)
    per_item = min(NEIGHBOURS, n_items)
    weights = SparseWeights(
        np.arange(n_items + 1, dtype=np.int64) * per_item,
        # Those that follow it, so that none comes twice.
        (
            (np.arange(n_items)[:, None] + rng.integers(0, n_items, n_items)[:, None]
             + np.arange(per_item)) % n_items
        ).ravel().astype(np.int32),
        rng.random(n_items * per_item).astype(np.float32) / np.float32(per_item),
    )  # fmt: skip
    return FeatureState(
        popularity=popularity,
        popularity_recent=popularity / np.float32(4),
        repeat_rate=rng.random(n_items).astype(np.float32),
        gap_days=(5 + 30 * rng.random(n_items)).astype(np.float32),
        private_label=(rng.random(n_items) < 0.3).astype(np.float32),
        category=rng.integers(0, min(CATEGORIES, n_items), n_items).astype(np.int32),
        department=rng.integers(0, min(DEPARTMENTS, n_items), n_items).astype(np.int32),
        provider=rng.integers(0, min(PROVIDERS, n_items), n_items).astype(np.int32),
        popular=np.arange(n_items, dtype=np.int32),
        ease=weights,
        cosine=weights,
    )


def _items(state: FeatureState, n_items: int) -> ItemTable:
    width = len(str(n_items))
    ids = tuple(f"item-{number:0{width}}" for number in range(n_items))
    columns = {"category": state.category, "department": state.department,
               "provider": state.provider}  # fmt: skip
    return ItemTable(
        ids, ids, {name: tuple(map(str, codes.tolist())) for name, codes in columns.items()}
    )


def _groups(state: FeatureState, n_items: int) -> tuple[GroupTable, ...]:
    # Of ten providers five are large, three medium, one small; one tells nothing.
    tier = state.provider % 10
    return (
        GroupTable("provider_tier", TIERS, np.digitize(tier, [5, 8, 9]).astype(np.int32)),
        GroupTable("brand", ("National", "Private"), state.private_label.astype(np.int32)),
        GroupTable(
            "category",
            tuple(map(str, range(int(state.category.max()) + 1))),
            state.category,
        ),
        GroupTable(
            "department",
            tuple(map(str, range(int(state.department.max()) + 1))),
            state.department,
        ),
    )


def _with_fallback(documents: Mapping[str, str]) -> Mapping[str, str]:
    """The policies, and the tiers once more with a fallback for calls without time."""
    plain = f'name = "{TIER_FLOORS}"\n'
    text = documents[TIER_FLOORS].replace(
        plain, f'name = "{FLOORS_OR_FALLBACK}"\non_late = "fallback"\n', 1
    )
    return {**documents, FLOORS_OR_FALLBACK: text}
