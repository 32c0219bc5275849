"""The trained ranker -> one ONNX file, behind a parity gate.

Owns the export and the proof that onnxruntime gives what torch gave. A failed
gate raises, and nothing is written.
"""

from __future__ import annotations

import io
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import torch
from numpy.typing import NDArray

from server.bundle import MeasuredBatch, ports_for
from server.errors import Refused
from server.model import (
    ASKED,
    BATCH,
    CANDIDATES,
    FEATURES,
    HISTORY,
    SCORES,
    Feed,
    OnnxScorer,
)
from training.families import Family, Ranker, family_of
from training.model import PairRanker
from training.onnx_text import tell
from training.recanet import RepeatRanker
from training.rows import Lists
from training.stacked_model import StackedRanker

OPSET = 20
TOLERANCE = 1e-4
TOP = 20
# Scores nearer to each other than this share are one score to float32: which of the two stands
# first is no fault of the export, and a young shop has many such items.
TIE = 1e-5
# And so are chances of one in a million: far out the two compute the sigmoid in their own ways.
TINY = 1e-6
SHAPES = ((1, 1), (1, 430), (2, 7), (5, 300), (16, 33), (33, 700))
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
# As they are served: `OnnxScorer.score_lists` pads to these, or others like them.
CANDIDATE_COUNTS = (48, 208, 432, 1008)
TYPICAL_CANDIDATES = 432
TIMED_RUNS = 12


class ParityFailed(Refused):
    """onnxruntime does not give what torch gave."""


def export_onnx(model: Ranker, about: Mapping[str, str] | None = None) -> bytes:
    """The model as the bytes of one ONNX file with dynamic batch and candidate axes.

    about: what else its metadata says, such as the horizon. The same model and words give the same bytes.
    """
    family = family_of(model)
    ports = ports_for(family.n_features, family.history_length)
    # Sizes 0 and 1 would be taken for constants.
    sizes = {BATCH: 4, CANDIDATES: 5}
    example = [
        torch.zeros(
            [axis if isinstance(axis, int) else sizes[axis] for axis in port.axes],
            dtype=torch.float32 if port.dtype is np.float32 else torch.int32,
        )
        for port in ports
    ]
    dynamic = {name: torch.export.Dim(name) for name in (BATCH, CANDIDATES)}
    axes = [
        {place: dynamic[axis] for place, axis in enumerate(port.axes) if isinstance(axis, str)}
        for port in ports
    ]
    program = exported(model, example, axes, [port.name for port in ports], SCORES.name)
    tell(program.model, family, ports, OPSET, about or {})
    raw: bytes = program.model_proto.SerializeToString()
    return raw


def exported(
    model: torch.nn.Module,
    example: list[torch.Tensor],
    axes: Sequence[Mapping[int, torch.export.Dim]],
    inputs: Sequence[str],
    output: str,
) -> torch.onnx.ONNXProgram:
    """The model as an ONNX graph; axes: of each input those that are dynamic."""
    model.eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    noise = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(noise), redirect_stderr(noise):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            tuple(example),
            dynamo=True,
            dynamic_shapes=tuple(dict(own) for own in axes),
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")
    return program


def scorer_of(model: bytes, family: Family) -> OnnxScorer:
    """The served form of the model."""
    return OnnxScorer(model, ports_for(family.n_features, family.history_length))


def check_parity(model: Ranker, scorer: OnnxScorer, real: Lists, seed: int = 0) -> float:
    """The largest difference seen between torch and onnxruntime.

    Random inputs over several shapes, real lists one by one, and the same top 20 for each
    (items that tie in torch may change places).

    Raises:
        ParityFailed: a difference above 1e-4, or another top 20.
    """
    rng = np.random.default_rng(seed)
    worst = 0.0
    for shape in SHAPES:
        worst = max(
            worst, _difference(model, scorer, _random(model, shape, rng), f"random input {shape}")
        )
    for place in range(min(200, len(real))):
        part = slice(int(real.ptr[place]), int(real.ptr[place + 1]))
        feed = _real(model, real, place, part)
        worst = max(worst, _difference(model, scorer, feed, f"real list {place}"))
        given, expected = scorer.score(feed)[0], _torch(model, scorer, feed)[0]
        best = [np.lexsort((real.items[part], -scores))[:TOP] for scores in (given, expected)]
        found, wanted = expected[best[0]], expected[best[1]]
        if (np.abs(found - wanted) > TIE * wanted + TINY).any():
            off = int(np.abs(found - wanted).argmax())
            raise ParityFailed(
                f"real list {place}: torch and onnxruntime give another top {TOP}: at place {off + 1} "
                f"torch has scores of {wanted[off]:.8g} and {found[off]:.8g}"
            )
    return worst


def _random(model: Ranker, shape: tuple[int, int], rng: np.random.Generator) -> Feed:
    # Random as features are: three units off may be thousands of deviations, where float32 has no
    # digits left. A column that counts for nothing may be anything.
    family = family_of(model)
    feed: Feed = {}
    if isinstance(model, PairRanker | StackedRanker | RepeatRanker):
        pairs = model.pairs if isinstance(model, StackedRanker) else model
        mean, inverse = (
            part.numpy()[: family.n_features] for part in (pairs.mean, pairs.inverse_std)
        )
        deviation = np.where(inverse > 0, 1 / np.maximum(inverse, 1e-9), 1.0)
        drawn = mean + deviation * rng.normal(0, 3, (*shape, family.n_features))
        if isinstance(pairs, PairRanker) and pairs.columns is not None:
            drawn[::2, :, pairs.columns.history] = 0  # every second list is of an empty history
        feed = {FEATURES: drawn.astype(np.float32)}
    if family.history_length:
        history = rng.integers(0, family.n_items + 1, (shape[0], family.history_length))
        asked = rng.integers(1, family.n_items + 1, shape)
        feed = {**feed, HISTORY: history.astype(np.int32), ASKED: asked.astype(np.int32)}
    return feed


def _real(model: Ranker, real: Lists, place: int, part: slice) -> Feed:
    family = family_of(model)
    feed: Feed = {}
    if family.n_features:
        features = real.features[part, : family.n_features]
        feed = {FEATURES: np.ascontiguousarray(features)[np.newaxis]}
    if family.history_length:
        items = (real.items[part] + 1).astype(np.int32)
        feed = {**feed, HISTORY: real.recent[place][np.newaxis], ASKED: items[np.newaxis]}
    return feed


@torch.no_grad()
def _torch(model: Ranker, scorer: OnnxScorer, feed: Feed) -> NDArray[np.float32]:
    inputs = [torch.from_numpy(feed[port.name]) for port in scorer.ports]
    scores: NDArray[np.float32] = model(*inputs).numpy()
    return scores


def _difference(model: Ranker, scorer: OnnxScorer, feed: Feed, what: str) -> float:
    gap = float(np.abs(_torch(model, scorer, feed) - scorer.score(feed)).max())
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
