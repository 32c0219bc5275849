"""The article's model: what its towers read, what its formula cannot do, and that it is served as trained."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from server.model import OnnxScorer, sequence_ports
from training.content import Words
from training.export import export_onnx
from training.learners import TowerLearner
from training.settings import SequenceSettings
from training.towers import TowerRanker

ITEMS = 30
SMALL = SequenceSettings(family="two-tower", length=6, width=8, dropout=0.0)
FORMULA = dataclasses.replace(SMALL, family="two-tower-difference")
# Item 0 has words 0 and 1, item 1 word 1, the others none.
WORDS = Words(np.array([0, 2, 3, *([3] * (ITEMS - 2))]), np.array([0, 1, 1]), 2)


def histories(rows: int = 5) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(1, ITEMS + 1, (rows, 6)).astype(np.int32))


def learner(settings: SequenceSettings) -> TowerLearner:
    torch.manual_seed(1)
    return TowerLearner(ITEMS, WORDS, settings)


def orders(model: TowerRanker) -> np.ndarray:
    everything = torch.arange(1, ITEMS + 1, dtype=torch.int32).expand(5, ITEMS)
    with torch.no_grad():
        return np.argsort(-model.eval()(histories(), everything).numpy(), kind="stable")


def test_the_formula_gives_every_user_the_same_order() -> None:
    ordered = orders(learner(FORMULA).folded())
    assert (ordered == ordered[0]).all()
    assert (orders(learner(SMALL).folded()) != orders(learner(SMALL).folded())[0]).any()


def test_the_formula_cannot_be_taught_anything_of_users() -> None:
    for settings, taught in ((SMALL, True), (FORMULA, False)):
        model = learner(settings)
        states, vectors = model.step(histories().long())
        (states @ vectors(None).T).logsumexp(-1).sum().backward()
        gradient = model.ranker.user_tower.embedding.weight.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) is taught
        assert model.item_tower.embedding.weight.grad is not None


def test_the_logit_is_what_the_modules_say() -> None:
    for settings in (SMALL, FORMULA):
        model = learner(settings).folded()
        u = model.user_tower(histories())
        p = model.items(torch.tensor([3, 9]))
        joined = (
            p @ model.of_item + (u[:, None] * p) @ model.of_both
            if model.product
            else -p @ model.of_user
        )
        wanted = joined + (u @ model.of_user)[:, None]
        asked = torch.tensor([[3, 9]], dtype=torch.int32).expand(5, 2)
        assert torch.allclose(model.logits(histories(), asked), wanted, atol=1e-6)


def test_room_before_a_history_changes_nothing() -> None:
    model = learner(SMALL).folded()
    short = histories()[:, -3:]
    padded = torch.cat([torch.zeros(5, 3, dtype=torch.int32), short], 1)
    assert torch.equal(model.user(short), model.user(padded))


def test_the_states_of_training_are_the_users_of_serving() -> None:
    model = learner(SMALL).folded()
    states = model.states(histories())
    for place in range(6):
        assert torch.allclose(states[:, place], model.user(histories()[:, : place + 1]), atol=1e-6)


def test_the_item_tower_reads_words_and_then_the_item() -> None:
    model = learner(SMALL)
    word = ITEMS + 1
    assert model.tokens[:4].tolist() == [
        [0, 0, 0],
        [word, word + 1, 1],
        [0, word + 1, 2],
        [0, 0, 3],
    ]
    with torch.no_grad():
        table = model.folded().items.weight
        assert torch.allclose(table[2], model.item_tower(torch.tensor([[word + 1, 2]]))[0])


@pytest.mark.parametrize("settings", [SMALL, FORMULA], ids=["product", "formula"])
def test_onnxruntime_gives_what_torch_gives(settings: SequenceSettings) -> None:
    model = learner(settings).folded()
    scorer = OnnxScorer(export_onnx(model), sequence_ports(6))
    rng = np.random.default_rng(3)
    for batch, candidates in ((1, 1), (1, 40), (3, 7), (17, 5)):
        history = rng.integers(0, ITEMS + 1, (batch, 6)).astype(np.int32)
        asked = rng.integers(1, ITEMS + 1, (batch, candidates)).astype(np.int32)
        with torch.no_grad():
            wanted = model(torch.from_numpy(history), torch.from_numpy(asked)).numpy()
        given = scorer.score({"history": history, "candidates": asked})
        assert given == pytest.approx(wanted, abs=1e-5)
