"""The audit: measures against other people's code and by hand, small groups, the command."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from bench.verify.optimum import largest_dcg as verified
from server.bundle import Bundle, GroupTable, load_bundle
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
from strategies.fairness import compiled
from training.audit.audit import Protocol, audit
from training.audit.collect import Relevance, collect
from training.audit.command import audit as command
from training.audit.optimum import largest_dcg
from training.audit.sweeps import WITH_OPTIMUM, WITHOUT_OPTIMUM
from training.audit.wanted import wanted_shares
from training.data.prepare import Prepared
from training.metrics import ndcg, roc_auc
from training.served import served_lists
from training.task import task_of

PROTOCOL = Protocol(resamples=200, min_users=6, tradeoff_users=4)


@pytest.fixture(scope="module")
def prepared(audit_prepared: Prepared) -> Prepared:
    return audit_prepared


@pytest.fixture(scope="module")
def bundle_path(audit_bundle: Path) -> Path:
    return audit_bundle


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def document(audit_document: dict[str, Any]) -> dict[str, Any]:
    return audit_document


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
    series = {point["series"] for point in swept["points"]}
    without = {name for name in series if name.split(",")[0] in WITHOUT_OPTIMUM}
    assert {f["series"] for f in swept["frontiers"]} == series - without
    assert {point["kind"] for point in swept["points"]} <= {*WITH_OPTIMUM, *WITHOUT_OPTIMUM}
    assert "intersection" in swept["frontier_words"].partition("None for")[2]
    assert "window" in swept["frontier_words"].partition("None for")[0]
    for best in swept["frontiers"]:
        point = served[best["series"], best["parameter"]]
        if best["lists"] == point["met"] > 0:
            assert point["utility_kept_mean"] <= best["utility_kept_mean"] + 1e-9


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
    outcome = CliRunner().invoke(command, arguments, catch_exceptions=False)
    lines = outcome.stdout.splitlines()
    assert len(lines) <= 40
    assert str(tmp_path / "a" / "audit.md") in outcome.stdout
    assert "| " not in outcome.stdout, "the tables are in the page"


def test_a_policy_that_is_not_there_is_refused(bundle: Bundle, prepared: Prepared) -> None:
    with pytest.raises(Refused, match="no policy 'nothing'"):
        audit(bundle, prepared, dataclasses.replace(PROTOCOL, policies=("nothing",)))
