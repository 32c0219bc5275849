"""ROC curves and calibration of served scores, against counting pairs and bins by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from server.bundle import GroupTable, load_bundle
from server.engine.engine import Engine
from server.engine.query import Answer
from server.features.types import DAY_MS
from training.data.prepare import Prepared
from training.evaluate import Evaluation
from training.intervals import Resampler
from training.measures.calibration import calibration_block
from training.measures.candidates import Gathering, Scored
from training.measures.roc import roc_block
from training.served import served_answers
from training.task import task_of

N_USERS, N_ITEMS = 40, 12


@pytest.fixture(scope="module")
def scored() -> Scored:
    """Scores with ties, that tell something and lie a little."""
    rng = np.random.default_rng(4)
    rows = np.repeat(np.arange(N_USERS), rng.integers(3, N_ITEMS + 1, N_USERS)).astype(np.int32)
    items = np.concatenate([np.arange(n) for n in np.bincount(rows)]).astype(np.int32)
    scores = (rng.random(len(rows)) ** 2).round(2)
    return Scored(
        rows,
        items,
        scores,
        rng.random(len(rows)) < 0.5,
        rng.random(len(rows)) < scores * 0.8,
        N_USERS,
    )


def auc_by_pairs(scores: list[float], positive: list[bool]) -> float:
    """How often a positive is above a negative, over all pairs of them; ties count half."""
    wins = total = 0.0
    for mine, bought in zip(scores, positive, strict=True):
        for other, too in zip(scores, positive, strict=True):
            if bought and not too:
                total += 1
                wins += 1.0 if mine > other else 0.5 if mine == other else 0.0
    return wins / total


def of(scored: Scored, chosen: np.ndarray) -> float:
    return auc_by_pairs(scored.scores[chosen].tolist(), scored.positive[chosen].tolist())


def test_the_auc_of_every_group_is_that_of_counting_pairs(scored: Scored) -> None:
    labels = np.array(["few"] * 3 + ["a"] * 17 + ["b"] * 20)
    table = GroupTable("kind", ("x", "y"), (np.arange(N_ITEMS) % 2).astype(np.int32))
    sample = Resampler(N_USERS, resamples=200)
    block = roc_block(scored, {"g": labels}, {"kind": table}, sample, min_users=5)
    everything = np.ones(len(scored), np.bool_)
    assert block["all"]["value"] == pytest.approx(of(scored, everything))
    for label in ("a", "b"):
        told = block["users"]["g"][label]
        assert told["value"] == pytest.approx(of(scored, labels[scored.rows] == label))
        assert told["low"] < told["value"] < told["high"]
    for code, label in enumerate("xy"):
        told = block["items"]["kind"][label]
        assert told["value"] == pytest.approx(of(scored, scored.items % 2 == code))
        assert told["n_bought"] == int(scored.positive[scored.items % 2 == code].sum())
    hidden = block["users"]["g"]["few"]
    assert (hidden["value"], hidden["withheld"]) == (None, "3 users, fewer than 5")
    assert "curve" not in hidden


def test_a_curve_rises_from_corner_to_corner_through_points_of_thresholds(scored: Scored) -> None:
    block = roc_block(scored, {}, {}, Resampler(N_USERS, resamples=100), min_users=5)
    curve = block["all"]["curve"]
    false, true = curve["false_positive_rate"], curve["true_positive_rate"]
    assert (false[0], false[-1], true[-1]) == (0.0, 1.0, 1.0)
    assert false == sorted(false)
    assert true == sorted(true)
    positive, scores = scored.positive, scored.scores
    for bar in (0.1, 0.3, 0.6):
        above = scores >= bar
        x = (above & ~positive).sum() / (~positive).sum()
        y = (above & positive).sum() / positive.sum()
        assert np.interp(x, false, true) == pytest.approx(y, abs=0.03)


def test_the_interval_of_an_auc_is_that_of_drawing_users_with_all_their_pairs(
    scored: Scored,
) -> None:
    sample = Resampler(N_USERS, resamples=200, seed=3)
    told = roc_block(scored, {}, {}, sample, min_users=5)["all"]
    found = []
    for counts in sample.draws.astype(int):
        chosen = np.repeat(np.arange(len(scored)), counts[scored.rows])
        found.append(of(scored, chosen))
    low, high = np.quantile(found, [0.025, 0.975])
    assert (told["low"], told["high"]) == (
        pytest.approx(low, abs=0.01),
        pytest.approx(high, abs=0.01),
    )


def test_a_group_of_which_nothing_or_all_was_bought_has_no_auc(scored: Scored) -> None:
    nothing = dataclasses.replace(scored, positive=np.zeros(len(scored), np.bool_))
    everything = dataclasses.replace(scored, positive=np.ones(len(scored), np.bool_))
    sample = Resampler(N_USERS, resamples=100)
    assert roc_block(nothing, {}, {}, sample, 5)["all"]["withheld"].startswith("0 users bought")
    assert roc_block(everything, {}, {}, sample, 5)["all"]["value"] is None


def test_calibration_is_that_of_bins_filled_by_hand(scored: Scored) -> None:
    block = calibration_block(scored, Resampler(N_USERS, resamples=200))
    for which, chosen in (
        ("candidates", np.ones(len(scored), np.bool_)),
        ("listed", scored.listed),
    ):
        told = block[which]
        scores, bought = scored.scores[chosen], scored.positive[chosen]
        distance = 0.0
        covered = 0
        for one in told["bins"]:
            inside = [
                (s, b)
                for s, b in zip(scores.tolist(), bought.tolist(), strict=True)
                if one["lowest_score"] <= s <= one["highest_score"]
            ]
            mean = sum(s for s, _ in inside) / len(inside)
            share = sum(b for _, b in inside) / len(inside)
            assert one["n_pairs"] == len(inside)
            assert one["mean_score"] == pytest.approx(mean)
            assert one["share_bought"] == pytest.approx(share)
            assert one["share_bought_low"] <= share <= one["share_bought_high"]
            distance += len(inside) * abs(mean - share)
            covered += len(inside)
        assert covered == len(scores) == told["n_pairs"]
        assert told["n_bought"] == int(bought.sum())
        error = told["expected_calibration_error"]
        assert error["value"] == pytest.approx(distance / covered)
        assert error["better"] == "lower"


def test_scores_that_say_what_happens_have_a_smaller_error() -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(300), 30).astype(np.int32)
    scores = rng.random(len(rows))
    drawn = rng.random(len(rows))
    sample = Resampler(300, resamples=100)

    def error(positive: np.ndarray) -> float:
        told = Scored(rows, rows, scores, positive, positive, 300)
        found = calibration_block(told, sample)["candidates"]["expected_calibration_error"]
        assert isinstance(found["value"], float)
        return found["value"]

    assert error(drawn < scores) < 0.03
    assert error(drawn < scores / 2) == pytest.approx(0.25, abs=0.03)


def test_the_evaluation_reads_the_scores_that_made_the_lists(
    audit_bundle: Path, audit_prepared: Prepared, shop_evaluation: Evaluation
) -> None:
    """Each user's candidates asked for again, labels from the purchases within the bundle's horizon."""
    bundle, task = load_bundle(audit_bundle), task_of(audit_prepared, "test")
    dataset = audit_prepared.dataset
    until = min(task.cut_ms + bundle.manifest.horizon_days * DAY_MS, task.until_ms)
    assert until < task.until_ms, "or the horizon would not be tested"
    scores: list[float] = []
    bought: list[bool] = []
    answers = served_answers(
        Engine(bundle), task.history, task.targets.users, task.cut_ms, policy="none",
        with_candidates=True,
    )  # fmt: skip
    for user, answer in zip(task.targets.users.tolist(), answers, strict=True):
        assert answer.candidates is not None
        part = slice(int(dataset.user_ptr[user]), int(dataset.user_ptr[user + 1]))
        wanted = {
            dataset.item_ids[item]
            for item, when in zip(dataset.items[part], dataset.times_ms[part], strict=True)
            if task.cut_ms < when <= until
        }
        scores += answer.candidates.scores.astype(float).tolist()
        bought += [item in wanted for item in answer.candidates.item_ids]
    roc = shop_evaluation.results["roc"]["all"]
    assert (roc["n_pairs"], roc["n_bought"]) == (len(scores), sum(bought))
    assert roc["value"] == pytest.approx(auc_by_pairs(scores, bought))
    told = shop_evaluation.results["calibration"]["candidates"]
    assert told["mean_score"] == pytest.approx(np.mean(scores))
    assert told["n_bought"] == sum(bought)
    assert shop_evaluation.results["calibration"]["listed"]["n_pairs"] == 20 * len(task.targets)


def test_an_answer_that_was_not_asked_for_candidates_is_refused(
    audit_bundle: Path, audit_prepared: Prepared
) -> None:
    bundle, task = load_bundle(audit_bundle), task_of(audit_prepared, "test")
    answers = served_answers(
        Engine(bundle), task.history, task.targets.users[:1], task.cut_ms, policy="none"
    )
    answer = next(iter(answers))
    assert isinstance(answer, Answer)
    with pytest.raises(ValueError, match="not asked for them"):
        Gathering(bundle)(answer)
