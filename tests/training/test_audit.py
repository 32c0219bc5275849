"""The audit: measures against other people's code and by hand, small groups, the command."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from bench.verify.optimum import largest_dcg as verified
from server.bundle import Bundle, DataInfo, GroupTable, load_bundle
from server.engine.engine import Engine
from server.errors import Refused
from server.fairness import compile_tables, parse_policy
from server.fairness.discount import discounts
from server.fairness.metrics import (
    awrf,
    expected_exposure,
    exposure_disparity,
    exposure_relevance,
    jensen_shannon,
    ndkl,
    target_exposure,
)
from strategies.bundles import tiny_bundle
from strategies.fairness import compiled
from strategies.purchases import shop_rows, tables
from training.audit.audit import Protocol, audit
from training.audit.cells import cells_of
from training.audit.collect import Relevance, collect
from training.audit.command import audit as command
from training.audit.optimum import largest_dcg
from training.audit.report import page, write_audit
from training.audit.user_side import SAME_VALUE, Cells, simultaneous
from training.audit.wanted import wanted_shares
from training.data.prepare import Prepared, prepare_tables
from training.data.tables import users_from
from training.evaluate import task_of
from training.intervals import Resampler
from training.metrics import ndcg, roc_auc
from training.served import served_lists

PROTOCOL = Protocol(resamples=200, min_users=6, tradeoff_users=4)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    people = users_from(
        pl.DataFrame(
            {
                "user": [f"user-{n:02}" for n in range(30)],
                "income": ["low", "high", None] * 10,
                "sex": ["f"] * 27 + ["m"] * 3,
            }
        )
    )
    return prepare_tables(dataclasses.replace(tables(shop_rows()), users=people))


@pytest.fixture(scope="module")
def bundle_path(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    until = prepared.split.validation_until_ms
    data = DataInfo(
        source="by hand", until_unix_ms=until, users=1, items=60, interactions=1, digest="0" * 64
    )
    tiny_bundle(path, data=data)
    return path


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def document(bundle: Bundle, prepared: Prepared) -> dict[str, Any]:
    return audit(bundle, prepared, PROTOCOL)


# Measures.


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_scikit_learns_ties_included(drawn: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([s / 5 for s, _ in drawn]), np.array([p for _, p in drawn])
    if positive.all() or not positive.any():
        assert math.isnan(roc_auc(scores, positive)), "one label is no measurement, and no 0.5"
    else:
        assert roc_auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))


def test_ndcg_is_scikit_learns_and_trec_evals() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        relevant = rng.random(30) < 0.3
        relevant[0] = True
        scores = rng.permutation(30).astype(np.float64)
        order = np.argsort(-scores)[:10]
        own = ndcg(relevant[order][np.newaxis], np.array([relevant.sum()]))[0]
        assert own == pytest.approx(ndcg_score([relevant.astype(float)], [scores], k=10))
        qrels = [ir_measures.Qrel("q", str(i), int(r)) for i, r in enumerate(relevant)]
        run = [ir_measures.ScoredDoc("q", str(i), s) for i, s in enumerate(scores)]
        (told,) = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run).values()
        assert own == pytest.approx(told)


def test_awrf_by_hand_and_its_ends() -> None:
    half = np.array([0.5, 0.5])
    assert awrf(half, half) == 1.0
    assert awrf(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 0.0
    # m = (3/4, 1/4): (log2(4/3) + log2(2/3) / 2 + log2(2) / 2) / 2
    by_hand = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2
    assert jensen_shannon(np.array([1.0, 0.0]), half) == pytest.approx(by_hand)
    assert awrf(np.array([3.0, 0.0]), half) == pytest.approx(1 - by_hand)
    assert math.isnan(awrf(np.zeros(2), half)), "no attention, no fairness of it"


def test_ndkl_by_hand() -> None:
    second = 1 / math.log2(3)
    first_kl = math.log(1 / 0.75)
    second_kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    got = ndkl(np.int32([0, 1]), np.array([0.75, 0.25]))
    assert got == pytest.approx((first_kl + second * second_kl) / (1 + second))
    assert ndkl(np.int32([1]), np.array([1.0, 0.0])) == math.inf


def test_expected_exposure_is_the_mean_over_all_ideal_lists() -> None:
    n_items, count = 5, 3
    wanted = [[0, 3], [1], [0, 1, 2, 4]]
    worth = discounts(count) / discounts(count).sum()
    by_hand = np.zeros(n_items)
    for own in wanted:
        others = [item for item in range(n_items) if item not in own]
        ideal = [
            [*one, *two]
            for one in itertools.permutations(own)
            for two in itertools.permutations(others)
        ]
        for order in ideal:
            for weight, item in zip(worth, order, strict=False):
                by_hand[item] += weight / len(ideal) / len(wanted)
    ptr = np.cumsum([0, *map(len, wanted)])
    deserved = target_exposure(ptr, np.concatenate(wanted), n_items, count)
    assert deserved == pytest.approx(by_hand)
    assert deserved.sum() == pytest.approx(1)

    lists = np.array([[0, 1, -1], [0, 2, 3]])
    shown = expected_exposure(lists, n_items)
    assert shown == pytest.approx([worth[0], worth[1] / 2, worth[1] / 2, worth[2] / 2, 0])
    loss = ((shown - deserved) ** 2).sum()
    parts = exposure_disparity(shown) - 2 * exposure_relevance(shown, deserved)
    assert parts + exposure_disparity(deserved) == pytest.approx(loss)
    assert expected_exposure(np.full((2, 3), -1), 2).tolist() == [0, 0]
    assert target_exposure(np.array([0]), np.empty(0, int), 2, 3).tolist() == [0, 0]


@settings(max_examples=80)
@given(st.data())
def test_the_optimum_is_the_verifiers(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 8))
    members = np.array(data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=14)), np.int32)
    gains = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(members), max_size=len(members)))) / 9  # fmt: skip
    floors, ceilings = np.zeros((3, size + 1), np.int32), np.zeros((3, size + 1), np.int32)
    prefix = np.arange(size + 1)
    for row in range(3):
        low, high = data.draw(st.tuples(st.integers(0, 3), st.integers(3, 10)))
        floors[row] = prefix * low // 10
        ceilings[row] = np.minimum(prefix, -(-prefix * high // 10))
    worth = discounts(size)
    told = verified(
        [(float(g), [str(m)]) for g, m in zip(gains, members, strict=True)],
        {str(r): list(zip(floors[r].tolist(), ceilings[r].tolist(), strict=True)) for r in range(3)},
        worth.tolist(),
    )  # fmt: skip
    own = largest_dcg(gains, members, floors, ceilings, worth)
    assert told == (-math.inf if own is None else pytest.approx(own))
    if own is not None:
        moved = largest_dcg(gains - 3, members, floors, ceilings, worth)
        assert moved == pytest.approx(own - 3 * worth.sum()), "negative scores are scores"


# Cells of users.


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


# Item side and the whole.


@pytest.mark.parametrize(
    ("body", "wanted", "source"),
    [
        ('[floors]\na = "1/2"\n', [0.5, 0.125, 0.375], "the policy's, then the catalogue"),
        ('[window]\na = "1/4"\nb = "3/4"\n', [0.25, 0.75, 0.0], "the policy's, then the catalogue"),
        ("[cap]\nat_most = 2\nwithin_first = 5\n", [0.2, 0.2, 0.6], "the catalogue"),
    ],
)
def test_wanted_shares_are_the_policys_and_the_rest_the_catalogues(
    body: str, wanted: list[float], source: str
) -> None:
    table = GroupTable("t", ("a", "b", "c"), np.int32([0, 0, 1, 1, 2, 2, 2, 2, 2, 2]))
    policy = compiled(body[1 : body.index("]")], body, table.labels)
    nothing = type("Lists", (), {"compiled": policy, "lists": np.zeros((1, 2), int), "own": ()})()
    told = wanted_shares(nothing, table)
    assert told.shares[0] == pytest.approx(wanted)
    assert told.source == told.over_all_source == source
    assert told.over_all == pytest.approx(wanted)
    named = [f"{label} =" in body for label in table.labels]
    assert told.targets.tolist() == named, "the catalogue's shares are nobody's target"


EVENED_WITH_FLOORS = """name = "shelf"
version = "1"
kind = "stack"
reason = "A floor in each list, and the catalogue's shares over all of them."
[[stack]]
kind = "amortised"
group_table = "provider_tier"
amortised = {method = "p_mmf", strength = "1/5", lists = 5, targets = "catalogue"}
[[stack]]
kind = "floors"
group_table = "provider_tier"
floors = {small = "1/10"}
[[stack]]
kind = "cap"
group_table = "category"
cap = {at_most = 8, within_first = 20}
"""


def test_all_lists_are_measured_by_the_targets_that_exposure_is_evened_out_to(
    bundle: Bundle, prepared: Prepared
) -> None:
    """The floor of small makers is 1/10 of each list; over all lists they are to get 1/5."""
    sizes = {name: table.sizes for name, table in bundle.groups.items()}
    shelf = compile_tables(parse_policy(EVENED_WITH_FLOORS, "shelf"), sizes)
    with_shelf = dataclasses.replace(bundle, policies={**bundle.policies, "shelf": shelf})
    chosen = dataclasses.replace(PROTOCOL, policies=("shelf", "over-time"), tradeoff_users=0)
    policies = audit(with_shelf, prepared, chosen)["policies"]
    tiers, category = policies["shelf"]["tables"]
    assert tiers["wanted_shares_from"] == {
        "in_each_list": "the policy's, then the catalogue",
        "over_all_lists": "the targets of the policy's amortised rule",
    }
    small = next(group for group in tiers["groups"] if group["group"] == "small")
    assert small["wanted_share"] == pytest.approx(12 / 60)
    assert small["wanted_share_in_lists"] == pytest.approx(1 / 10)
    assert all(group["has_target"] for group in tiers["groups"])
    targets = np.array([group["wanted_share"] for group in tiers["groups"]])
    for when in ("before", "after"):
        shown = np.array([group[f"exposure_share_{when}"] for group in tiers["groups"]])
        assert tiers[when]["awrf_of_all_lists"] == pytest.approx(awrf(shown, targets))
    assert tiers["after"]["awrf_of_all_lists"] > tiers["before"]["awrf_of_all_lists"]
    assert set(category["wanted_shares_from"].values()) == {"the catalogue"}
    assert not any(group["has_target"] for group in category["groups"])
    names = [table["group_table"] for table in policies["over-time"]["tables"]]
    assert names == ["category", "provider_tier"], "what is evened out is measured, bounded or not"
    evened = policies["over-time"]["tables"][1]
    assert evened["after"]["floor_violations"] == evened["after"]["ceiling_violations"] == 0


def test_lists_are_the_served_ones_and_attributes_change_nothing(
    bundle: Bundle, prepared: Prepared
) -> None:
    task = task_of(prepared, "test")
    relevance = Relevance.of(bundle, task)
    assert len(relevance.items) + relevance.unknown == len(task.targets.items)
    got = collect(bundle, task, relevance, "tiers", k=20)
    users = task.targets.users
    told = served_lists(Engine(bundle), task.history, users, task.cut_ms, policy="tiers", k=20)
    assert got.lists.tolist() == told.items.tolist()
    other = dict.fromkeys(prepared.dataset.user_attributes, ("else",) * prepared.dataset.n_users)
    changed = dataclasses.replace(
        prepared, dataset=dataclasses.replace(prepared.dataset, user_attributes=other)
    )
    again = collect(bundle, task_of(changed, "test"), relevance, "tiers", k=20)
    assert again.lists.tolist() == got.lists.tolist()


def test_the_document_keeps_its_promises(document: dict[str, Any], bundle: Bundle) -> None:
    json.dumps(document, allow_nan=False)
    assert set(document["policies"]) == set(bundle.policies)
    tiers = document["policies"]["tiers"]
    assert tiers["regret"]["against"] == "exact optimum"
    assert tiers["regret"]["max"] == 0.0, "the kernel for floors is exact"
    (table,) = tiers["tables"]
    assert table["before"]["floor_violations"] > 0 == table["after"]["floor_violations"]
    assert table["after"]["infeasible_index_mean"] == 0
    assert sum(group["wanted_share"] for group in table["groups"]) == pytest.approx(1)
    assert sum(group["exposure_share_after"] for group in table["groups"]) == pytest.approx(1)
    assert document["policies"]["stacked"]["regret"]["against"] == "receipt's bound"
    own = document["policies"]["own-shares"]["tables"][0]
    assert set(own["wanted_shares_from"].values()) == {"the user's own"}
    assert own["after"]["awrf_mean"] > own["before"]["awrf_mean"]
    for policy in document["policies"].values():
        assert policy["regret"]["lists"] + policy["regret"]["lists_without_one"] == policy["lists"]
        assert policy["regret"]["mean"] >= 0
    statuses = {cell["cell"]: cell["status"] for cell in document["cells"]}
    assert statuses["sex=m"] == "too few (n=3)"
    assert {"income=low", "income=unknown, sex=f"} <= set(tiers["users"]["cells"])
    assert next(iter(tiers["users"]["overall"])).startswith("first_basket")


def test_no_policy_beats_the_exact_frontier(document: dict[str, Any]) -> None:
    swept = document["tradeoff"]
    assert {point["kind"] for point in swept["points"]} >= {
        "floors", "window", "fa_ir", "intersection", "amortised", "cap", "diverse", "calibrated",
    }  # fmt: skip
    served = {(p["series"], p["parameter"]): p for p in swept["points"]}
    assert {f["series"] for f in swept["frontiers"]} >= {"floors", "cap"}
    for best in swept["frontiers"]:
        point = served[best["series"], best["parameter"]]
        if best["lists"] == point["met"] > 0:
            assert point["utility_kept_mean"] <= best["utility_kept_mean"] + 1e-9


def test_page_and_pictures_are_written(tmp_path: Path, document: dict[str, Any]) -> None:
    written = {path.name for path in write_audit(document, tmp_path / "a")}
    pictures = {f"{name}.{form}" for name in ("audit-exposure", "audit-tradeoff") for form in ("png", "svg")}  # fmt: skip
    assert written == {"audit.json", "audit.md", *pictures}
    told = page(document)
    for words in ("## tiers", "AWRF", "EE-D", "worst cell", "sex=m (n=3)", "Trade-off"):
        assert words in told
    assert not re.search(r"\b(nan|inf)\b", told)


def test_the_command_audits_own_files(
    tmp_path: Path, bundle_path: Path, prepared: Prepared
) -> None:
    prepared.tables.interactions.write_parquet(tmp_path / "buys.parquet")
    prepared.tables.users.write_csv(tmp_path / "users.csv")
    arguments = [
        "--bundle", str(bundle_path), "--interactions", str(tmp_path / "buys.parquet"),
        "--users", str(tmp_path / "users.csv"), "--out", str(tmp_path / "a"),
        "--policy", "tiers", "--group-by", "sex", "--resamples", "100",
    ]  # fmt: skip
    outcome = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    printed = json.loads(outcome.stdout)
    assert printed == json.loads((tmp_path / "a" / "audit.json").read_text())
    assert list(printed["policies"]) == ["tiers"]
    assert [cell["cell"] for cell in printed["cells"]] == ["sex=f", "sex=m"]
    assert printed["tradeoff"] is None


def test_a_policy_that_is_not_there_is_refused(bundle: Bundle, prepared: Prepared) -> None:
    with pytest.raises(Refused, match="no policy 'nothing'"):
        audit(bundle, prepared, dataclasses.replace(PROTOCOL, policies=("nothing",)))
