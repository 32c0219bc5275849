"""A bundle -> the same with its model's weights in 8 bits, and what that lost.

Owns the quantisation (onnxruntime's dynamic one: weights are rounded once, activations by the range of
each run) and the measurement beside the model that it was made of, through the served path. Whether it
pays is said, not assumed.

torch is not asked again: that a quantised graph differs is the point, and by how much is measured on
validation lists. Its goldens and warm-ups are recorded anew, and held to `golden_tolerance`, twice the
largest difference that was seen: ranges are taken over all lists of a run, so a score moves with its
company. The server notices (`server.engine.together`) and gives each list a run of its own.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from server import __version__
from server.bundle import (
    Bundle,
    BundleParts,
    Quantised,
    feed_maker,
    ports_of,
    read_files,
)
from server.bundle.files import decode
from server.bundle.golden import TOLERANCE
from server.bundle.manifest import MOST_TOLERANCE
from server.engine.engine import Engine
from server.engine.query import Answer
from server.errors import Refused
from server.features import generate_candidates
from server.model import Feed, OnnxScorer
from training.data.prepare import Prepared
from training.derived import derived_parts
from training.intervals import Resampler
from training.metrics import hits, ndcg
from training.onnx_text import PRODUCER
from training.served import plain_policy, served_lists
from training.task import OnStep, places_in_data, task_of

OPERATORS = {"MatMul": "MatMulInteger", "Gather": "DequantizeLinear"}
"""Layers and tables of items, and by what a graph tells that they are quantised. An LSTM would become an operator outside of the standard sets."""
K = 20
ROUNDS = 30
PAYS_TIME, PAYS_BYTES, COSTS = 0.95, 0.9, -0.002
"""It pays where a list takes at most this share of the time or the model has at most this share of its
bytes, unless NDCG@20 may have fallen by 0.002: twice what a change of the model has to bring here."""


@dataclass(frozen=True)
class Loss:
    """What quantisation did, on the validation lists of `users` users.

    seen: the bundle learned from these weeks, so that its NDCG flatters; the difference is of one list
    beside the other, and stands. largest_difference, mean_difference: of scores. changed_lists: the share
    of lists whose first 20 items are others or in another order. ndcg_difference: an estimate, paired by
    user. alone_ratio: of the model's time for a list in a run of its own; served_ratio: as served, where
    lists share runs if their scores allow it.
    """

    operators: tuple[str, ...]
    users: int
    seen: bool
    bytes_before: int
    bytes_after: int
    largest_difference: float
    mean_difference: float
    changed_lists: float
    ndcg_at_20_before: float
    ndcg_at_20_after: float
    ndcg_difference: Mapping[str, Any]
    alone_ratio: float
    served_ratio: float
    shares_runs_before: bool
    shares_runs_after: bool

    @property
    def pays(self) -> bool:
        """See `PAYS_TIME`."""
        low = self.ndcg_difference["low"]
        gains = self.served_ratio <= PAYS_TIME or self.bytes_after <= PAYS_BYTES * self.bytes_before
        # A larger model that nobody waits for less is not paid by bytes that nobody misses.
        slower = self.served_ratio > 1 / PAYS_TIME
        return gains and not slower and low is not None and low >= COSTS

    def as_json(self) -> dict[str, Any]:
        """As it stands in `quality.quantisation`."""
        return {**self.__dict__, "operators": list(self.operators), "pays": self.pays}


def quantised_model(model: bytes, operators: Sequence[str]) -> tuple[bytes, tuple[str, ...]]:
    """The graph with the weights of these operators in 8 bits, and which of them it has.

    Raises:
        Refused: it has no such weights.
    """
    before = onnx.load_from_string(model)
    with tempfile.TemporaryDirectory() as folder, _silence():
        path = Path(folder, "model.onnx")
        quantize_dynamic(
            onnx.load_from_string(model),
            path,
            op_types_to_quantize=list(operators),
            weight_type=QuantType.QInt8,
            # 7 bits of 8: without, processors that lack VNNI overflow and give other scores.
            reduce_range=True,
        )
        after = onnx.load_from_string(path.read_bytes())
    made = {node.op_type for node in after.graph.node}
    found = tuple(name for name in operators if OPERATORS[name] in made)
    if not found:
        raise Refused(f"the model has no weights of {' or '.join(operators)} to quantise")
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    after.metadata_props.add(key="quantised", value=", ".join(found))
    after.producer_name, after.producer_version = PRODUCER, __version__
    raw: bytes = after.SerializeToString(deterministic=True)
    return raw, found


@contextmanager
def _silence() -> Iterator[None]:
    """Without the advice to prepare the graph, which the exporter did."""
    was = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(was)


def quantised_parts(
    path: Path,
    prepared: Prepared,
    operators: Sequence[str],
    *,
    users: int,
    seed: int,
    on_step: OnStep,
) -> tuple[BundleParts, Loss]:
    """The parts of the quantised bundle, and what it lost on validation lists of at most `users` users.

    Raises:
        Refused: it is quantised already, has no such weights, knows no item of the data, or its scores
            are off by more than any bundle may say.
        BundleRefused: the bundle in `path` would not be served.
    """
    manifest, files = read_files(path)
    bundle = decode(manifest, files, max_count=200)
    if manifest.model.quantised is not None:
        raise Refused(f"{path} is quantised already: take the bundle that it was made of")
    model, operators = quantised_model(bundle.model, operators)
    scorers = tuple(OnnxScorer(one, ports_of(manifest.model)) for one in (bundle.model, model))
    outputs = scorers[1].score(bundle.golden_inputs)
    after = replace(bundle, model=model, golden_outputs=outputs)
    loss = _loss(bundle, after, scorers, prepared, operators, users, seed, on_step)
    worst = max(loss.largest_difference, _swing(scorers[1], bundle.golden_inputs, outputs))
    tolerance = max(TOLERANCE, 2 * worst)
    if tolerance > MOST_TOLERANCE:
        raise Refused(
            f"quantised scores are off by {worst:.2g}, allowed: {MOST_TOLERANCE / 2}: "
            "this model has to stay as it is, or name other operators"
        )
    quantised = Quantised(
        operators=tuple(operators),
        source=manifest.model.digest,
        golden_tolerance=float(f"{tolerance:.2g}"),
    )
    parts = derived_parts(
        manifest, files, after, scorers[1], quantised=quantised, seed=seed,
        quality={**manifest.quality, "quantisation": loss.as_json()},
        card="\n".join(["## Quantised", *lines_of(loss), ""]),
    )  # fmt: skip
    return parts, loss


def _swing(scorer: OnnxScorer, inputs: Feed, outputs: NDArray[np.float32]) -> float:
    """How far golden scores move where a list, or a candidate, is alone."""
    alone = scorer.score(scorer.cut(inputs, 1, outputs.shape[1]))
    one = scorer.score(scorer.cut(inputs, 1, 1))
    return float(max(np.abs(alone - outputs[:1]).max(), np.abs(one - outputs[:1, :1]).max()))


def _loss(
    before: Bundle,
    after: Bundle,
    scorers: tuple[OnnxScorer, ...],
    prepared: Prepared,
    operators: Sequence[str],
    users: int,
    seed: int,
    on_step: OnStep,
) -> Loss:
    task = task_of(prepared, "validation")
    targets = task.targets
    if len(targets) > users:
        drawn = np.random.default_rng(seed).choice(len(targets), users, replace=False)
        targets = targets.some(np.sort(drawn))
    to_data = places_in_data(before, prepared.dataset)
    engines = (Engine(before), Engine(after))
    lists, scores = [], []
    for engine, what in zip(engines, ("as it was", "quantised"), strict=True):
        gathered: list[NDArray[np.float32]] = []
        told = partial(_told, on_step, what, len(targets))
        served = served_lists(
            engine, task.history, targets.users, task.cut_ms, policy=plain_policy(engine), k=K,
            on_users=told, on_answer=partial(_gather, gathered),
        )  # fmt: skip
        lists.append(served.items)
        scores.append(np.concatenate(gathered))
    values = [
        ndcg(hits(to_data[one], targets.ptr, targets.items), np.diff(targets.ptr)) for one in lists
    ]
    gaps = np.abs(scores[0].astype(np.float64) - scores[1])
    least = [engine.least_together for engine in engines]
    alone, served_ratio = _time_ratios(before, scorers, least)
    return Loss(
        operators=tuple(operators),
        users=len(targets),
        seen=before.manifest.data.until_unix_ms > task.cut_ms,
        bytes_before=len(before.model),
        bytes_after=len(after.model),
        largest_difference=float(gaps.max()),
        mean_difference=float(gaps.mean()),
        changed_lists=float((lists[0] != lists[1]).any(axis=1).mean()),
        ndcg_at_20_before=float(values[0].mean()),
        ndcg_at_20_after=float(values[1].mean()),
        ndcg_difference=Resampler(len(targets)).mean(values[1] - values[0]).as_json(),
        alone_ratio=alone,
        served_ratio=served_ratio,
        shares_runs_before=least[0] is not None,
        shares_runs_after=least[1] is not None,
    )


def _told(on_step: OnStep, what: str, total: int, done: int) -> None:
    on_step(what, done, total)


def _gather(gathered: list[NDArray[np.float32]], answer: Answer) -> None:
    assert answer.candidates is not None
    # By id: the order of candidates is no promise.
    order = np.argsort(np.array(answer.candidates.item_ids))
    gathered.append(answer.candidates.scores[order])


def _time_ratios(
    bundle: Bundle, scorers: tuple[OnnxScorer, ...], least: Sequence[int | None]
) -> tuple[float, float]:
    """How many times as long a list takes, alone in a run and as served: medians of rounds in which the
    two models take turns."""
    model, feed = bundle.manifest.model, feed_maker(scorers[0].ports, bundle.state)
    made = []
    for one in bundle.warmups:
        found = generate_candidates(
            one.history, one.now_ms, bundle.state, model.n_novel, n_popular=model.n_popular
        )
        made.append(feed(one.history, found.items, one.now_ms))
    batch = list(islice(cycle(made), max(model.best_batch, len(made))))
    parts = [batch[at : at + model.best_batch] for at in range(0, len(batch), model.best_batch)]

    def alone(scorer: OnnxScorer, _least: int | None) -> None:
        scorer.score_lists(batch, None)

    def served(scorer: OnnxScorer, least: int | None) -> None:
        for part in parts:
            scorer.score_lists(part, least)

    return _ratio(alone, scorers, least), _ratio(served, scorers, least)


def _ratio(
    run: Callable[[OnnxScorer, int | None], None],
    scorers: tuple[OnnxScorer, ...],
    least: Sequence[int | None],
) -> float:
    found = []
    for number in range(ROUNDS + 2):
        taken = [0, 0]
        for which in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter_ns()
            run(scorers[which], least[which])
            taken[which] = time.perf_counter_ns() - began
        found.append(taken[1] / taken[0])
    return round(float(np.median(found[2:])), 3)


def lines_of(loss: Loss) -> list[str]:
    """What it lost, for people."""
    by = loss.ndcg_difference
    served, alone = (_times(ratio) for ratio in (loss.served_ratio, loss.alone_ratio))
    together = (
        "" if loss.shares_runs_after or not loss.shares_runs_before
        else ": lists no longer share runs, since a score would move with its company"
    )  # fmt: skip
    return [
        f"size     {loss.bytes_before:,} -> {loss.bytes_after:,} bytes of model.onnx "
        f"({', '.join(loss.operators)} in 8 bits)",
        f"scores   off by up to {loss.largest_difference:.2g}, {loss.mean_difference:.2g} on average",
        f"lists    {loss.changed_lists:.1%} of {loss.users:,} have another first {K}",
        f"NDCG@20  {loss.ndcg_at_20_before:.4f} -> {loss.ndcg_at_20_after:.4f} on validation, "
        f"{by['value']:+.5f} [{by['low']:+.5f}, {by['high']:+.5f}]"
        + (" (the bundle learned from these weeks)" if loss.seen else ""),
        f"time     a list alone in a run {alone}; as served {served}{together}",
        "verdict  " + ("it pays" if loss.pays else "it does not pay: serve the one it was made of"),
    ]


def _times(ratio: float) -> str:
    return f"{1 / ratio:.2f} times as fast" if ratio < 1 else f"{ratio:.2f} times as slow"
