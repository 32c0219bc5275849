"""Evaluation: the served path's own lists, a document that a gate can read, honest refusals."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from server.bundle import Bundle, DataInfo, load_bundle
from server.engine.engine import Engine
from server.engine.query import Answer, RecommendQuery
from server.errors import Refused
from server.events import StoredHistory
from server.features import generate_candidates, pair_features
from server.features.types import DAY_MS
from server.model import OnnxScorer, pair_ports
from strategies.bundles import N_NOVEL, tiny_bundle
from strategies.fairness import document
from strategies.purchases import shop_rows, tables
from training import options
from training.audit.audit import Protocol as AuditProtocol
from training.baselines import BASELINES, Baseline, Scorer
from training.commands import evaluate as command
from training.data.dataset import Dataset
from training.data.prepare import Prepared, prepare_tables
from training.data.split import targets_between
from training.data.tables import users_from
from training.evaluate import Evaluation, Protocol, chosen, evaluate
from training.metrics import ndcg
from training.report import text, write_results
from training.served import served_lists
from training.task import task_of
from training.user_groups import MIN_USERS

PROTOCOL = Protocol(resamples=200, min_users=5)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    # Two users leave before the targets begin: nothing of theirs may slip into another's row.
    gone = {"user-03", "user-11"}
    shop = tables([row for row in shop_rows() if row[0] not in gone or row[2] < 60])
    people = users_from(
        pl.DataFrame(
            {
                "user": [f"user-{n:02}" for n in range(30)],
                "income": ["low", "high", None] * 10,
                "nickname": [f"n{n}" for n in range(30)],
            }
        )
    )
    return prepare_tables(dataclasses.replace(shop, users=people))


@pytest.fixture(scope="module")
def bundle_path(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "tiny"
    tiny_bundle(path, data=data_until(prepared.split.validation_until_ms))
    return path


def data_until(until_ms: int) -> DataInfo:
    return DataInfo(
        source="by hand", until_unix_ms=until_ms, users=1, items=60, interactions=1, digest="0" * 64
    )


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def evaluation(bundle: Bundle, prepared: Prepared) -> Evaluation:
    return evaluate(bundle, prepared, PROTOCOL)


def test_ranker_lists_are_candidates_features_and_model_sorted_by_score_and_index(
    bundle: Bundle, prepared: Prepared
) -> None:
    cut_ms = prepared.split.validation_until_ms
    history = prepared.dataset.until(cut_ms)
    users = np.array([0, 7, 29], np.int32)
    got = served_lists(Engine(bundle), history, users, cut_ms, policy="none", k=20)
    model = bundle.manifest.model
    scorer = OnnxScorer(bundle.model, pair_ports(model.n_features))
    for row, user in enumerate(users.tolist()):
        known = dataclasses.replace(
            history.history(user),
            items=np.array(
                [bundle.items.index[history.item_ids[i]] for i in history.history(user).items],
                np.int32,
            ),
        )
        found = generate_candidates(known, cut_ms, bundle.state, N_NOVEL)
        features = pair_features(known, found.items, cut_ms, bundle.state)
        scores = scorer.score({"features": features[None]})[0]
        order = np.lexsort((found.items, -scores))[:20]
        assert got.items[row].tolist() == found.items[order].tolist()


def test_the_measured_ndcg_is_that_of_lists_asked_one_by_one(
    bundle: Bundle, prepared: Prepared, evaluation: Evaluation
) -> None:
    split, dataset = prepared.split, prepared.dataset
    targets = targets_between(dataset, split.validation_until_ms, split.test_until_ms)
    history = dataset.until(split.validation_until_ms)
    engine = Engine(bundle)
    values, novel_values = [], []
    for place, user in enumerate(targets.users.tolist()):
        own = history.history(user)
        told = StoredHistory(
            tuple(dataset.item_ids[i] for i in own.items),
            own.times_ms,
            np.full(len(own), 4, np.int8),
            own.quantities,
        )
        wanted = {dataset.item_ids[i] for i in targets.of(place)}
        for seen, asked, out in (
            (True, wanted, values),
            (False, wanted - set(told.item_ids), novel_values),
        ):
            cut_ms = split.validation_until_ms
            query = RecommendQuery(20, history=told, policy="none", as_of_ms=cut_ms, seen=seen)
            (answer,) = engine.run_batch([query])
            assert isinstance(answer, Answer)
            found = np.array([[item in asked for item in answer.item_ids]])
            out.append(float(ndcg(found, np.array([len(asked)]))[0]))
    assert len(values) == 28
    assert evaluation.per_user["ndcg_at_20"].tolist() == pytest.approx(values)
    novel = evaluation.per_user["novel_ndcg_at_20"].tolist()
    assert novel == pytest.approx(novel_values, nan_ok=True)
    assert evaluation.results["metrics"]["ndcg_at_20"]["value"] == pytest.approx(np.mean(values))


def test_the_document_has_every_number_that_it_promises(
    bundle: Bundle, evaluation: Evaluation
) -> None:
    results = evaluation.results
    metrics = results["metrics"]
    kinds = ("", "first_basket_", "novel_")
    for metric in (f"{kind}{name}_at_20" for kind in kinds for name in ("ndcg", "recall")):
        assert 0 <= metrics[metric]["low"] <= metrics[metric]["value"] <= metrics[metric]["high"]
        for baseline in BASELINES:
            gain = metrics[f"{metric}_minus_{baseline.name}"]
            other = results["baselines"][baseline.name][metric]
            assert gain["value"] == pytest.approx(metrics[metric]["value"] - other["value"])
    for policy in ("tiers", "brands", "categories"):
        kept = metrics[f"ndcg_kept_{policy}"]
        price = metrics[f"price_of_fairness_{policy}"]
        assert price["value"] == pytest.approx(1 - kept["value"])
        assert price["low"] <= price["value"] <= price["high"]
        assert price["better"] == "lower"
    assert results["bundle_id"] == bundle.manifest.bundle_id
    assert results["model_digest"] == bundle.manifest.model.digest
    assert results["protocol"]["served_path"] is True
    json.dumps(results, allow_nan=False)


def test_groups_are_those_of_the_users_and_the_worst_leaves_out_unknown(
    prepared: Prepared, evaluation: Evaluation
) -> None:
    groups = evaluation.results["groups"]
    assert set(groups) == {"income"}, "too many labels, or no such attribute, is no group"
    assert set(groups["income"]) == {"low", "high", "unknown"}
    labels = evaluation.per_user["group/income"]
    for label, told in groups["income"].items():
        members = evaluation.per_user["ndcg_at_20"][labels == label]
        assert told["ndcg_at_20"]["value"] == pytest.approx(members.mean())
        assert told["ndcg_at_20"]["n_users"] == len(members)
    worst = evaluation.results["worst_group"]["income"]["ndcg_at_20"]
    known = {label: groups["income"][label]["ndcg_at_20"]["value"] for label in ("low", "high")}
    assert worst["label"] == min(known, key=lambda label: known[label])
    counts = evaluation.results["group_counts"]["income"]
    assert sum(c["users"] for c in counts.values()) == len(labels)
    assert all(0 <= c["hits"] <= c["targets"] for c in counts.values())


def test_of_a_group_below_the_floor_only_the_number_is_told(
    bundle: Bundle, prepared: Prepared
) -> None:
    """The floor of the audit: the mean of few users is close to what each of them bought."""
    attributes = {
        "home": tuple(
            "Probable Homeowner" if n < 3 else "Owner" if n < 18 else "Renter"
            for n in range(prepared.dataset.n_users)
        ),
        "one": ("Owner",) * 3 + ("unknown",) * (prepared.dataset.n_users - 3),
    }
    few = dataclasses.replace(
        prepared, dataset=dataclasses.replace(prepared.dataset, user_attributes=attributes)
    )
    assert Protocol().min_users == AuditProtocol().min_users == MIN_USERS == options.MIN_USERS
    results = evaluate(bundle, few, PROTOCOL).results
    hidden = results["groups"]["home"]["Probable Homeowner"]
    assert {frozenset(told) for told in hidden.values()} == {
        frozenset(("value", "low", "high", "n_users", "better", "withheld"))
    }
    assert {told["value"] for told in hidden.values()} == {None}
    assert hidden["ndcg_at_20"]["withheld"] == "3 users, fewer than 5"
    counts = results["group_counts"]["home"]["Probable Homeowner"]
    assert counts.pop("users") == 3
    assert set(counts.values()) == {None}
    worst = results["worst_group"]["home"]["ndcg_at_20"]
    assert worst["label"] in ("Owner", "Renter")
    assert "Probable Homeowner" in worst["withheld"]
    assert results["worst_group"]["one"]["ndcg_at_20"]["label"] is None
    told = text(results).split("\n\n")
    lines = next(part for part in told if part.startswith("home")).splitlines()[1:]
    assert "  Probable Homeowner withheld: 3 users, fewer than 5" in lines
    starts = {len(line) - len(line[2 + len("Probable Homeowner") :].lstrip()) for line in lines}
    assert starts == {2 + len("Probable Homeowner") + 1}, "a long label moves the column for all"
    json.dumps(results, allow_nan=False)


def test_a_policy_moves_exposure_and_its_receipts_are_counted(evaluation: Evaluation) -> None:
    tiers = evaluation.results["policies"]["tiers"]
    assert tiers["met"] + tiers["infeasible"] + tiers["skipped"] == tiers["lists"] > 0
    assert tiers["floor_violations_before"] > 0 == tiers["floor_violations_after"]
    shares = {g["group"]: (g["share_before"], g["share_after"]) for g in tiers["groups"]}
    assert sum(before for before, _ in shares.values()) == pytest.approx(1)
    assert sum(after for _, after in shares.values()) == pytest.approx(1)
    assert any(before != pytest.approx(after) for before, after in shares.values())


def test_a_bundle_that_has_seen_the_targets_is_refused(tmp_path: Path, prepared: Prepared) -> None:
    tiny_bundle(tmp_path / "b", data=data_until(prepared.split.validation_until_ms + 1))
    with pytest.raises(Refused, match="has seen what it would be asked to foresee"):
        evaluate(load_bundle(tmp_path / "b"), prepared, PROTOCOL)
    tiny_bundle(tmp_path / "c", data=data_until(prepared.split.train_until_ms + DAY_MS))
    with pytest.raises(Refused, match="learned from events"):
        evaluate(
            load_bundle(tmp_path / "c"),
            prepared,
            dataclasses.replace(PROTOCOL, on="validation"),
        )


def test_a_bundle_without_a_plain_policy_is_refused(tmp_path: Path, prepared: Prepared) -> None:
    floors = document("floors", '[floors]\nsmall = "1/5"\n')
    only = floors.replace('"t"', '"provider_tier"').replace('name = "p"', 'name = "tiers"')
    data = data_until(prepared.split.validation_until_ms)
    tiny_bundle(tmp_path / "b", policies={"tiers": only}, data=data)
    with pytest.raises(Refused, match="no policy of kind 'none'"):
        evaluate(load_bundle(tmp_path / "b"), prepared, PROTOCOL)


def test_items_that_the_bundle_does_not_know_are_misses_and_told(
    bundle: Bundle, prepared: Prepared
) -> None:
    renamed = tuple(
        f"new-{item}" if n % 2 else item for n, item in enumerate(prepared.dataset.item_ids)
    )
    order = np.argsort(np.array(renamed), kind="stable")
    dataset = dataclasses.replace(
        prepared.dataset,
        item_ids=tuple(renamed[i] for i in order),
        items=np.argsort(order)[prepared.dataset.items].astype(np.int32),
    )
    results = evaluate(bundle, dataclasses.replace(prepared, dataset=dataset), PROTOCOL).results
    assert results["protocol"]["history_events_unknown_to_bundle"] > 0
    assert math.isfinite(results["metrics"]["ndcg_at_20"]["value"])


def test_results_are_written_whole_and_the_document_last(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b))[1])
    written = write_results(evaluation, tmp_path / "q")
    assert order[-1] == "quality.json"
    assert {path.name for path in written} == {path.name for path in (tmp_path / "q").iterdir()}
    digest = hashlib.sha256((tmp_path / "q" / "per_user.npz").read_bytes()).hexdigest()
    document = json.loads((tmp_path / "q" / "quality.json").read_text())
    assert document == evaluation.results | {"per_user_sha256": digest}
    arrays = np.load(tmp_path / "q" / "per_user.npz", allow_pickle=False)
    assert arrays["ndcg_at_20"].tolist() == evaluation.per_user["ndcg_at_20"].tolist()
    assert (tmp_path / "q" / "exposure.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "q" / "quality.svg").read_bytes()


def test_a_full_disk_leaves_no_document_behind(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_results(evaluation, tmp_path / "q")
    assert list((tmp_path / "q").iterdir()) == []


def test_the_text_names_every_baseline_group_and_policy(evaluation: Evaluation) -> None:
    told = text(evaluation.results)
    for baseline in BASELINES:
        assert baseline.title in told
    for word in ("income", "policy tiers", "exposure", "this bundle"):
        assert word in told


def test_the_command_measures_own_files_and_prints_json(
    tmp_path: Path, bundle_path: Path, prepared: Prepared
) -> None:
    buys = prepared.tables.interactions
    buys.write_parquet(tmp_path / "buys.parquet")
    prepared.tables.users.write_csv(tmp_path / "users.csv")
    arguments = [
        "--bundle", str(bundle_path), "--interactions", str(tmp_path / "buys.parquet"),
        "--users", str(tmp_path / "users.csv"), "--out", str(tmp_path / "q"),
        "--resamples", "100", "--json",
    ]  # fmt: skip
    outcome = CliRunner().invoke(command, arguments, catch_exceptions=False)
    printed = json.loads(outcome.stdout)
    assert printed == json.loads((tmp_path / "q" / "quality.json").read_text())
    assert printed["groups"]["income"].keys() == {"low", "high", "unknown"}


@pytest.mark.parametrize("attribute", ["shoe size", "nickname"])
def test_an_attribute_that_makes_no_groups_is_refused(
    bundle: Bundle, prepared: Prepared, attribute: str
) -> None:
    protocol = dataclasses.replace(PROTOCOL, user_attributes=(attribute,))
    with pytest.raises(Refused, match=attribute):
        evaluate(bundle, prepared, protocol)


def test_a_bundle_that_knows_nothing_of_the_data_is_refused(
    bundle: Bundle, prepared: Prepared
) -> None:
    foreign = dataclasses.replace(
        prepared.dataset, item_ids=tuple(f"other-{item}" for item in prepared.dataset.item_ids)
    )
    with pytest.raises(Refused, match="knows none of the"):
        evaluate(bundle, dataclasses.replace(prepared, dataset=foreign), PROTOCOL)


def test_a_baseline_with_several_settings_is_chosen_on_validation(prepared: Prepared) -> None:
    def always(*first: int) -> Baseline:
        def fit(history: Dataset, now_ms: int) -> Scorer:
            scores = np.zeros(history.n_items, np.float32)
            scores[list(first)] = range(len(first), 0, -1)
            return lambda users: np.repeat(scores[None], len(users), axis=0)

        return Baseline("x", "x", fit, str(first))

    task = task_of(prepared, "validation")
    counts = np.bincount(task.targets.items, minlength=prepared.dataset.n_items)
    best, worst = np.argsort(-counts, kind="stable")[[0, -1]].tolist()
    bad, good = always(worst), always(best)
    both = dataclasses.replace(bad, others=((good.settings, good.fit),))
    found = chosen(both, prepared, 5, lambda what, done, total: None)
    assert (found.settings, found.others) == (good.settings, ())


def test_whether_a_baseline_lists_what_the_user_has_is_chosen_on_validation(
    prepared: Prepared,
) -> None:
    """Where all come back for the same, own items lead; where nobody does, they only take places."""
    (frequency,) = [one for one in BASELINES if one.name == "personal_frequency"]
    assert chosen(frequency, prepared, 5, lambda what, done, total: None).own
    seen: set[tuple[int, int]] = set()
    first = []
    pairs = zip(prepared.dataset.event_users.tolist(), prepared.dataset.items.tolist(), strict=True)
    for pair in pairs:
        first.append(pair not in seen)
        seen.add(pair)
    once = dataclasses.replace(prepared, dataset=prepared.dataset._where(np.array(first)))
    found = chosen(frequency, once, 5, lambda what, done, total: None)
    assert not found.own
    assert found.told() == "without the user's own items"
    task = task_of(once, "test")
    lists, novel = found.rank(task.history, task.targets.users, task.cut_ms, 5)
    assert np.array_equal(lists, novel)
