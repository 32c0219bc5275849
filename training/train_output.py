"""What `train` prints when it has ended: for people, or one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.spent import cost_lines

if TYPE_CHECKING:
    from training.pipeline import Released

# Below this a validation figure moves by more than the models that it compares.
FEW_USERS = 200


def facts_of(released: Released, out: Path, replaced: str | None) -> dict[str, Any]:
    """For machines."""
    return {
        "bundle_id": released.manifest.bundle_id,
        "out": str(out),
        "replaced": replaced,
        "default_policy": released.manifest.default_policy,
        "track": released.manifest.quality["track"],
        "no_history": released.manifest.quality.get("no_history"),
        "model_digest": released.manifest.model.digest,
        "validation_ndcg_at_20": released.validation_ndcg_at_20,
        "validation_users": released.validation_users,
        "best_epoch": released.best_epoch,
        "parity_max_difference": released.parity,
        "fair_training": None if released.fair is None else released.fair.as_json(),
        "seconds": released.seconds,
        "peak_rss_bytes": released.peak_rss_bytes,
    }


def lines_of(released: Released, out: Path, replaced: str | None, final: bool) -> list[str]:
    """For people."""
    from training.lists_at_cuts import day_of

    manifest = released.manifest
    lines = [f"bundle   {manifest.bundle_id} in {out}"]
    if replaced is not None:
        lines.append(f"replaced {replaced}")
    lines.append(f"policy   {manifest.default_policy} for requests that name none")
    track = released.manifest.quality["track"]
    assert isinstance(track, dict)
    lines.append(f"model    {track['chosen']}: {track['why']}")
    lines.append(
        f"quality  validation NDCG@20 {released.validation_ndcg_at_20:.4f} "
        f"over {released.validation_users:,} users (epoch {released.best_epoch})"
    )
    if released.validation_users < FEW_USERS:
        lines.append("         so few users prove nothing: look at the intervals of 'evaluate'")
    unknown = manifest.quality.get("no_history")
    if isinstance(unknown, dict):
        of = unknown["validation_ndcg_at_20"]
        assert isinstance(of, dict)
        lines.append(
            f"unknown  without a history: by the {unknown['order']}; best sellers "
            f"{of['best sellers']:.4f}, ranker {of['ranker']:.4f}"
        )
    if released.fair is not None:
        chosen, plain = released.fair.chosen, released.fair.candidates[0]
        lines.append(
            f"fair     by {released.fair.settings.attribute}, {released.fair.settings.method} "
            f"{chosen.strength:g}: worst group {chosen.worst} {chosen.worst_ndcg:.4f} "
            f"({plain.worst} {plain.worst_ndcg:.4f} without)"
        )
    held_out = (
        "nothing is held out"
        if final
        else "what came later is held out for 'equipoise evaluate'; --final learns from it too"
    )
    lines.append(f"learned  until {day_of(manifest.data.until_unix_ms)}; {held_out}")
    lines.append(f"parity   torch and onnxruntime differ by {released.parity:.1e} at most")
    took, memory = cost_lines(released.seconds, released.peak_rss_bytes)
    return [*lines, f"took     {took}", f"memory   {memory}"]
