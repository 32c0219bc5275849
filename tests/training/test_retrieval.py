"""The two-stage search: what it finds is what exact search finds, and what it says of itself is so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from server.bundle import Retrieval, load_bundle, write_bundle
from server.errors import BundleRefused
from server.model import OnnxRetriever
from strategies.bundles import reseal, sequence_parts, tiny_parts
from training.learners import HistoryRanker
from training.retrieval import search
from training.retrieval.__main__ import main
from training.retrieval.search import CELL, TwoStage, cells_of, two_stage
from training.sequence_model import SequenceRanker
from training.towers import TowerRanker

pytestmark = pytest.mark.slow

ITEMS, LENGTH, WIDTH, NOVEL = 3_000, 6, 16, 20


def ranker(family: str) -> HistoryRanker:
    torch.manual_seed(0)
    model: HistoryRanker = (
        SequenceRanker(ITEMS, LENGTH, WIDTH) if family == "sasrec" else TowerRanker(ITEMS, LENGTH, WIDTH)
    )  # fmt: skip
    kinds = torch.randn(40, WIDTH)
    with torch.no_grad():
        model.items.weight[1:] = kinds[torch.randint(0, 40, (ITEMS,))] + 0.3 * torch.randn(
            ITEMS, WIDTH
        )
    return model.eval()


def histories() -> np.ndarray:
    rng = np.random.default_rng(0)
    recent = rng.integers(1, ITEMS + 1, (200, LENGTH)).astype(np.int32)
    recent[::3, :4] = 0
    recent[::50] = 0
    return recent


@pytest.fixture(scope="module", params=["sasrec", "two-tower"])
def made(request: pytest.FixtureRequest) -> tuple[HistoryRanker, TwoStage]:
    model = ranker(request.param)
    return model, two_stage(model, histories(), NOVEL, seed=0)


def test_it_finds_most_of_what_exact_search_finds_in_its_order(
    made: tuple[HistoryRanker, TwoStage],
) -> None:
    model, found = made
    k = found.told.items
    assert k == 2 * NOVEL + LENGTH
    retriever = OnnxRetriever(found.graph, LENGTH, k, ITEMS)
    everything = torch.arange(1, ITEMS + 1)[None]
    shares = []
    for history in histories()[1:120]:
        if not history.any():
            continue
        with torch.no_grad():
            scores = model(torch.from_numpy(history[None]), everything)[0].numpy()
        items = retriever.items(history)
        assert len(set(items.tolist())) == len(items) == k
        own = scores[items]
        assert (np.diff(own) <= 1e-6).all()
        # Of equal scores any may be taken.
        shares.append((own >= np.sort(scores)[-k] - 1e-6).mean())
    assert np.mean(shares) == pytest.approx(found.told.recall, abs=0.03)
    assert found.told.recall >= search.RECALL - 0.03
    # And not by looking at everything.
    assert found.looked_into < found.cells
    assert f"recall@{k} {found.told.recall:.4f}" in found.line


def test_where_less_recall_is_asked_for_fewer_cells_are_looked_into(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ranker("sasrec")
    whole = two_stage(model, histories(), NOVEL, seed=0)
    monkeypatch.setattr(search, "RECALL", 0.2)
    less = two_stage(model, histories(), NOVEL, seed=0)
    assert less.looked_into < whole.looked_into
    assert less.told.recall < whole.told.recall


def test_the_graph_is_standard_has_one_table_and_says_what_it_is(
    made: tuple[HistoryRanker, TwoStage],
) -> None:
    _, found = made
    graph = onnx.load_model_from_string(found.graph)
    onnx.checker.check_model(graph, full_check=True)
    tables = [t.name for t in graph.graph.initializer if np.prod(t.dims) >= ITEMS * WIDTH]
    # The tower's history has a table of its own.
    assert len(tables) == (2 if any("user_tower" in name for name in tables) else 1)
    assert graph.producer_name == "equipoise"
    assert all(port.doc_string for port in (*graph.graph.input, *graph.graph.output))
    assert found.as_json()["share_scored"] < 1


def test_each_item_is_in_one_cell_and_near_ones_are_together() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(9, 8)) * 10
    of_item = rng.integers(0, 9, 2_000)
    vectors = (kinds[of_item] + rng.normal(size=(2_000, 8))).astype(np.float32)
    cells = cells_of(vectors, seed=0)
    assert cells.shape[1] == CELL
    assert sorted(cells[cells > 0].tolist()) == list(range(1, 2_001))
    alike = [len(set(of_item[cell[cell > 0] - 1].tolist())) for cell in cells]
    assert np.mean(alike) < 2
    assert np.array_equal(cells, cells_of(vectors, seed=0))


def test_a_server_takes_such_a_bundle_and_refuses_a_wrong_one(tmp_path: Path) -> None:
    parts = sequence_parts()
    n_items, length = len(parts.items.ids), parts.history_length
    found = two_stage(
        SequenceRanker(n_items, length, 8).eval(),
        np.random.default_rng(0).integers(1, n_items + 1, (20, length)).astype(np.int32),
        3,
        seed=0,
    )
    bundle = tmp_path / "bundle"
    write_bundle(replace(parts, retrieval=(found.told, found.graph)), bundle)
    loaded = load_bundle(bundle)
    assert loaded.retrieval == found.graph
    assert loaded.manifest.model.retrieval == found.told

    # Another number of items than the graph gives.
    reseal(bundle, change=lambda m: m["model"]["retrieval"].update(items=found.told.items - 1))
    with pytest.raises(BundleRefused, match=r"retrieval\.onnx: output 'items'"):
        load_bundle(bundle)
    # A file that the manifest says nothing of, and one that is not there.
    reseal(bundle, change=lambda m: m["model"].pop("retrieval"))
    with pytest.raises(BundleRefused, match=r"retrieval\.onnx: does not belong"):
        load_bundle(bundle)
    (bundle / "retrieval.onnx").unlink()
    told = json.loads(found.told.model_dump_json())
    reseal(bundle, change=lambda m: m["model"].update(retrieval=told))
    with pytest.raises(BundleRefused, match=r"retrieval\.onnx: is missing"):
        load_bundle(bundle)
    with pytest.raises(BundleRefused, match="retrieval beside history_length 0"):
        write_bundle(replace(tiny_parts(), retrieval=(found.told, found.graph)), tmp_path / "other")


def test_a_graph_that_names_an_item_that_is_not_there_is_caught(
    made: tuple[HistoryRanker, TwoStage],
) -> None:
    _, found = made
    few = OnnxRetriever(found.graph, LENGTH, found.told.items, 100)
    with pytest.raises(ValueError, match=r"expected \[1, 46\] of 0 to 100"):
        few.items(histories()[1])


def test_the_benchmark_prints_recall_and_time_of_each_size(tmp_path: Path) -> None:
    out = tmp_path / "out" / "retrieval.json"
    done = CliRunner().invoke(main, ["--sizes", "2000,1e3", "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows = json.loads(out.read_text())["sizes"]
    assert [row["items"] for row in rows] == [1_000, 2_000]
    for row in rows:
        assert row["weights_recall"] == 1.0  # the index is exact on the weights that it holds
        assert 0.5 < row["search_recall"] <= 1
        assert 0 < row["share_scored"] <= 1
        assert min(row["weights_ms"], row["search_ms"], row["exact_ms"]) > 0
        assert f"{row['search_recall']:.4f}" in done.stdout
    refused = CliRunner().invoke(main, ["--sizes", "10"])
    assert refused.exit_code == 2
    assert "allowed: numbers of items from 1,000" in refused.output


def test_the_recall_that_a_manifest_may_tell_is_a_share() -> None:
    with pytest.raises(ValueError, match="recall"):
        Retrieval(file="retrieval.onnx", items=5, recall=1.2)
