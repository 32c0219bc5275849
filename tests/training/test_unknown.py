"""Whoever has no history: the ranker's order or the best sellers', by validation, and as it is served."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from server.bundle import load_bundle
from server.engine import Answer, Engine, RecommendQuery
from server.features import FEATURE_NAMES
from server.features.types import DAY_MS
from strategies.learning import lists_of
from strategies.purchases import shop_rows, tables
from training.data.prepare import prepare_tables
from training.export import check_parity, export_onnx, scorer_of
from training.families import family_of
from training.model import PairRanker
from training.pipeline import Pipeline
from training.rows import Lists
from training.settings import TrainSettings
from training.unknown import COLUMNS, Unknown, choose_unknown

WIDTH = len(FEATURE_NAMES)


def ranker() -> PairRanker:
    torch.manual_seed(3)
    return PairRanker(torch.full((WIDTH,), 0.5), torch.ones(WIDTH), (8, 4)).eval()


def test_only_an_empty_history_gets_the_order_of_best_sellers() -> None:
    features = torch.rand(3, 7, WIDTH) + 0.1
    features[1, :, COLUMNS.history] = 0
    model = ranker()
    plain = model(features)
    Unknown(0.2, 0.1, scale=2.0, offset=-3.0).give(model)
    assert torch.equal(model(features), plain)
    Unknown(0.1, 0.2, scale=2.0, offset=-3.0).give(model)
    given = model(features)
    assert torch.equal(given[[0, 2]], plain[[0, 2]])
    wanted = 1 / (1 + np.exp(-(2.0 * features[1, :, COLUMNS.popularity].numpy() - 3.0)))
    assert np.allclose(given[1].detach().numpy(), wanted, atol=1e-6)


def test_the_columns_are_what_they_are_taken_for() -> None:
    assert FEATURE_NAMES[COLUMNS.history] == "user_items"
    assert FEATURE_NAMES[COLUMNS.popularity] == "popularity_recent"


def hidden_lists(best: int) -> Lists:
    """Lists whose purchases are the candidate of this rank by popularity, and nothing else."""
    lists = lists_of(0)
    features = np.zeros((len(lists.labels), WIDTH), np.float32)
    labels = np.zeros(len(lists.labels), np.bool_)
    for start, end in zip(lists.ptr[:-1], lists.ptr[1:], strict=True):
        features[start:end, COLUMNS.popularity] = np.arange(end - start, 0, -1)
        labels[start + best] = True
    return replace(lists, features=features, labels=labels, n_targets=np.ones(len(lists), np.int64))


def test_validation_chooses() -> None:
    model = ranker()
    chosen = choose_unknown(model, hidden_lists(0))
    assert chosen.best_sellers
    assert chosen.ndcg_of_best_sellers == 1.0
    assert chosen.scale > 0
    assert chosen.as_json()["order"] == "best sellers"
    # A ranker that has the right order where best sellers have not.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.layers[0].weight[0, COLUMNS.popularity] = -1.0
        model.layers[0].bias[0] = 100.0
        model.layers[2].weight[0, 0] = 1.0
        model.layers[4].weight[0, 0] = 1.0
    lists = hidden_lists(0)
    last = np.zeros_like(lists.labels)
    last[lists.ptr[1:] - 1] = True
    chosen = choose_unknown(model, replace(lists, labels=last))
    assert not chosen.best_sellers
    assert chosen.as_json()["order"] == "ranker"


def test_the_graph_gives_what_torch_gives_for_an_empty_history() -> None:
    model = ranker()
    Unknown(0.1, 0.2, scale=0.2, offset=-4.0).give(model)
    lists = hidden_lists(0)
    scorer = scorer_of(export_onnx(model), family_of(model))
    assert check_parity(model, scorer, lists) < 1e-4
    feed = {"features": lists.features[np.newaxis, : lists.ptr[1]]}
    scores = scorer.score(feed)[0]
    assert (np.diff(scores) < 0).all()


@pytest.mark.slow
def test_a_served_user_without_a_history_gets_the_best_sellers(tmp_path: Path) -> None:
    prepared = prepare_tables(tables(shop_rows(n_users=60)))
    out = tmp_path / "bundle"
    released = Pipeline(
        prepared, replace(TrainSettings.quick(), n_novel=30), Console(quiet=True)
    ).run(name="shop", policies=None, default_policy=None, out=out)
    told = released.manifest.quality["no_history"]
    assert isinstance(told, dict)
    assert told["order"] == "best sellers", told
    bundle = load_bundle(out)
    engine = Engine(bundle)
    engine.warm_up()
    (answer,) = engine.run_batch([RecommendQuery(count=10, policy="none")])
    assert isinstance(answer, Answer)
    data, until = prepared.dataset, prepared.split.validation_until_ms
    sold = Counter(
        data.item_ids[item]
        for item, time_ms in zip(data.items.tolist(), data.times_ms.tolist(), strict=True)
        if until - 28 * DAY_MS < time_ms <= until
    )
    counts = [sold[item] for item in answer.item_ids]
    assert counts == sorted(sold.values(), reverse=True)[:10]
