"""The page of an evaluation: it stands alone, holds the document's numbers, and shows what there is."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from server.bundle import load_bundle
from strategies.bundles import tiny_model, tiny_sequence_model
from training.baselines import BASELINES
from training.evaluate import Evaluation
from training.measures.graph import MOST_BLOCKS, Block, blocks_from, blocks_of, n_weights
from training.measures.model import ablation, learning_curves
from training.pages.card import model_card
from training.pages.figures import TITLES
from training.pages.page import page
from training.pages.structure import structure
from training.pages.words import standing, verdict
from training.report import write_results

CURVES = {
    "pairs": {"epochs": [1, 2], "validation_ndcg_at_20": [0.3, 0.31], "training_loss": [3.0, 2.5]}
}


@pytest.fixture(scope="module")
def results(shop_evaluation: Evaluation) -> dict[str, Any]:
    return shop_evaluation.results


@pytest.fixture(scope="module")
def html(results: dict[str, Any]) -> str:
    return page(results)


class Read(HTMLParser):
    """What a browser would fetch, what stands in the text, and whether every element is closed."""

    EMPTY = frozenset(("meta", "br", "img", "link", "hr", "input"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data") and value:
                self.fetched.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def test_the_page_stands_alone(html: str) -> None:
    read = Read(html)
    assert read.open == []
    assert read.fetched
    assert all(one.startswith("#") for one in read.fetched), "nothing is fetched"
    assert not read.tags & {"script", "link", "iframe", "object", "img"}
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert len(read.ids) == len(set(read.ids))
    assert {one[1:] for one in read.fetched} <= set(read.ids)
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert "#010203" not in html, "pictures have the page's colour"


def test_the_page_holds_the_numbers_of_the_document(results: dict[str, Any], html: str) -> None:
    text = Read(html).text
    wanted: dict[str, float] = {}
    for name in ("ndcg", "recall", "first_basket_ndcg", "first_basket_recall", "novel_ndcg", "novel_recall"):  # fmt: skip
        metric = f"{name}_at_20"
        wanted[metric] = results["metrics"][metric]["value"]
        wanted |= {f"{b}/{metric}": results["baselines"][b][metric]["value"] for b in TITLES if b != "ranker"}  # fmt: skip
    for b in results["baselines"]:
        wanted[f"lead {b}"] = results["metrics"][f"ndcg_at_20_minus_{b}"]["value"]
        wanted[f"low {b}"] = results["metrics"][f"ndcg_at_20_minus_{b}"]["low"]
    for attribute, groups in results["groups"].items():
        for label, row in groups.items():
            for metric, one in row.items():
                wanted[f"{attribute}/{label}/{metric}"] = one["value"]
            wanted[f"{attribute}/{label}/auc"] = results["roc"]["users"][attribute][label]["value"]
    for label, one in results["roc"]["items"]["category"].items():
        wanted[f"category {label}"] = one["value"]
    for which in ("candidates", "listed"):
        one = results["calibration"][which]
        wanted[f"ece {which}"] = one["expected_calibration_error"]["value"]
        wanted[f"score {which}"] = one["mean_score"]
    for name, one in results["popularity_bias"]["lists"].items():
        for fact in ("novelty", "popularity_of_history", "catalogue_coverage", "exposure_gini"):
            wanted[f"{name}/{fact}"] = one[fact]["value"]
    cold = results["cold_start"]
    for name, row in [("none", cold["no_history"]["histories_hidden"]), *cold["fold_in"].items()]:
        for fact in ("ndcg_at_20", "ndcg_at_20_best_baseline", "recall_at_20"):
            wanted[f"cold {name}/{fact}"] = row[fact]["value"]
        wanted[f"cold {name}/lead"] = row["ndcg_at_20_minus_best_baseline"]["value"]
    for row in cold["new_items"]:
        if "withheld" not in row:
            wanted[f"rare {row['buyers_from']}"] = row["recall_at_20"]["value"]
    for name in results["policies"]:
        wanted[f"kept {name}"] = results["metrics"][f"ndcg_kept_{name}"]["value"]
    missing = {
        name: value
        for name, value in wanted.items()
        if value is not None and f"{value:.4f}" not in text
    }
    assert len(wanted) > 120
    assert missing == {}
    for baseline in BASELINES:
        assert baseline.title in text


def test_other_numbers_make_another_page(results: dict[str, Any], html: str) -> None:
    changed = copy.deepcopy(results)
    changed["cold_start"]["fold_in"]["3"]["ndcg_at_20"]["value"] = 0.98761
    changed["roc"]["all"]["value"] = 0.98762
    text = Read(page(changed)).text
    assert "0.9876" not in Read(html).text
    assert text.count("0.9876") >= 3
    assert page(results) == html, "the same document is the same page"


def test_the_first_line_is_the_ranker_beside_the_best_baseline(
    results: dict[str, Any], html: str
) -> None:
    best = max(results["baselines"], key=lambda n: results["baselines"][n]["ndcg_at_20"]["value"])
    gap = results["metrics"][f"ndcg_at_20_minus_{best}"]
    told = verdict(results)
    assert TITLES[best] in told
    assert f"[{gap['low']:.4f}, {gap['high']:.4f}]" in told
    assert told in Read(html).text

    def said(low: float, high: float) -> str:
        changed = copy.deepcopy(results)
        for name in results["baselines"]:
            changed["metrics"][f"ndcg_at_20_minus_{name}"] |= {"low": low, "high": high}
        return standing(changed)

    assert said(0.01, 0.02) == "better"
    assert said(-0.01, 0.02) == "not told apart"
    assert said(-0.02, -0.01) == "worse"


def test_one_baseline_that_is_better_is_enough_not_to_be_the_best(results: dict[str, Any]) -> None:
    changed = copy.deepcopy(results)
    for name in results["baselines"]:
        changed["metrics"][f"ndcg_at_20_minus_{name}"] |= {"low": 0.1, "high": 0.2}
    changed["metrics"]["ndcg_at_20_minus_ials"] |= {"low": -0.2, "high": -0.1}
    assert standing(changed) == "worse"
    changed["metrics"]["novel_ndcg_at_20_minus_ease"] |= {"low": -0.2, "high": -0.1, "value": -0.15}
    changed["baselines"]["ease"]["novel_ndcg_at_20"]["value"] = 0.99
    assert "new to the user: EASE, by 0.1500" in verdict(changed)


def test_foreign_words_are_shown_and_never_run(results: dict[str, Any]) -> None:
    changed = copy.deepcopy(results)
    bad = "<script>alert(1)</script>"
    changed["dataset"]["source"] = changed["model"]["trained_on"]["source"] = bad
    changed["roc"]["items"]["category"][bad] = changed["roc"]["items"]["category"].popitem()[1]
    changed["cleaning"]["dropped"] = [[bad, 3]]
    changed["structure"]["blocks"][0]["title"] = bad
    changed["policies"]["tiers"]["policy"] = bad
    changed["learning_curves"] = {bad: CURVES["pairs"]}
    read = Read(page(changed))
    assert "script" not in read.tags
    assert "<script>alert(1)</script>" in read.text


def test_groups_below_the_floor_are_named_and_not_told(results: dict[str, Any], html: str) -> None:
    hidden = results["groups"]["sex"]["m"]["ndcg_at_20"]
    assert hidden["value"] is None
    assert "withheld: 3 users, fewer than 5" in Read(html).text
    assert results["roc"]["users"]["sex"]["m"]["value"] is None


def test_learning_curves_and_ablation_are_shown_where_the_bundle_brings_them(
    results: dict[str, Any], html: str
) -> None:
    assert results["learning_curves"] is None
    assert "Learning curves" not in html
    assert "Which features carry it" not in html
    told = copy.deepcopy(results)
    told["learning_curves"] = learning_curves(CURVES)
    told["ablation"] = ablation({"prices": {"value": 0.0123, "low": 0.01, "high": 0.02}})
    text = Read(page(told)).text
    assert "Learning curves" in text
    assert "prices" in text
    assert "+0.0123" in text


@pytest.mark.parametrize(
    "told",
    [
        None, 7, "x", [], {}, {"a": 3}, {"a": {}}, {"a": {"epochs": [1, 2]}},
        {"a": {"epochs": [1, 2], "training_loss": [1.0]}}, {"a": {"epochs": "12"}},
    ],
)  # fmt: skip
def test_what_is_no_learning_curve_is_left_out(told: Any) -> None:
    assert learning_curves(told) is None
    assert learning_curves({"good": CURVES["pairs"], "bad": told}) == {"good": CURVES["pairs"]}
    assert ablation(told) is None


def test_a_bundle_that_brings_learning_curves_has_them_in_the_document(
    tmp_path: Path, audit_prepared: Any
) -> None:
    from server.bundle import DataInfo
    from strategies.bundles import tiny_bundle
    from training.measures.model import model_block

    data = DataInfo(
        source="by hand", until_unix_ms=1, users=1, items=60, interactions=1, digest="0" * 64
    )
    tiny_bundle(tmp_path / "b", data=data, quality={"learning_curves": CURVES, "ndcg": 0.5})
    block = model_block(load_bundle(tmp_path / "b").manifest, audit_prepared.cleaning)
    assert block["learning_curves"] == CURVES
    assert block["ablation"] is None
    assert block["model"]["measured_in_training"] == {"ndcg": 0.5}


def test_the_structure_has_every_input_output_and_weight(audit_bundle: Path) -> None:
    rng = np.random.default_rng(0)
    for model in (
        load_bundle(audit_bundle).model, tiny_model(rng), tiny_sequence_model(rng, pairs=True),
    ):  # fmt: skip
        graph = onnx.load_from_string(model).graph
        blocks = blocks_of(model)
        assert {b.title for b in blocks if b.kind == "input"} == {one.name for one in graph.input}
        assert {b.title for b in blocks if b.kind == "output"} == {one.name for one in graph.output}
        assert sum(b.weights for b in blocks) == n_weights(model)
        for at, block in enumerate(blocks):
            assert all(before < at for before in block.after), "no circle"
            assert block.kind == "input" or block.after
        picture = structure(blocks)
        for block in blocks:
            assert f"{block.title}: {', '.join(block.says)}" in picture


def test_a_deep_model_is_shown_in_few_blocks_by_its_modules() -> None:
    """Thirty layers of a tower and a head: one box each would be none to look at."""
    weight = np.eye(4, dtype=np.float32)
    nodes, constants, last = [], [], "x"
    names = [f"tower.layers.{n}" for n in range(30)] + ["head"]
    for number, name in enumerate(names):
        constants += [
            numpy_helper.from_array(weight, f"val_{number}"),
            numpy_helper.from_array(weight[0], f"{name}.bias"),
        ]
        nodes += [
            helper.make_node("MatMul", [last, f"val_{number}"], [f"{name}-1"]),
            helper.make_node("Add", [f"{name}-1", f"{name}.bias"], [f"{name}-2"]),
            helper.make_node("Relu", [f"{name}-2"], [f"{name}-3"]),
        ]
        last = f"{name}-3"
    graph = helper.make_graph(
        nodes, "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", 4])], constants,
    )  # fmt: skip
    blocks = blocks_of(helper.make_model(graph).SerializeToString())
    inside = [block for block in blocks if block.kind == "block"]
    assert 2 <= len(inside) <= MOST_BLOCKS
    assert [block.title for block in inside] == ["tower", "head"]
    assert inside[0].weights == 30 * 20
    assert inside[1].says == ["linear 4 → 4", "ReLU"]


def test_the_structure_survives_the_document(results: dict[str, Any], audit_bundle: Path) -> None:
    told = blocks_from(results["structure"])
    assert told == blocks_of(load_bundle(audit_bundle).model)
    assert isinstance(told[0], Block)


def test_the_model_card_has_the_same_numbers_and_says_what_it_cannot(
    results: dict[str, Any], html: str
) -> None:
    card = model_card(results)
    text = " ".join(Read(html).text.split())
    metrics, cold = results["metrics"], results["cold_start"]
    for value in (
        metrics["ndcg_at_20"]["value"],
        metrics["first_basket_recall_at_20"]["value"],
        metrics["ndcg_kept_tiers"]["value"],
        results["roc"]["all"]["value"],
        results["worst_group"]["income"]["first_basket_recall_at_20"]["value"],
        cold["no_history"]["histories_hidden"]["ndcg_at_20"]["value"],
        *(row["ndcg_at_20"]["value"] for row in cold["fold_in"].values()),
    ):
        assert f"{value:.4f}" in card
    assert "cannot be listed" in card
    assert results["bundle_id"] in card
    for heading in ("Model", "Measured on", "Groups of users", "Cold start", "Policies", "Limits"):
        assert f"## {heading}\n" in card
        assert heading in text


def test_page_and_card_are_written_beside_the_document(
    tmp_path: Path, shop_evaluation: Evaluation, html: str
) -> None:
    write_results(shop_evaluation, tmp_path)
    assert (tmp_path / "index.html").read_text() == html
    assert (tmp_path / "model_card.md").read_text() == model_card(shop_evaluation.results)
