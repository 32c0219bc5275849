"""What the results say of the bundle itself: facts of its manifest, and what it brings of its training.

Owns the blocks `model`, `learning_curves`, `ablation` and `cleaning` of the results. Learning curves
and ablation come from the manifest's `quality`, which is anybody's JSON: what has not the form below
is left out.

    learning_curves     name -> epochs, and lists as long: validation_ndcg_at_20, training_loss
    ablation            name of a group of features -> value, low, high
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from server.bundle import Manifest
from training.data.clean import Cleaning

CURVES = ("validation_ndcg_at_20", "training_loss")


def model_block(manifest: Manifest, cleaning: Cleaning) -> dict[str, Any]:
    """The four blocks."""
    model, data = manifest.model, manifest.data
    own = ("learning_curves", "ablation")
    return {
        "model": {
            "name": manifest.name,
            "family": model.family,
            "reads": model.reads,
            "feature_names": list(model.feature_names),
            "history_length": model.history_length,
            "candidates_outside_history": model.n_novel,
            "best_sellers_among_them": model.n_popular,
            "horizon_days": manifest.horizon_days,
            "opset": model.opset,
            "trained_on": {
                "source": data.source,
                "until_unix_ms": data.until_unix_ms,
                "users": data.users,
                "items": data.items,
                "events": data.interactions,
            },
            "default_policy": manifest.default_policy,
            "made_with": dict(manifest.made_with),
            "measured_in_training": {k: v for k, v in manifest.quality.items() if k not in own},
        },
        "learning_curves": learning_curves(manifest.quality.get("learning_curves")),
        "ablation": ablation(manifest.quality.get("ablation")),
        "cleaning": {
            "rows_in": cleaning.rows_in,
            "rows_out": cleaning.rows_out,
            "dropped": [[reason, rows] for reason, rows in cleaning.dropped],
        },
    }


def learning_curves(told: Any) -> dict[str, dict[str, list[float | None]]] | None:
    """Those that can be drawn; None if there are none."""
    found = {}
    for name, curve in _entries(told):
        epochs = _numbers(curve.get("epochs"))
        lines = {key: _numbers(curve.get(key)) for key in CURVES}
        whole = {key: line for key, line in lines.items() if line and len(line) == len(epochs)}
        if epochs and whole:
            found[name] = {"epochs": epochs, **whole}
    return found or None


def ablation(told: Any) -> dict[str, dict[str, float | None]] | None:
    """Groups of features with a value; None if there are none."""
    found = {}
    for name, one in _entries(told):
        value, low, high = (_number(one.get(key)) for key in ("value", "low", "high"))
        if value is not None:
            found[name] = {"value": value, "low": low, "high": high}
    return found or None


def _entries(told: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if not isinstance(told, Mapping):
        return []
    return [(str(name), one) for name, one in told.items() if isinstance(one, Mapping)]


def _numbers(told: Any) -> list[float | None]:
    return [_number(one) for one in told] if isinstance(told, list) else []


def _number(told: Any) -> float | None:
    if isinstance(told, bool) or not isinstance(told, int | float) or not math.isfinite(told):
        return None
    return told
