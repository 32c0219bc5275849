"""Whether lists betray their readers: a planted betrayal is found, chance is chance, few users are nobody."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from bench.gate.quality import per_user
from bench.gate.user_arrays import user_arrays
from training.data.dataset import Dataset
from training.evaluate import Evaluation
from training.intervals import Resampler
from training.measures.inference import (
    FOLDS,
    guessed,
    inference_block,
    inference_metrics,
    inferred,
)

SEED = 4
N_ITEMS = 30


def _lists(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.stack([rng.choice(N_ITEMS, 6, replace=False) for _ in range(n)]).astype(np.int32)


def _history(rng: np.random.Generator, n: int) -> Dataset:
    events = [rng.choice(N_ITEMS, 8) for _ in range(n)]
    return Dataset(
        source="by hand",
        user_ids=tuple(f"u{place:03}" for place in range(n)),
        item_ids=tuple(f"i{place:02}" for place in range(N_ITEMS)),
        user_ptr=np.arange(0, 8 * n + 1, 8, dtype=np.int64),
        items=np.concatenate(events).astype(np.int32),
        times_ms=np.tile(np.arange(8, dtype=np.int64) * 1000, n),
        baskets=np.arange(8 * n, dtype=np.int64),
        values=np.zeros(8 * n),
        quantities=np.ones(8 * n, np.float32),
        item_attributes={},
        user_attributes={},
    )  # fmt: skip


def _naive(lists: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Multinomial naive Bayes by the book, one user at a time."""
    out = np.zeros(len(labels))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for learn, told in folds.split(np.zeros(len(labels)), labels):
        log_chance = {}
        for label in sorted(set(labels.tolist())):
            counts = np.ones(N_ITEMS)
            for user in learn[labels[learn] == label]:
                for item in lists[user]:
                    counts[item] += 1
            log_chance[label] = np.log(counts / counts.sum())
        for user in told:
            score = {k: sum(v[item] for item in lists[user]) for k, v in log_chance.items()}
            out[user] = max(score, key=lambda k: score[k]) == labels[user]
    return out


def test_guesses_are_those_of_the_book() -> None:
    rng = np.random.default_rng(SEED)
    lists, history = _lists(rng, 90), _history(rng, 90)
    labels = np.array(["a", "b", "c"])[rng.integers(0, 3, 90)]
    lists[labels == "b", 0] = 3
    users = np.arange(90, dtype=np.int32)
    found = inferred(lists, history, users, {"sex": labels}, min_users=5, seed=SEED)
    # A list has an item once; a planted one may stand in it twice, and counts once.
    unique = [sorted(set(row)) for row in lists.tolist()]
    expected = _naive(np.array(unique, object), labels, SEED)
    assert found["inferred_sex"].tolist() == expected.tolist()
    bought = [sorted(set(history.history(u).items.tolist())) for u in users.tolist()]
    expected = _naive(np.array(bought, object), labels, SEED)
    assert found["purchases/inferred_sex"].tolist() == expected.tolist()


def test_a_planted_betrayal_is_found_and_chance_is_none() -> None:
    rng = np.random.default_rng(SEED)
    lists, history = _lists(rng, 200), _history(rng, 200)
    labels = np.array(["low", "high"])[rng.integers(0, 2, 200)]
    users, sample = np.arange(200, dtype=np.int32), Resampler(200, resamples=200)

    def told(of: np.ndarray) -> dict[str, dict[str, float]]:
        found = inferred(of, history, users, {"in-come": labels}, min_users=20, seed=SEED)
        return inference_metrics(inference_block(found, {"in-come": labels}, sample))

    honest = told(lists)
    assert honest["inferred_in_come"]["low"] < 0.5 < honest["inferred_in_come"]["high"]
    assert honest["inferred_in_come"]["better"] == "lower"
    lists[labels == "low", -1] = 7
    spoiled = told(np.where((labels == "high")[:, None] & (lists == 7), -1, lists))
    assert spoiled["inferred_in_come"]["value"] > 0.9
    assert spoiled["inferred_in_come_minus_purchases"]["low"] > 0.3


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        (["a"] * 40 + ["b"] * 19, 0),
        (["a"] * 40 + ["b"] * 20, 60),
        (["a"] * 40 + ["b"] * 20 + ["unknown"] * 30 + ["c"] * 3, 60),
        (["a"] * 50, 0),
        (["unknown"] * 30 + ["a"] * 30, 0),
    ],
)
def test_labels_of_too_few_users_are_left_out(labels: list[str], known: int) -> None:
    from scipy.sparse import csr_array

    present = csr_array(np.eye(len(labels)))
    found = guessed(present, np.array(labels), 20, SEED)
    assert int(np.isfinite(found).sum()) == known
    assert not np.isfinite(found[np.isin(labels, ["unknown", "c"])]).any()


def test_the_document_and_the_gate_agree(shop_evaluation: Evaluation) -> None:
    results, arrays = shop_evaluation.results, user_arrays(shop_evaluation.per_user, "arrays")
    told = results["inference"]["attributes"]["income"]
    assert set(told["labels"]) <= {"low", "high"}
    for path in ("inferred_income", "inferred_income_minus_purchases"):
        values = per_user(arrays, path)
        assert values is not None
        known = values[np.isfinite(values)]
        assert results["metrics"][path]["value"] == pytest.approx(known.mean())
        assert results["metrics"][path]["n_users"] == len(known)
