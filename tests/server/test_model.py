"""The scorer: what goes in, what comes out, and what it says of what does not fit."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from server.model import OnnxScorer, pair_ports, sequence_ports
from strategies.bundles import HISTORY_LENGTH, N_ITEMS, tiny_model, tiny_sequence_model

F = 5
MODEL = tiny_model(np.random.default_rng(3), F)


def scorer(model: bytes = MODEL, n_features: int = F) -> OnnxScorer:
    return OnnxScorer(model, pair_ports(n_features))


def score(inputs: np.ndarray, by: OnnxScorer | None = None) -> np.ndarray:
    return (by or scorer()).score({"features": inputs})


def features(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (1, 430), (4, 5), (33, 2)])
def test_every_candidate_gets_one_score_at_any_shape(shape: tuple[int, int]) -> None:
    scores = score(features(*shape, F))
    assert scores.shape == shape
    assert scores.dtype == np.float32
    assert ((scores > 0) & (scores < 1)).all()


def test_scores_are_those_of_the_formula_and_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 0.3, (F, 8)), rng.normal(0, 0.3, (8, 1))
    inputs = features(6, 9, F)
    expected = 1 / (1 + np.exp(-(np.maximum(inputs @ a, 0) @ b)[..., 0]))
    np.testing.assert_allclose(score(inputs), expected, atol=1e-5)
    one_by_one = np.stack([score(row[np.newaxis])[0] for row in inputs])
    np.testing.assert_allclose(score(inputs), one_by_one, atol=1e-6)


def test_views_that_are_not_contiguous_score_like_their_copies() -> None:
    wide = features(4, 8, 2 * F)
    view = wide[:, ::2, ::2]
    assert not view.flags.c_contiguous
    np.testing.assert_array_equal(score(view), score(view.copy()))


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_nothing_in_gives_nothing_out_without_a_model_run(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = scorer()
    monkeypatch.setattr(idle, "_session", None)
    assert score(np.empty((*shape, F), np.float32), idle).shape == shape


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (features(3, F), r"got shape \[3, 5\], expected \[batch, n, 5\]"),
        (features(2, 3, F + 1), r"got shape \[2, 3, 6\], expected \[batch, n, 5\]"),
        (features(2, 3, F).astype(np.float64), "got dtype float64, expected float32"),
    ],
)
def test_another_shape_or_type_is_refused_naming_both(inputs: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        score(inputs)


def test_a_model_with_other_ports_is_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"\['features'\], expected \['history', 'candidates'\]"):
        OnnxScorer(MODEL, sequence_ports(3))
    with pytest.raises(ValueError, match=r"'n', 5\], expected \['dynamic', 'dynamic', 6\]"):
        scorer(n_features=6)
    other = onnx.load_from_string(MODEL)
    other.graph.output[0].name = other.graph.node[-1].output[0] = "y"
    with pytest.raises(ValueError, match=r"the model has \['y'\], expected \['scores'\]"):
        scorer(other.SerializeToString())


def test_lists_of_different_lengths_score_as_they_do_alone() -> None:
    lists = [{"features": features(n, F)} for n in (3, 0, 7, 1)]
    together = scorer().score_lists(lists)
    assert [len(scores) for scores in together] == [3, 0, 7, 1]
    for feed, scores in zip(lists, together, strict=True):
        alone = scorer().score_lists([feed])[0]
        np.testing.assert_allclose(scores, alone, atol=1e-6)


def test_a_sequence_model_reads_each_lists_own_history() -> None:
    rng = np.random.default_rng(5)
    model = OnnxScorer(tiny_sequence_model(rng), sequence_ports(HISTORY_LENGTH))
    feeds = [
        {
            "history": rng.integers(0, N_ITEMS + 1, HISTORY_LENGTH).astype(np.int32),
            "candidates": rng.integers(1, N_ITEMS + 1, n).astype(np.int32),
        }
        for n in (4, 9)
    ]
    together = model.score_lists(feeds)
    assert [len(scores) for scores in together] == [4, 9]
    for feed, scores in zip(feeds, together, strict=True):
        np.testing.assert_allclose(scores, model.score_lists([feed])[0], atol=1e-5)
    two = {name: np.stack([feeds[0][name], feeds[0][name]]) for name in feeds[0]}
    with pytest.raises(ValueError, match=r"candidates: got shape \[1, 4\], expected \[batch, n\]"):
        model.score({**two, "candidates": two["candidates"][:1]})


@pytest.mark.parametrize("model", [b"", b"x", MODEL[:200]])
def test_what_is_no_model_is_refused_in_one_line(model: bytes) -> None:
    with pytest.raises(ValueError, match="onnxruntime cannot load the model: ") as refused:
        scorer(model)
    assert "\n" not in str(refused.value)
