"""The audit's user side: small cells, the worst of many, intervals that hold for all at once."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame

from training.audit.cells import cells_of
from training.audit.user_side import SAME_VALUE, Cells, simultaneous
from training.intervals import Resampler


def made_cells(
    groups: dict[str, list[str]], targets: list[int], min_users: int
) -> tuple[list[Any], Cells]:
    arrays = {name: np.array(values) for name, values in groups.items()}
    found = cells_of(arrays, np.array(targets), min_users)
    return found, Cells(found, Resampler(len(targets), resamples=300, seed=1), min_users)


def test_group_means_are_fairlearns() -> None:
    rng = np.random.default_rng(0)
    groups = {"age": rng.choice(["a", "b", "c"], 200), "sex": rng.choice(["f", "m"], 200)}
    values = rng.random(200)
    _, cells = made_cells({n: v.tolist() for n, v in groups.items()}, [1] * 200, 5)
    told = cells.facts({"ndcg": values})
    frame = MetricFrame(
        metrics=lambda _, y: float(np.mean(y)), y_true=values, y_pred=values,
        sensitive_features={"age": groups["age"], "sex": groups["sex"]},
    )  # fmt: skip
    for (age, sex), value in frame.by_group.items():
        assert told["cells"][f"age={age}, sex={sex}"]["ndcg"]["value"] == pytest.approx(value)
    assert told["overall"]["ndcg"]["value"] == pytest.approx(frame.overall)
    worst = told["worst"]["ndcg"]
    assert worst["value"] == min(cell["ndcg"]["value"] for cell in told["cells"].values())
    assert worst["low"] <= worst["at_least"] <= worst["value"] <= worst["high"]
    assert worst["gap"] == pytest.approx(worst["value"] - frame.overall)
    assert worst["gap_low"] <= worst["gap"] <= worst["gap_high"]


def test_no_cell_is_skipped_and_none_is_nan() -> None:
    groups = {
        "age": ["old"] * 4 + ["young"] * 4 + ["tiny"],
        "sex": ["f"] * 4 + ["m"] * 4 + ["f"],
    }
    found, cells = made_cells(groups, [0] * 4 + [2] * 4 + [1], 3)
    status = {cell.name: cell.status for cell in found}
    assert len(status) == 3 + 2 + 3 * 2
    assert status["age=tiny"] == "too few (n=1)"
    assert status["age=old"] == "bought nothing (n=4)"
    assert status["age=young, sex=f"] == "empty (n=0)"
    told = cells.facts(
        {
            "ndcg": np.array([np.nan] * 4 + [0.5, 0.5, 0.5, 0.5, 0.1]),
            "auc": np.array([np.nan] * 7 + [0.2, 0.3]),
            "none": np.full(9, np.nan),
        }
    )
    json.dumps([told, cells.as_json()], allow_nan=False)
    bought = {cell["cell"]: cell["targets"] for cell in cells.as_json()}
    assert (bought["age=old"], bought["age=young"]) == (0, 8)
    assert bought["age=tiny"] is None, "of one user only the number is told"
    assert all(
        (cell["targets"] is None) == (cell["users"] < 3)
        and set(cell) == {"cell", "labels", "users", "targets", "status"}
        for cell in cells.as_json()
    )
    young = told["cells"]["age=young"]
    assert young["ndcg"]["value"] == 0.5
    assert young["ndcg"]["reason"] == SAME_VALUE
    assert young["auc"] == {"value": None, "n_users": 1, "reason": "too few (n=1) with a value"}
    assert told["overall"]["none"]["reason"] == "no user has a value"
    assert told["worst"]["none"]["cell"] is None
    assert "age=tiny" not in told["cells"], "a number of one user is that user's number"


def test_users_of_whom_nothing_is_known_are_no_worst_group() -> None:
    _, cells = made_cells({"age": ["unknown"] * 5 + ["old"] * 5}, [1] * 10, 5)
    told = cells.facts({"ndcg": np.array([0.0, 0.1, 0, 0, 0, 0.5, 0.6, 0.5, 0.5, 0.5])})
    assert told["worst"]["ndcg"]["cell"] == "age=old"


def test_simultaneous_intervals_hold_for_all_cells_at_once() -> None:
    """By simulation: 95 % hold jointly, where 20 single intervals would fail often."""
    rng = np.random.default_rng(5)
    inside = 0
    for trial in range(100):
        values = rng.random((20, 60))
        draws = Resampler(60, resamples=300, seed=trial).draws
        band = simultaneous(values.mean(axis=1), draws @ values.T / 60, 0.95)
        inside += bool((band.low <= 0.5).all() and (band.high >= 0.5).all())
    assert 86 <= inside <= 100
