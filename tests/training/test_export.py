"""Export: both axes stay dynamic, and the parity gate sees each kind of planted fault."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from server import __version__
from server.bundle import MeasuredBatch, load_bundle, ports_of
from server.features import FEATURE_NAMES
from server.model import OnnxScorer, pair_ports
from strategies.bundles import tiny_bundle
from training import export
from training.export import (
    ParityFailed,
    best_batch,
    check_parity,
    export_onnx,
    measured_batches,
)
from training.families import family_of
from training.model import PairRanker
from training.rows import Lists
from training.sequence_model import SequenceRanker
from training.stacked_model import StackedRanker
from training.towers import TowerRanker

pytestmark = pytest.mark.slow

F = 6


@pytest.fixture(scope="module")
def model() -> PairRanker:
    torch.manual_seed(0)
    return PairRanker(torch.arange(F).float(), torch.arange(1, F + 1).float(), (16, 8)).eval()


@pytest.fixture(scope="module")
def exported(model: PairRanker) -> bytes:
    return export_onnx(model)


@pytest.fixture(scope="module")
def scorer(exported: bytes) -> OnnxScorer:
    return OnnxScorer(exported, pair_ports(F))


@pytest.fixture(scope="module")
def real() -> Lists:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 90, 12)
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = int(ptr[-1])
    return Lists(
        rng.normal(2, 3, (rows, F)).astype(np.float32),
        rng.random(rows) < 0.1,
        np.concatenate([rng.permutation(n) for n in lengths]).astype(np.int32),
        ptr,
        np.ones(len(lengths), np.int64),
        np.zeros((len(lengths), 0), np.int32),
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (2, 3), (33, 1), (7, 450)])
def test_every_shape_of_batch_and_list_gives_what_torch_gave(
    model: PairRanker, scorer: OnnxScorer, shape: tuple[int, int]
) -> None:
    features = np.random.default_rng(1).normal(0, 5, (*shape, F)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(features)).numpy()
    scores = scorer.score({"features": features})
    assert scores.shape == shape
    assert scores == pytest.approx(expected, abs=1e-6)
    assert 0 <= scores.min() <= scores.max() <= 1


def test_the_file_is_one_piece_of_the_stated_opset(exported: bytes) -> None:
    graph = onnx.load_model_from_string(exported)
    assert [o.version for o in graph.opset_import if o.domain == ""] == [export.OPSET]
    assert not [t.name for t in graph.graph.initializer if t.external_data]
    dimensions = [d.dim_param for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert all(dimensions[:2])


def test_the_file_says_nothing_of_the_machine_and_is_the_same_each_time(
    model: PairRanker, exported: bytes
) -> None:
    assert str(Path(__file__).parents[2]).encode() not in exported
    assert b"stack_trace" not in exported
    assert export_onnx(model) == exported


@pytest.mark.parametrize("family", ["pairs", "sasrec", "two-tower", "both"])
def test_a_viewer_finds_names_texts_axes_and_origin(family: str) -> None:
    width, length = len(FEATURE_NAMES), 7
    sequence = SequenceRanker(9, length, width=8)
    ranker = {
        "pairs": PairRanker(torch.zeros(width), torch.ones(width), (8, 4)),
        "sasrec": sequence,
        "two-tower": TowerRanker(9, length, 8),
        "both": StackedRanker(
            PairRanker(torch.zeros(width + 1), torch.ones(width + 1), (8, 4)), sequence
        ),
    }[family]
    told = onnx.load_model_from_string(export_onnx(ranker.eval(), {"horizon_days": "28"}))
    onnx.checker.check_model(told, full_check=True)
    named = family_of(ranker)
    axes = {
        port.name: [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for port in (*told.graph.input, *told.graph.output)
    }
    expected = {
        "features": ["batch", "n", width], "history": ["batch", length], "candidates": ["batch", "n"],
    }  # fmt: skip
    reads = {"pairs": ["features"], "both": [*expected]}.get(family, ["history", "candidates"])
    assert axes == {**{name: expected[name] for name in reads}, "scores": ["batch", "n"]}
    assert all(port.doc_string for port in (*told.graph.input, *told.graph.output))
    assert (told.producer_name, told.producer_version) == ("equipoise", __version__)
    assert told.graph.name == named.name
    assert named.told in told.doc_string
    words = {entry.key: entry.value for entry in told.metadata_props}
    assert words["family"] == named.name
    assert words["horizon_days"] == "28"
    assert words["opset"] == str(export.OPSET)
    assert json.loads(words["inputs"]) == reads
    assert ("feature_names" in words) == ("features" in reads)
    if "features" in reads:
        assert tuple(json.loads(words["feature_names"])) == FEATURE_NAMES
    names = [node.name for node in told.graph.node]
    assert len(set(names)) == len(names)
    # By the modules of torch: what belongs to a layer says so.
    layer = {"pairs": "/layers/0/MatMul", "both": "/pairs/layers/0/MatMul"}.get(family)
    assert (layer or "/items/Gather") in names
    assert not any("_empty" in name for name in names)
    # And onnxruntime, which serves it, sees the same.
    session = onnxruntime.InferenceSession(told.SerializeToString())
    assert session.get_modelmeta().custom_metadata_map == words


def test_an_honest_export_passes_the_gate(
    model: PairRanker, scorer: OnnxScorer, real: Lists
) -> None:
    assert check_parity(model, scorer, real) <= 1e-5


class Faulty:
    """A scorer that is wrong in one way."""

    def __init__(self, honest: OnnxScorer, fault: str) -> None:
        self._honest, self._fault, self.ports = honest, fault, honest.ports

    def score(self, feed: dict[str, np.ndarray]) -> np.ndarray:
        scores = self._honest.score(feed)
        batch, n = scores.shape
        if self._fault == "offset":
            return scores + np.float32(2e-4)
        if self._fault == "nan":
            scores[-1, -1] = np.nan
        if self._fault == "long lists only" and n > 600:
            scores[-1, -1] += 1e-3
        if self._fault == "large batches only" and batch > 30:
            scores[-1, 0] += 1e-3
        if self._fault == "ties" and batch == 1:
            # Less than the tolerance, and yet another list.
            scores = np.round(scores, 4)
        return scores


@pytest.mark.parametrize("fault", ["offset", "nan", "long lists only", "large batches only"])
def test_a_planted_fault_fails_the_gate(
    model: PairRanker, scorer: OnnxScorer, real: Lists, fault: str
) -> None:
    with pytest.raises(ParityFailed, match="torch and onnxruntime differ by"):
        check_parity(model, Faulty(scorer, fault), real)  # type: ignore[arg-type]


def test_another_top_20_fails_the_gate_though_every_score_is_near(
    model: PairRanker, scorer: OnnxScorer, real: Lists
) -> None:
    close = copy.deepcopy(model)
    # Scores so near to each other that rounding within the tolerance makes ties.
    close.scale.fill_(1e-3)
    with pytest.raises(ParityFailed, match="another top 20"):
        check_parity(close, Faulty(OnnxScorer(export_onnx(close), pair_ports(F)), "ties"), real)  # type: ignore[arg-type]


def test_the_gate_looks_at_other_weights_and_says_so(model: PairRanker, real: Lists) -> None:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.layers[0].weight[0, 0] += 0.5  # type: ignore[union-attr,operator]
    with pytest.raises(ParityFailed):
        check_parity(other, OnnxScorer(export_onnx(model), pair_ports(F)), real)


def test_the_best_batch_is_the_smallest_within_five_percent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0]
    monkeypatch.setattr(export.time, "perf_counter_ns", lambda: clock[0])

    class Timed:
        per_list = {1: 100, 2: 80, 4: 60, 8: 52, 16: 50, 32: 49}  # noqa: RUF012

        def score(self, feed: dict[str, np.ndarray]) -> np.ndarray:
            batch, n, _ = feed["features"].shape
            clock[0] += self.per_list[batch] * batch * n
            return np.zeros((batch, n), np.float32)

    def draw(lists: int, candidates: int) -> dict[str, np.ndarray]:
        return {"features": np.zeros((lists, candidates, F), np.float32)}

    measured = measured_batches(Timed(), draw)  # type: ignore[arg-type]
    assert len(measured) == 6 * 4
    assert measured[0] == MeasuredBatch(lists=1, candidates=48, list_us=4.8)
    assert measured[-1] == MeasuredBatch(lists=32, candidates=1008, list_us=49.4)
    assert best_batch(measured) == 16


def test_a_model_without_torch_is_served_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny_bundle(path)
    bundle = load_bundle(path)
    scorer = OnnxScorer(bundle.model, ports_of(bundle.manifest.model))
    assert math.isclose(
        float(np.abs(scorer.score(bundle.golden_inputs) - bundle.golden_outputs).max()),
        0.0,
        abs_tol=1e-6,
    )
