"""The sequence model: it learns what follows what, also of items that were bought once, and is served."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console

from server.bundle import load_bundle, ports_of
from server.engine import Answer, Engine, RecommendQuery
from server.errors import Refused
from server.features import FEATURE_NAMES
from server.features.sequence import sequence as read_by_model
from server.model import OnnxScorer
from training import fitting, sequence_train
from training.content import words_of
from training.data.dataset import Dataset
from training.data.prepare import Prepared, prepare_in_order
from training.data.sequences import read_sequences
from training.data.split import targets_between
from training.data.tables import items_from
from training.evaluate import Protocol, evaluate
from training.lists_at_cuts import ListsAtCuts
from training.pipeline import Pipeline
from training.retrieval import search
from training.run_log import RunLog
from training.sequence_model import SequenceRanker
from training.sequence_train import _judges, ndcg_of, recent_items, sequence_scores, train_sequences
from training.served import served_answers
from training.settings import SequenceSettings, TrainSettings
from training.settings_file import settings_from

SMALL = SequenceSettings(
    length=6, width=16, epochs=30, dropout=0.1, windows_per_step=16, learning_rate=1e-2
)
ITEMS = 40


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Everyone goes round the catalogue, one step after the other, from a place of his own."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rounds")
    lines = []
    for user in range(150):
        start, steps = rng.integers(0, ITEMS), rng.integers(5, 12)
        lines.append(" ".join([f"u{user}", *(f"i{(start + n) % ITEMS:02}" for n in range(steps))]))
    (folder / "rounds.txt").write_text("\n".join(lines))
    items = items_from(
        pl.DataFrame(
            {
                "item": [f"i{n:02}" for n in range(ITEMS)],
                "category_path": [f"half {n // 20} > tenth {n // 4}" for n in range(ITEMS)],
                "brand": [f"alone {n}" for n in range(ITEMS)],
            }
        )
    )
    return prepare_in_order(read_sequences(folder / "rounds.txt", items))


@pytest.mark.parametrize("drawn", [False, True], ids=["whole softmax", "drawn"])
def test_it_learns_what_follows_what(prepared: Prepared, drawn: bool) -> None:
    settings = dataclasses.replace(SMALL, whole_softmax=0 if drawn else 10**9, drawn=30)
    data, split = prepared.dataset, prepared.split
    history = data.until(split.train_until_ms)
    validation = targets_between(data, split.train_until_ms, split.validation_until_ms)
    told: list[int] = []
    found = train_sequences(
        history, settings, 0, settings.epochs, validation, lambda epoch, _: told.append(epoch)
    )
    assert told == list(range(1, len(told) + 1))
    assert max(found.ndcg_by_epoch) == found.ndcg_by_epoch[found.best_epoch - 1] > 0.9
    assert ndcg_of(found.model, history, validation) == pytest.approx(max(found.ndcg_by_epoch))
    again = train_sequences(history, settings, 0, found.best_epoch, None, lambda epoch, ndcg: None)
    assert again.best_epoch == found.best_epoch
    for name, weight in found.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_the_states_of_training_are_the_users_of_serving() -> None:
    torch.manual_seed(0)
    model = SequenceRanker(ITEMS, 6, 8, 2, 2, 4, 0.5).eval()
    history = torch.randint(1, ITEMS + 1, (5, 6))
    history[0, :4] = 0
    with torch.no_grad():
        states = model.states(history, model.items.weight)
        for place in range(2, 6):
            # What is known after a place is what a history that ends there tells.
            shorter = torch.zeros_like(history)
            shorter[:, 5 - place :] = history[:, : place + 1]
            cut = model.states(history[:, : place + 1], model.items.weight)[:, -1]
            known = history[:, place] != 0
            assert torch.allclose(model.user(shorter)[known], cut[known], atol=1e-5)
        assert torch.allclose(states[:, -1], model.user(history), atol=1e-5)


def test_words_are_those_that_several_items_have(prepared: Prepared) -> None:
    words = words_of(prepared.dataset)
    assert words.count == 2 + 10  # halves and tenths; each brand is of one item alone
    assert np.diff(words.ptr).tolist() == [2] * ITEMS
    own = [words.places[words.ptr[n] : words.ptr[n + 1]].tolist() for n in range(ITEMS)]
    assert own[0] == own[3] != own[4]
    assert own[0][0] == own[19][0] != own[20][0]


def test_scores_of_lists_are_the_models_own(prepared: Prepared) -> None:
    torch.manual_seed(0)
    model = SequenceRanker(ITEMS, 6, 8).eval()
    data = prepared.dataset
    users = np.arange(7, dtype=np.int32)
    recent = recent_items(data, users, 6)
    rng = np.random.default_rng(0)
    ptr = np.array([0, 3, 3, 9, 10, 14, 20, 21])
    items = rng.integers(0, ITEMS, 21).astype(np.int32)
    found = sequence_scores(model, recent, items, ptr, block=3)
    with torch.no_grad():
        for row in range(7):
            part = slice(ptr[row], ptr[row + 1])
            asked = torch.from_numpy(items[part] + 1)[None]
            wanted = model.logits(torch.from_numpy(recent[row : row + 1]), asked)[0].numpy()
            assert found[part] == pytest.approx(wanted, abs=1e-5)


def test_long_histories_are_cut_into_pieces_that_foretell_each_event_once() -> None:
    rng = np.random.default_rng(4)
    lengths = [0, 1, 2, 6, 7, 8, 40]
    n = sum(lengths)
    history = Dataset(
        source="",
        user_ids=tuple(f"u{place}" for place in range(len(lengths))),
        item_ids=tuple(f"i{place}" for place in range(n)),
        user_ptr=np.cumsum([0, *lengths]).astype(np.int64),
        items=rng.permutation(n).astype(np.int32),
        times_ms=np.zeros(n, np.int64),
        quantities=np.ones(n, np.float32),
        values=np.zeros(n),
        baskets=np.zeros(n, np.int64),
        item_attributes={},
        user_attributes={},
    )
    asked, following = sequence_train._next_items(history, sequence_train._windows(history, 6))
    assert asked.shape == following.shape
    assert asked.shape[1] == 6
    foretold = [
        (int(a), int(b))
        for row, after in zip(asked, following, strict=True)
        for a, b in zip(row, after, strict=True)
        if b
    ]
    wanted = [
        (int(history.items[place]) + 1, int(history.items[place + 1]) + 1)
        for user in range(len(lengths))
        for place in range(int(history.user_ptr[user]), int(history.user_ptr[user + 1]) - 1)
    ]
    assert sorted(foretold) == sorted(wanted)
    # Nothing stands before what is known, and no place that holds nothing foretells.
    assert not (following[asked == 0] != 0).any()
    assert all((np.diff((row != 0).numpy().astype(int)) >= 0).all() for row in asked)


@pytest.mark.parametrize("few", [{"steps": 1}, {"places": 1}])
def test_only_so_many_steps_are_made_in_an_epoch(prepared: Prepared, few: dict[str, int]) -> None:
    made = []
    for bound in (few, {}):
        settings = dataclasses.replace(SMALL, learning_rate=1e-3, **bound)
        data = prepared.dataset.until(prepared.split.train_until_ms)
        started = train_sequences(data, settings, 0, 1, None, lambda epoch, ndcg: None)
        made.append(started.course.loss_by_epoch[0])
    assert made[0] > made[1]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sasrec", "two-tower", "two-tower-difference"])
def test_a_model_of_histories_alone_is_served(
    prepared: Prepared, tmp_path: Path, family: str
) -> None:
    sequence = dataclasses.replace(SMALL, family=family, alone=True)
    settings = TrainSettings(name="small", n_novel=ITEMS, sequence=sequence)
    out = tmp_path / "bundle"
    Pipeline(prepared, settings, Console(quiet=True)).run(
        name="rounds", policies=None, default_policy=None, out=out
    )
    bundle = load_bundle(out)
    model = bundle.manifest.model
    assert (model.family, model.reads, model.feature_names) == (family, "history", ())
    assert bundle.manifest.quality["track"]["chosen"] == family
    found = evaluate(bundle, prepared, Protocol(k=5, resamples=100))
    value = found.results["metrics"]["ndcg_at_5"]["value"]
    # Everyone goes round from a place of his own: what is the same for all foretells nothing.
    assert value < 0.2 if family == "two-tower-difference" else value > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sasrec", "two-tower"])
def test_of_a_large_catalogue_candidates_are_those_that_the_model_puts_first(
    prepared: Prepared, tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "LARGE", ITEMS - 1)
    sequence = dataclasses.replace(SMALL, family=family, alone=True)
    settings = TrainSettings(name="small", n_novel=6, popular_share=0.0, sequence=sequence)
    out = tmp_path / "bundle"
    Pipeline(prepared, settings, Console(quiet=True)).run(
        name="rounds", policies=None, default_policy=None, out=out
    )
    bundle = load_bundle(out)
    model = bundle.manifest.model
    assert model.retrieval is not None
    assert model.retrieval.recall == 1.0  # one cell holds them all
    assert bundle.manifest.quality["retrieval"]["at"] == model.retrieval.items
    engine = Engine(bundle)
    engine.warm_up()
    # Of everyone: what was bought, and the six that the model puts first of all others.
    everything = np.arange(1, len(bundle.items.ids) + 1, dtype=np.int32)
    scorer = OnnxScorer(bundle.model, ports_of(model))
    now_ms = bundle.manifest.data.until_unix_ms
    history = prepared.dataset.until(now_ms)
    users = np.arange(5, dtype=np.int32)
    answers = served_answers(
        engine, history, users, now_ms, policy="none", k=5, with_candidates=True
    )
    for user, answer in zip(users.tolist(), answers, strict=True):
        own = history.history(user)
        read = read_by_model(own, everything - 1, model.history_length)[0]
        scores = scorer.score({"history": read[None], "candidates": everything[None]})[0]
        bought = set(own.items.tolist())
        others = np.setdiff1d(everything - 1, own.items)
        sixth = np.sort(scores[others])[-6]
        assert answer.candidates is not None
        got = {bundle.items.index[item] for item in answer.candidates.item_ids}
        assert bought <= got
        novel = sorted(got - bought)
        assert len(novel) == 6
        # Far down scores are the same but for rounding.
        assert (scores[novel] >= sixth - 1e-6).all()
        assert set(np.flatnonzero(scores > sixth + 1e-6).tolist()) <= got


def test_towers_have_no_place_beside_pair_features(prepared: Prepared, tmp_path: Path) -> None:
    sequence = dataclasses.replace(SMALL, family="two-tower")
    settings = TrainSettings(name="small", sequence=sequence)
    with pytest.raises(Refused, match=r"sequence.family: got 'two-tower', allowed beside"):
        Pipeline(prepared, settings, Console(quiet=True)).run(
            name="rounds", policies=None, default_policy=None, out=tmp_path / "bundle"
        )
    assert not (tmp_path / "bundle").exists()
    file = tmp_path / "settings.toml"
    file.write_text('[sequence]\nfamily = "sasrek"\n')
    with pytest.raises(Refused, match="sasrek"):
        settings_from(file, settings)


@pytest.mark.slow
def test_sequences_that_are_hopeless_are_not_tried_on(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "HOPE", 100.0)
    settings = TrainSettings(name="small", epochs=1, cuts=1, n_novel=30, sequence=SMALL)
    console = Console(record=True, width=200)
    released = Pipeline(prepared, settings, console).run(
        name="rounds", policies=None, default_policy=None, out=tmp_path / "bundle"
    )
    assert "not tried on" in console.export_text()
    assert released.manifest.model.reads == "pair-features"
    track = released.manifest.quality["track"]
    assert track["chosen"] == "pairs"
    assert set(track["validation_ndcg_at_20"]) == {"pairs", "sequences alone"}


@pytest.mark.slow
def test_the_score_is_taken_where_it_is_worth_it_and_the_bundle_serves(
    prepared: Prepared, tmp_path: Path
) -> None:
    settings = TrainSettings(name="small", epochs=4, cuts=1, n_novel=30, sequence=SMALL)
    console = Console(record=True, width=200, quiet=False)
    out = tmp_path / "bundle"
    released = Pipeline(prepared, settings, console).run(
        name="rounds", policies=None, default_policy=None, out=out
    )
    text = console.export_text()
    assert "with the sequence model's score" in text
    assert ": taken" in text
    bundle = load_bundle(out)
    model = bundle.manifest.model
    assert (model.reads, model.history_length) == ("pair-features-and-history", 6)
    assert model.feature_names == FEATURE_NAMES
    assert released.parity < 1e-4
    results = evaluate(bundle, prepared, Protocol(k=5, resamples=100)).results["metrics"]
    assert results["ndcg_at_5"]["value"] > 0.9
    engine = Engine(bundle)
    engine.warm_up()
    (answer,) = engine.run_batch([RecommendQuery(count=5, policy="none")])
    assert isinstance(answer, Answer)
    assert len(answer.item_ids) == 5


def test_training_on_many_events_is_bounded_on_a_cpu() -> None:
    settings = SequenceSettings(many_events=1_000, many_epochs=3, many_steps=7, many_drawn=9)
    assert settings.bounded(1_000, on_cpu=True) == settings
    assert settings.bounded(1_001, on_cpu=False) == settings
    bounded = settings.bounded(1_001, on_cpu=True)
    assert (bounded.epochs, bounded.steps, bounded.drawn) == (3, 7, 9)
    # Never more than was asked for.
    fewer = dataclasses.replace(settings, epochs=2, steps=5, drawn=4)
    assert fewer.bounded(1_001, on_cpu=True) == fewer


def test_every_cut_of_a_large_run_is_bounded(prepared: Prepared) -> None:
    events = prepared.dataset.n_events
    tried = {}
    for many in (events, events - 1):
        settings = TrainSettings.quick()
        small = dataclasses.replace(SMALL, epochs=4, steps=2, many_events=many, many_epochs=2)
        settings = dataclasses.replace(settings, sequence=small)
        lists = ListsAtCuts(
            prepared.dataset, prepared.split, settings, RunLog(Console(quiet=True), 0)
        )
        lists.tuned_sequences()
        (curve,) = lists._log.curves.values()
        tried[many] = len(curve["epochs"])
    assert tried == {events: 4, events - 1: 2}


def test_of_many_users_some_judge_an_epoch(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = prepared.split
    targets = targets_between(prepared.dataset, split.train_until_ms, split.validation_until_ms)
    assert _judges(targets, ITEMS, 0) is targets
    monkeypatch.setattr(sequence_train, "JUDGES", 20)
    assert _judges(targets, ITEMS, 0) is targets
    monkeypatch.setattr(sequence_train, "JUDGED", 10 * ITEMS)
    some = _judges(targets, ITEMS, 0)
    assert len(some) == 20
    assert np.array_equal(some.users, _judges(targets, ITEMS, 0).users)
    assert not np.array_equal(some.users, _judges(targets, ITEMS, 1).users)
    for place, user in enumerate(some.users):
        assert np.array_equal(
            some.of(place), targets.of(int(np.flatnonzero(targets.users == user)[0]))
        )
