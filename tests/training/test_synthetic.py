"""Bundles of made-up catalogues: they are served like any other, and a list has one set of bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from server.bundle import feed_maker, load_bundle, ports_of
from server.cli import command as equipoise
from server.engine import Answer, Engine, RecommendQuery
from server.events import EventKind, StoredHistory
from server.features.types import History
from server.model import OnnxScorer, sequence_ports
from training.commands import synthetic_bundle
from training.export import export_onnx
from training.sequence_model import SequenceRanker

pytestmark = pytest.mark.slow

ITEMS = 300


@pytest.fixture(scope="module", params=["history", "pair-features"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made-up") / "bundle"
    flags = ["--items", str(ITEMS), "--reads", request.param, "--history-length", "12"]
    made = CliRunner().invoke(synthetic_bundle, [*flags, "--out", str(out)])
    assert made.exit_code == 0, made.output
    assert f"{ITEMS} items, reads {request.param}" in made.output
    return out


def test_what_its_batches_cost_is_shown(path: Path) -> None:
    shown = CliRunner().invoke(equipoise, ["bundle", "show", str(path)])
    lines = shown.output.splitlines()
    (head,) = (place for place, line in enumerate(lines) if line.startswith("  batches"))
    assert lines[head + 1].split() == ["48", "208", "432", "1,008"]
    rows = [line.split() for line in lines[head + 2 : head + 8]]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16", "32"]
    costs = np.array(rows, float)[:, 1:]
    assert (costs > 0).all()
    model = load_bundle(path).manifest.model
    assert len(model.measured_batches) == costs.size
    typical = costs[:, 2]
    best = [int(row[0]) for row in rows].index(model.best_batch)
    assert typical[best] <= typical.min() * 1.05


def query(rng: np.random.Generator, size: int, policy: str = "none") -> RecommendQuery:
    bought = rng.integers(0, ITEMS, int(rng.integers(0, 30)))
    return RecommendQuery(
        count=10,
        history=StoredHistory(
            tuple(f"item-{item:03}" for item in bought),
            np.arange(len(bought), dtype=np.int64) * 86_400_000,
            np.full(len(bought), EventKind.PURCHASE, np.int8),
            np.ones(len(bought), np.float32),
        ),
        candidate_ids=tuple(
            f"item-{item:03}" for item in rng.choice(ITEMS, size, replace=False).tolist()
        ),
        policy=policy,
        as_of_ms=1_700_000_000_000,
        with_candidates=True,
    )


def test_it_is_served_and_its_warm_up_lists_come_out(path: Path) -> None:
    engine = Engine(load_bundle(path))
    assert engine.warm_up() == 12
    (answer,) = engine.run_batch([query(np.random.default_rng(0), 120, "provider-tiers")])
    assert isinstance(answer, Answer)
    assert len(answer.item_ids) == 10
    assert answer.fair.receipt.status.name == "MET"


def test_the_same_request_has_the_same_bits_alone_and_in_any_batch(path: Path) -> None:
    engine = Engine(load_bundle(path))
    rng = np.random.default_rng(7)
    queries = [query(rng, int(rng.integers(1, ITEMS + 1))) for _ in range(24)]
    alone = [engine.run_batch([one])[0] for one in queries]
    for size in (2, 5, 16, 24):
        together = [
            outcome
            for start in range(0, len(queries), size)
            for outcome in engine.run_batch(queries[start : start + size])
        ]
        for one, other in zip(alone, together, strict=True):
            assert isinstance(one, Answer)
            assert isinstance(other, Answer)
            assert one.candidates is not None
            assert other.candidates is not None
            assert one.candidates.scores.tobytes() == other.candidates.scores.tobytes()
            assert one.item_ids == other.item_ids


def test_onnxruntime_gives_what_torch_gives_at_any_shape() -> None:
    torch.manual_seed(3)
    model = SequenceRanker(50, 6, width=16).eval()
    for part in model.parameters():  # as trained ones, that scores are not all one half
        torch.nn.init.normal_(part, std=0.4)
    scorer = OnnxScorer(export_onnx(model), sequence_ports(6))
    rng = np.random.default_rng(0)
    for lists, candidates in ((1, 1), (1, 40), (3, 7), (17, 33)):
        history = rng.integers(1, 51, (lists, 6)).astype(np.int32)
        for row in history:  # of different lengths, newest last
            row[: rng.integers(0, 7)] = 0
        feed = {
            "history": history,
            "candidates": rng.integers(1, 51, (lists, candidates)).astype(np.int32),
        }
        with torch.no_grad():
            wanted = model(*(torch.from_numpy(feed[name]) for name in ("history", "candidates")))
        found = scorer.score(feed)
        assert found.std() > 0.01 or found.size == 1
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_what_stands_before_a_history_counts_for_nothing() -> None:
    """The same items give the same scores, however many places are empty before them."""
    torch.manual_seed(4)
    model = SequenceRanker(50, 8, width=16).eval()
    other = torch.arange(1, 11, dtype=torch.int32)[None]
    short = torch.tensor([[0, 0, 0, 0, 0, 5, 9, 2]], dtype=torch.int32)
    with torch.no_grad():
        model.items.weight[0] += 3  # what an empty place holds must not be read
        before = model(short, other)
        model.items.weight[0] -= 7
        assert torch.equal(model(short, other), before)


def test_a_history_is_read_in_its_order(path: Path) -> None:
    bundle = load_bundle(path)
    if bundle.manifest.model.reads != "history":
        return
    feed = feed_maker(ports_of(bundle.manifest.model), bundle.state)
    scorer = OnnxScorer(bundle.model, ports_of(bundle.manifest.model))
    items = np.arange(20, dtype=np.int32)
    times = np.arange(20, dtype=np.int64)
    ones = np.ones(20, np.float32)
    ahead = feed(History.of(items, times, ones), np.arange(30, dtype=np.int32), 99)
    back = feed(History.of(items[::-1], times, ones), np.arange(30, dtype=np.int32), 99)
    assert (scorer.score_lists([ahead])[0] != scorer.score_lists([back])[0]).any()
