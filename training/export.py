"""The trained ranker -> one ONNX file, behind a parity gate.

Owns the export and the proof that onnxruntime gives what torch gave. A failed
gate raises, and nothing is written.
"""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from server.bundle import MeasuredBatch
from server.errors import Refused
from server.model import (
    BATCH,
    CANDIDATES,
    SCORES,
    Feed,
    OnnxScorer,
    Port,
    pair_ports,
    sequence_ports,
)
from training.model import PairRanker
from training.rows import Lists
from training.sequence_model import SequenceRanker

OPSET = 20
TOLERANCE = 1e-4
TOP = 20
# Scores nearer to each other than this share are one score to float32: which of the two stands
# first is no fault of the export, and a young shop has many such items.
TIE = 1e-5
SHAPES = ((1, 1), (1, 430), (2, 7), (5, 300), (16, 33), (33, 700))
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
# As they are served: `OnnxScorer.score_lists` pads to these, or others like them.
CANDIDATE_COUNTS = (48, 208, 432, 1008)
TYPICAL_CANDIDATES = 432
TIMED_RUNS = 12


class ParityFailed(Refused):
    """onnxruntime does not give what torch gave."""


def export_onnx(model: PairRanker) -> bytes:
    """The model as the bytes of one ONNX file with dynamic batch and candidate axes."""
    # Sizes 0 and 1 would be taken for constants.
    return _exported(model, [torch.zeros(4, 5, len(model.mean))], pair_ports(len(model.mean)))


def export_sequence(model: SequenceRanker) -> bytes:
    """The same of a model that reads the history."""
    example = [torch.zeros(4, size, dtype=torch.int32) for size in (model.length, 5)]
    return _exported(model, example, sequence_ports(model.length))


def _exported(model: torch.nn.Module, example: list[torch.Tensor], ports: Sequence[Port]) -> bytes:
    model.eval()
    dynamic = {name: torch.export.Dim(name) for name in (BATCH, CANDIDATES)}
    axes = tuple(
        {place: dynamic[axis] for place, axis in enumerate(port.axes) if isinstance(axis, str)}
        for port in ports
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    noise = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            tuple(example),
            dynamo=True,
            dynamic_shapes=axes,
            opset_version=OPSET,
            input_names=[port.name for port in ports],
            output_names=[SCORES.name],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    # The exporter notes the stack of every node, with the paths of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    raw: bytes = program.model_proto.SerializeToString()
    return raw


def scorer_of(model: bytes, n_features: int) -> OnnxScorer:
    """The served form of the model."""
    return OnnxScorer(model, pair_ports(n_features))


def check_parity(model: PairRanker, scorer: OnnxScorer, real: Lists, seed: int = 0) -> float:
    """The largest difference seen between torch and onnxruntime.

    Random inputs over several shapes, real lists one by one, and the same top 20 for each
    (items that tie in torch may change places).

    Raises:
        ParityFailed: a difference above 1e-4, or another top 20.
    """
    rng = np.random.default_rng(seed)
    # Random as features are: three units off may be thousands of deviations, where float32 has no
    # digits left. A column that counts for nothing may be anything.
    mean, inverse = model.mean.numpy(), model.inverse_std.numpy()
    deviation = np.where(inverse > 0, 1 / np.maximum(inverse, 1e-9), 1.0)
    worst = 0.0
    for shape in SHAPES:
        random = (mean + deviation * rng.normal(0, 3, (*shape, len(mean)))).astype(np.float32)
        worst = max(worst, _difference(model, scorer, random, f"random input {shape}"))
    for place in range(min(200, len(real))):
        part = slice(int(real.ptr[place]), int(real.ptr[place + 1]))
        features = real.features[part][np.newaxis]
        worst = max(worst, _difference(model, scorer, features, f"real list {place}"))
        given, expected = scorer.score({"features": features})[0], _torch(model, features)[0]
        best = [np.lexsort((real.items[part], -scores))[:TOP] for scores in (given, expected)]
        found, wanted = expected[best[0]], expected[best[1]]
        if (np.abs(found - wanted) > TIE * wanted).any():
            raise ParityFailed(f"real list {place}: torch and onnxruntime give another top {TOP}")
    return worst


@torch.no_grad()
def _torch(model: PairRanker, features: NDArray[np.float32]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = model(torch.from_numpy(features)).numpy()
    return scores


def _difference(
    model: PairRanker, scorer: OnnxScorer, features: NDArray[np.float32], what: str
) -> float:
    gap = float(np.abs(_torch(model, features) - scorer.score({"features": features})).max())
    if not gap <= TOLERANCE:
        raise ParityFailed(
            f"{what}: torch and onnxruntime differ by {gap:.2g}, allowed: {TOLERANCE}"
        )
    return gap


def measured_batches(
    scorer: OnnxScorer, draw: Callable[[int, int], Feed]
) -> tuple[MeasuredBatch, ...]:
    """What a list costs the model on this machine, by how many share its run; the median of several.

    draw: inputs of so many lists with so many candidates.
    """
    return tuple(
        MeasuredBatch(
            lists=size,
            candidates=candidates,
            list_us=_list_us(scorer, draw(size, candidates), size),
        )
        for candidates in CANDIDATE_COUNTS
        for size in BATCH_SIZES
    )


def _list_us(scorer: OnnxScorer, feed: Feed, size: int) -> float:
    scorer.score(feed)
    taken_ns = []
    for _ in range(TIMED_RUNS):
        started_ns = time.perf_counter_ns()
        scorer.score(feed)
        taken_ns.append(time.perf_counter_ns() - started_ns)
    return round(float(np.median(taken_ns)) / size / 1e3, 1)


def best_batch(measured: Sequence[MeasuredBatch]) -> int:
    """The size with the lowest time per list of typical length; the smallest within 5 %."""
    typical = {one.lists: one.list_us for one in measured if one.candidates == TYPICAL_CANDIDATES}
    floor = min(typical.values()) * 1.05
    return next(size for size in sorted(typical) if typical[size] <= floor)
