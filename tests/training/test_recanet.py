"""The repeat-consumption ranker: its gaps are those of the history, it finds what is due, and is served."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from server.bundle import load_bundle
from server.engine import Answer, Engine, RecommendQuery
from server.errors import Refused
from server.events import EventKind, StoredHistory
from server.features import FEATURE_NAMES, N_FEATURES
from server.features.sequence import sequence
from server.features.types import DAY_MS, History
from strategies.purchases import START_MS, tables
from strategies.rhythm import DAYS, ITEMS, LENGTH, bought_on, habits, rhythm_lists, rhythm_rows
from training import recanet_train
from training.data.prepare import Prepared, prepare_tables
from training.evaluate import Protocol, evaluate
from training.export import check_parity, export_onnx, scorer_of
from training.families import family_of
from training.feature_groups import FEATURE_GROUPS, columns_of
from training.pipeline import Pipeline
from training.recanet import READS, RepeatRanker
from training.recanet_train import TrainedRepeats, gaps_of, repeat_scores, train_repeats
from training.rows import Lists
from training.settings import SequenceSettings, TrainSettings
from training.train import ndcgs_of_scores
from training.train_options import base_settings

SEQUENCE = SequenceSettings(
    family="recanet", alone=True, length=LENGTH, width=16, gaps=3, dropout=0.1,
    learning_rate=1e-2, epochs=12, patience=12,
)  # fmt: skip
SETTINGS = TrainSettings(name="small", sequence=SEQUENCE)


def trained(validation: Lists | None, epochs: int, seed: int = 0) -> TrainedRepeats:
    settings = dataclasses.replace(SETTINGS, seed=seed)
    lists = [rhythm_lists(400, number, N_FEATURES) for number in (1, 2)]
    return train_repeats(lists, validation, ITEMS, settings, epochs, lambda epoch, ndcg: None)


@pytest.fixture(scope="module")
def validation() -> Lists:
    return rhythm_lists(200, 3, N_FEATURES)


@pytest.fixture(scope="module")
def found(validation: Lists) -> TrainedRepeats:
    return trained(validation, SEQUENCE.epochs)


def ranker(length: int, gaps: int = 3, n_items: int = 12) -> RepeatRanker:
    torch.manual_seed(0)
    return RepeatRanker(torch.zeros(4), torch.ones(4), n_items, length, gaps, 8).eval()


# A basket is a set of items; item 0 in each keeps them apart, as the docstring of `training.recanet` says.
baskets = st.lists(st.sets(st.integers(1, 5)), max_size=12)


@given(baskets, st.integers(1, 40))
def test_gaps_are_those_that_a_loop_counts(baskets: list[set[int]], length: int) -> None:
    events = [(item, day) for day, basket in enumerate(baskets) for item in sorted({0, *basket})]
    items, days = (np.array([event[part] for event in events], np.int64) for part in (0, 1))
    history = History.of(items.astype(np.int32), days * DAY_MS, np.ones(len(items), np.float32))
    model = ranker(length, gaps=min(3, length))
    recent, asked = sequence(history, np.arange(7, dtype=np.int32), length)
    told = model.gaps_of(torch.from_numpy(recent)[None], torch.from_numpy(asked)[None])[0]
    known = events[-length:]
    for item in range(7):
        at = [(place, day) for place, (bought, day) in enumerate(known) if bought == item]
        after = [*at[1:], (len(known), len(baskets))]
        wanted = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(at, after, strict=False)]
        wanted = [(0, 0)] * model.gaps + wanted
        assert told[item].tolist() == [list(map(float, gap)) for gap in wanted[-model.gaps :]]


def test_trips_of_rising_numbers_pass_for_one_and_their_events_do_not() -> None:
    history = torch.tensor([[0, 0, 3, 5, 7, 3]])  # 3 and 5 on one day, 7 on the next, then 3
    gaps = ranker(6).gaps_of(history, torch.tensor([[3, 7, 9]]))[0]
    assert gaps.tolist() == [
        [[0, 0], [3, 1], [1, 1]],
        [[0, 0], [0, 0], [2, 2]],
        [[0, 0], [0, 0], [0, 0]],
    ]


def test_a_history_says_nothing_of_what_was_never_bought() -> None:
    model, rng = ranker(9), np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(0, 1, (1, 3, 4)).astype(np.float32))
    asked = torch.tensor([[4, 5, 6]])
    nothing, some = (
        torch.zeros((1, 9), dtype=torch.int64),
        torch.tensor([[0, 1, 2, 4, 1, 2, 3, 4, 1]]),
    )
    before, after = (
        model.logits(features, model.gaps_of(h, asked), asked)[0] for h in (nothing, some)
    )
    assert torch.equal(before[1:], after[1:])
    assert before[0] != after[0]
    with torch.no_grad():
        model.lstm.weight_ih_l0 *= 2  # nothing of which there is no gap goes through it
    assert torch.equal(model.logits(features, model.gaps_of(some, asked), asked)[0, 1:], after[1:])


def test_what_is_due_comes_first_and_only_the_gaps_can_tell(
    found: TrainedRepeats, validation: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found.course.best_ndcg == max(found.course.ndcg_by_epoch) > 0.97
    scores = repeat_scores(found.model, validation, gaps_of(found.model, validation))
    assert ndcgs_of_scores(scores, validation).mean() == pytest.approx(found.course.best_ndcg)
    first = [
        validation.labels[a:b][np.argmax(scores[a:b])]
        for a, b in zip(validation.ptr, validation.ptr[1:], strict=False)
    ]
    assert np.mean(first) > 0.97
    # Half are not his own: whether an item was bought at all is all that is left of the gaps.
    honest = recanet_train.gaps_of
    monkeypatch.setattr(
        recanet_train, "gaps_of", lambda model, lists: np.minimum(honest(model, lists)[:, -1:], 1)
    )
    blind = trained(validation, SEQUENCE.epochs)
    assert blind.course.best_ndcg < 0.75


def test_scores_are_chances(found: TrainedRepeats, validation: Lists) -> None:
    scores = repeat_scores(found.model, validation, gaps_of(found.model, validation))
    chances = 1 / (1 + np.exp(-(scores * float(found.model.scale) + float(found.model.offset))))
    assert chances.mean() == pytest.approx(validation.labels.mean(), abs=0.005)


def test_the_same_seed_gives_the_same_weights(found: TrainedRepeats) -> None:
    again = trained(None, found.course.best_epoch)
    other = trained(None, found.course.best_epoch, seed=1)
    weights = found.model.state_dict()
    for name, weight in again.model.state_dict().items():
        if name not in ("scale", "offset"):  # of validation
            assert torch.equal(weight, weights[name]), name
    assert not torch.equal(other.model.out.weight, weights["out.weight"])


def test_of_the_features_only_those_of_the_user_are_read(
    found: TrainedRepeats, validation: Lists
) -> None:
    gaps = gaps_of(found.model, validation)
    scores = repeat_scores(found.model, validation, gaps)
    for group in FEATURE_GROUPS:
        features = validation.features.copy()
        features[:, columns_of([group])] += 1
        moved = repeat_scores(found.model, dataclasses.replace(validation, features=features), gaps)
        assert (moved != scores).any() == (group in READS), group


def test_a_step_learns_of_all_that_was_bought_and_of_some_others() -> None:
    rng = np.random.default_rng(0)
    segments = torch.from_numpy(np.repeat([0, 1, 2], [5_000, 50, 4]))
    bought = rng.random(len(segments)) < 0.1
    bought[-4:] = True
    kept = recanet_train._kept(bought, segments, 100, rng).numpy()
    assert set(np.flatnonzero(bought)) <= set(kept)
    assert (np.diff(kept) > 0).all()
    of = segments.numpy()[kept[~bought[kept]]]
    assert abs((of == 0).sum() - 100) < 40  # four deviations
    assert (of == 1).sum() == (~bought[5_000:5_050]).sum()


@pytest.mark.slow
def test_onnxruntime_gives_what_torch_gives(found: TrainedRepeats, validation: Lists) -> None:
    family = family_of(found.model)
    assert (family.n_features, family.history_length, family.n_items) == (N_FEATURES, LENGTH, ITEMS)
    scorer = scorer_of(export_onnx(found.model), family)
    assert check_parity(found.model, scorer, validation) < 1e-5


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare_tables(tables(rhythm_rows(120)), validation_days=1, test_days=1)


@pytest.mark.slow
def test_it_is_served_from_the_history_of_a_request(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    settings = dataclasses.replace(SETTINGS, n_novel=10)
    released = Pipeline(prepared, settings, Console(quiet=True)).run(
        name="rhythm", policies=None, default_policy=None, out=out
    )
    assert released.parity < 1e-4
    assert set(released.curves) == {"tuning", "refit"}
    bundle = load_bundle(out)
    model = bundle.manifest.model
    assert (model.family, model.reads) == ("recanet", "pair-features-and-history")
    assert (model.feature_names, model.history_length) == (FEATURE_NAMES, LENGTH)
    assert bundle.manifest.quality["track"]["chosen"] == "recanet"
    # Of the test day, by the served path.
    found = evaluate(bundle, prepared, Protocol(k=5, resamples=100))
    assert found.results["metrics"]["ndcg_at_5"]["value"] > 0.9
    # And of people whom training never saw.
    engine, rng = Engine(bundle), np.random.default_rng(99)
    right = []
    for _ in range(20):
        habit = habits(rng)
        due = bought_on(habit, DAYS)
        events = [(item, day) for day in range(DAYS) for item in (0, *bought_on(habit, day))]
        told = StoredHistory(
            tuple(f"i{item:02}" for item, _ in events),
            np.array([START_MS + day * DAY_MS for _, day in events], np.int64),
            np.full(len(events), EventKind.PURCHASE, np.int8),
            np.ones(len(events), np.float32),
        )
        (answer,) = engine.run_batch(
            [
                RecommendQuery(
                    count=1 + len(due), history=told, policy="none",
                    as_of_ms=START_MS + (DAYS - 1) * DAY_MS + 1,
                )
            ]
        )  # fmt: skip
        assert isinstance(answer, Answer)
        right.append(set(answer.item_ids) == {f"i{item:02}" for item in (0, *due)})
    assert np.mean(right) > 0.8


def test_it_has_no_place_beside_pair_features(prepared: Prepared, tmp_path: Path) -> None:
    settings = TrainSettings(sequence=SequenceSettings(family="recanet"))
    with pytest.raises(Refused, match=r"sequence.family: got 'recanet', allowed beside"):
        Pipeline(prepared, settings, Console(quiet=True)).run(
            name="rhythm", policies=None, default_policy=None, out=tmp_path / "bundle"
        )


def test_its_settings_are_its_own_unless_they_are_told(tmp_path: Path) -> None:
    own = base_settings(None, False, None, "recanet").sequence
    assert own is not None
    assert (own.family, own.alone, own.length) == ("recanet", True, 512)
    quick = base_settings(None, True, None, "recanet").sequence
    assert quick is not None
    assert quick.epochs == 2
    file = tmp_path / "mine.toml"
    file.write_text("[sequence]\nlength = 64\ngaps = 9\n")
    told = base_settings(file, False, None, "recanet").sequence
    assert told == dataclasses.replace(own, length=64, gaps=9)
