"""Golden inputs: does the model still answer as it did when the bundle was made?

Owns the comparison and its tolerance. Knows no files.

    worst = replay(scorer, inputs, outputs)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.model import Feed, OnnxScorer

Float32 = NDArray[np.float32]

TOLERANCE = 1e-4
"""How far an answer may stray from the recorded one on another processor."""


def replay(
    scorer: OnnxScorer, inputs: Feed, outputs: Float32, tolerance: float = TOLERANCE
) -> float:
    """The largest difference between the model's answers and the recorded ones.

    inputs by name, with a batch axis; outputs `[b, n] float32`, b and n at least 1. All are scored at
    once, then the first alone and cut to one candidate: a server batches lists of different
    lengths, so a score must depend on its own row only, and no axis may be frozen.
    tolerance: that of a quantised model is its own.

    Raises:
        ValueError: wrong shapes, a value that is not finite, or a difference above the tolerance.
    """
    whole = scorer.score(inputs)
    if outputs.dtype != np.float32 or outputs.shape != whole.shape or not outputs.size:
        raise ValueError(
            f"outputs: got {outputs.dtype} {list(outputs.shape)}, expected float32 "
            f"{list(whole.shape)} with at least one score"
        )
    for name, values in (*inputs.items(), ("outputs", outputs)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: holds a value that is not finite")
    worst = 0.0
    for what, scores in (
        ("all at once", whole),
        ("the first list alone", scorer.score(scorer.cut(inputs, 1, outputs.shape[1]))),
        ("one candidate alone", scorer.score(scorer.cut(inputs, 1, 1))),
    ):
        batch, candidates = scores.shape
        if not np.isfinite(scores).all():
            raise ValueError(f"{what}: the model gives a score that is not finite")
        gap = float(np.abs(scores - outputs[:batch, :candidates]).max())
        if gap > tolerance:
            raise ValueError(
                f"{what}: the model's scores differ by {gap:.2g} from the recorded ones, "
                f"allowed: {tolerance}"
            )
        worst = max(worst, gap)
    return worst
