"""Quantised bundles: what the command says it lost is what a naive reading of both bundles finds."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from click.testing import CliRunner, Result

from server.bundle import DataInfo, load_bundle
from server.engine.engine import Engine
from server.errors import BundleRefused, Refused
from strategies.bundles import reseal, tiny_bundle
from training import quantise, quantise_command
from training.data.prepare import Prepared
from training.quantise import Loss, quantised_parts
from training.served import served_lists
from training.task import places_in_data, task_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def before(audit_prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "plain"
    until = audit_prepared.split.train_until_ms
    data = DataInfo(
        source="by hand", until_unix_ms=until, users=1, items=60, interactions=1, digest="0" * 64
    )
    tiny_bundle(path, data=data)
    return path


def run(monkeypatch: pytest.MonkeyPatch, prepared: Prepared, *arguments: str | Path) -> Result:
    monkeypatch.setattr(quantise_command, "prepared_source", lambda *given: prepared)
    return CliRunner().invoke(quantise_command.quantise, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def made(
    before: Path, audit_prepared: Prepared, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("bundles") / "small"
    with pytest.MonkeyPatch.context() as monkeypatch:
        done = run(monkeypatch, audit_prepared, before, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout)


def test_the_bundle_is_served_and_says_what_it_is_and_what_it_lost(
    before: Path, made: tuple[Path, dict[str, Any]]
) -> None:
    out, told = made
    plain, small = load_bundle(before), load_bundle(out)
    Engine(small).warm_up()
    found = small.manifest.model.quantised
    assert found is not None
    assert found.operators == ("MatMul",)  # this model has no table
    assert found.source == plain.manifest.model.digest
    assert told["bundle_id"] == small.manifest.bundle_id
    recorded = small.manifest.quality["quantisation"]
    assert recorded == {name: value for name, value in told.items() if name != "bundle_id"}
    assert (told["bytes_before"], told["bytes_after"]) == (len(plain.model), len(small.model))
    graph = onnx.load_model_from_string(small.model)
    onnx.checker.check_model(graph)
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= {n.op_type for n in graph.graph.node}
    assert "## Quantised" in (out / "MODEL_CARD.md").read_text()
    # All else is as it was.
    for name in ("features.safetensors", "items.json", "groups.json", "policies/none.toml"):
        assert (out / name).read_bytes() == (before / name).read_bytes()
    assert plain.manifest.model.quantised is None
    assert "quantised" not in json.loads((before / "manifest.json").read_bytes())["model"]


def test_the_loss_is_that_of_the_lists_that_both_serve(
    before: Path, made: tuple[Path, dict[str, Any]], audit_prepared: Prepared
) -> None:
    out, told = made
    task = task_of(audit_prepared, "validation")
    targets = task.targets
    ndcgs, lists, scores = [], [], []
    for path in (before, out):
        bundle = load_bundle(path)
        engine = Engine(bundle)
        own: list[dict[str, float]] = []
        served = served_lists(
            engine, task.history, targets.users, task.cut_ms, policy="none", k=20,
            on_answer=lambda answer, own=own: own.append(
                dict(zip(answer.candidates.item_ids, answer.candidates.scores.tolist(), strict=True))
            ),
        )  # fmt: skip
        to_data = places_in_data(bundle, audit_prepared.dataset)
        values = []
        for row in range(len(targets)):
            wanted = set(targets.of(row).tolist())
            gains = sum(
                1 / math.log2(place + 2)
                for place, item in enumerate(to_data[served.items[row]].tolist())
                if item in wanted
            )
            values.append(gains / sum(1 / math.log2(p + 2) for p in range(min(20, len(wanted)))))
        ndcgs.append(np.array(values))
        lists.append([row.tolist() for row in served.items])
        scores.append(own)
    assert told["users"] == len(targets) > 10
    assert not told["seen"]
    assert told["ndcg_at_20_before"] == pytest.approx(ndcgs[0].mean())
    assert told["ndcg_at_20_after"] == pytest.approx(ndcgs[1].mean())
    assert told["ndcg_difference"]["value"] == pytest.approx((ndcgs[1] - ndcgs[0]).mean())
    assert told["ndcg_difference"]["low"] <= told["ndcg_difference"]["value"]
    changed = np.mean([one != other for one, other in zip(*lists, strict=True)])
    assert told["changed_lists"] == pytest.approx(changed)
    gaps = [abs(a[i] - b[i]) for a, b in zip(*scores, strict=True) for i in a]
    assert told["largest_difference"] == pytest.approx(max(gaps))
    assert told["mean_difference"] == pytest.approx(np.mean(gaps))
    assert max(gaps) > 0


def test_a_score_moves_with_its_company_so_that_each_list_has_a_run_of_its_own(
    before: Path, made: tuple[Path, dict[str, Any]]
) -> None:
    out, told = made
    bundle = load_bundle(out)
    session = onnxruntime.InferenceSession(bundle.model)
    features = bundle.golden_inputs["features"]
    wild = features[:1].copy()
    wild[0, 0] *= 50
    together = session.run(["scores"], {"features": np.concatenate([features[:1], wild])})[0]
    alone = session.run(["scores"], {"features": features[:1]})[0]
    assert not np.array_equal(together[:1], alone)
    assert Engine(bundle).least_together is None
    assert Engine(load_bundle(before)).least_together is not None
    assert (told["shares_runs_before"], told["shares_runs_after"]) == (True, False)


def test_goldens_are_held_to_the_stated_tolerance_and_no_other(
    made: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out, _ = made
    quantised = load_bundle(out).manifest.model.quantised
    assert quantised is not None
    assert 1e-4 <= quantised.golden_tolerance <= 0.05

    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    goldens = safetensors.numpy.load_file(copy / "goldens.safetensors")
    moved = {**goldens, "outputs": goldens["outputs"] + np.float32(2 * quantised.golden_tolerance)}
    reseal(copy, {"goldens.safetensors": safetensors.numpy.save(moved)})
    with pytest.raises(BundleRefused, match=f"allowed: {quantised.golden_tolerance}"):
        load_bundle(copy)

    # Off by less, a quantised bundle is served, and any other is not.
    near = {**goldens, "outputs": goldens["outputs"] + np.float32(quantised.golden_tolerance / 2)}
    reseal(copy, {"goldens.safetensors": safetensors.numpy.save(near)})
    load_bundle(copy)
    reseal(copy, change=lambda manifest: manifest["model"].pop("quantised"))
    with pytest.raises(BundleRefused, match=r"allowed: 0\.0001"):
        load_bundle(copy)

    reseal(
        copy,
        change=lambda manifest: manifest["model"].update(
            quantised={"operators": ["MatMul"], "source": "0" * 64, "golden_tolerance": 0.06}
        ),
    )
    with pytest.raises(BundleRefused, match=r"golden_tolerance: got 0\.06"):
        load_bundle(copy)


def test_what_makes_no_sense_is_refused(
    before: Path,
    made: tuple[Path, dict[str, Any]],
    audit_prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def parts(path: Path, *operators: str) -> None:
        quantised_parts(
            path, audit_prepared, operators, users=5, seed=0, on_step=lambda *_: None
        )  # fmt: skip

    with pytest.raises(Refused, match="quantised already"):
        parts(made[0], "MatMul")
    with pytest.raises(Refused, match="no weights of Gather"):
        parts(before, "Gather")
    monkeypatch.setattr(quantise, "MOST_TOLERANCE", 1e-6)
    with pytest.raises(Refused, match="quantised scores are off by"):
        parts(before, "MatMul")


def test_the_last_line_says_whether_it_pays(
    before: Path,
    audit_prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = run(monkeypatch, audit_prepared, before, "--out", tmp_path / "b", "--most-users", "12")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [
        "size", "scores", "lists", "NDCG@20", "time", "verdict",
    ]  # fmt: skip
    assert "of 12 have another first 20" in done.stdout


@pytest.mark.parametrize(
    ("change", "pays"),
    [
        ({}, True),
        ({"served_ratio": 1.3}, False),
        ({"ndcg_difference": {"low": -0.003}}, False),
        ({"ndcg_difference": {"low": None}}, False),
        ({"bytes_after": 99}, False),
        ({"bytes_after": 99, "served_ratio": 0.9}, True),
    ],
)
def test_it_pays_where_something_is_gained_and_little_lost(
    change: dict[str, Any], pays: bool
) -> None:
    loss = Loss(
        operators=("MatMul",), users=9, seen=False, bytes_before=100, bytes_after=30,
        largest_difference=0.1, mean_difference=0.1, changed_lists=0.1, ndcg_at_20_before=0.5,
        ndcg_at_20_after=0.5, ndcg_difference={"low": -0.001}, alone_ratio=0.9, served_ratio=1.0,
        shares_runs_before=True, shares_runs_after=False,
    )  # fmt: skip
    assert dataclasses.replace(loss, **change).pays is pays


def test_the_help_names_the_operators_that_there_are() -> None:
    assert tuple(quantise.OPERATORS) == quantise_command.OPERATORS
