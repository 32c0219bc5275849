"""A bundle made of another: the same data, items and state, another model or other policies.

Owns what has to be measured and recorded anew where the graph is another: golden outputs, warm-ups,
the batch size.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from server.bundle import Bundle, BundleParts, Manifest, Quantised, retriever_for, searcher
from server.bundle.files import CARD, POLICIES
from server.model import OnnxScorer
from training import export
from training.release import random_feed, warmups


def derived_parts(
    manifest: Manifest,
    files: Mapping[str, bytes],
    bundle: Bundle,
    scorer: OnnxScorer,
    *,
    quality: Mapping[str, Any],
    card: str,
    seed: int,
    quantised: Quantised | None = None,
    policies: Mapping[str, str] | None = None,
) -> BundleParts:
    """The parts of the new bundle.

    manifest, files: of the old one. bundle: the old one with the new model and its golden outputs.
    scorer: of the new model. card: what the model card says beside what it said. policies: TOML by name, None
    for the old ones.
    """
    model = manifest.model
    draw = partial(random_feed, scorer, len(bundle.items.ids))
    measured = export.measured_batches(scorer, draw)
    now_ms = manifest.data.until_unix_ms
    retrieval = search = None
    if model.retrieval is not None and bundle.retrieval is not None:
        retrieval = model.retrieval, bundle.retrieval
        retriever = retriever_for(model, bundle.retrieval, len(bundle.items.ids))
        search = searcher(retriever, model.history_length)
    return BundleParts(
        name=manifest.name,
        created_unix_ms=time.time_ns() // 1_000_000,
        data=manifest.data,
        family=model.family,
        model=bundle.model,
        opset=model.opset,
        feature_names=model.feature_names,
        history_length=model.history_length,
        best_batch=export.best_batch(measured),
        measured_batches=measured,
        n_novel=model.n_novel,
        n_popular=model.n_popular,
        quantised=quantised,
        state=bundle.state,
        items=bundle.items,
        groups=tuple(bundle.groups.values()),
        policies=policies or policy_texts(files),
        default_policy=manifest.default_policy,
        golden_inputs=bundle.golden_inputs,
        golden_outputs=bundle.golden_outputs,
        retrieval=retrieval,
        warmups=warmups(
            bundle.state, scorer, now_ms, model.n_novel, seed, model.n_popular, search
        ),
        model_card=f"{files[CARD].decode()}\n{card}",
        horizon_days=manifest.horizon_days,
        quality=quality,
        made_with=manifest.made_with,
        positive_kinds=manifest.positive_kinds,
    )  # fmt: skip


def policy_texts(files: Mapping[str, bytes]) -> dict[str, str]:
    """The bundle's policies as TOML, by name."""
    return {
        name.removeprefix(POLICIES).removesuffix(".toml"): text.decode()
        for name, text in files.items()
        if name.startswith(POLICIES)
    }
