"""The page of performance says what the kept result says, also where it is bad."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.serving import evidence, goals
from bench.serving.__main__ import main
from bench.serving.peers.peer import PEERS


@pytest.fixture
def result() -> dict[str, Any]:
    return evidence.read()


def test_the_page_is_made_of_the_kept_result(result: dict[str, Any]) -> None:
    made = evidence.page(result)
    assert evidence.PAGE.read_text(encoding="utf-8") == made, "run: make serving-evidence"


def test_the_kept_result_has_every_peer_and_goal(result: dict[str, Any]) -> None:
    assert [one["name"] for one in result["peers"]] == [peer.name for peer in PEERS]
    for one in result["peers"]:
        assert one["costs"] or one["reason"], one["name"]
    again = [row.verdict for row in goals.rows(result)]
    assert [row["verdict"] for row in result["goals"]] == again
    assert set(result["growth"]) == {"candidates", "catalogue", "workers"}


def test_what_went_wrong_is_told(result: dict[str, Any]) -> None:
    worse = copy.deepcopy(result)
    worse["peers"][0] |= {"costs": [], "reason": "port 77001 is listened on | by others"}
    worse["goals"][0] |= {"verdict": "missed by 88%", "value": 1.88}
    worse["short"] = True
    told = evidence.page(worse)
    assert "not measured: port 77001 is listened on \\| by others" in told
    first = next(line for line in told.splitlines() if worse["goals"][0]["name"] in line)
    assert "| 1.88 |" in first
    assert "| missed by 88% |" in first
    assert "**A short run**" in told
    assert "**A short run**" not in evidence.page(worse | {"short": False})


def test_every_peers_tuning_is_told(result: dict[str, Any]) -> None:
    told = evidence.page(result)
    for peer in PEERS:
        text = evidence.tuning(peer.home)
        assert "Tuning: " in text, peer.name
        assert " ".join(text.split("\n\n")[0].split()) in told


def test_every_row_of_a_table_has_its_columns(result: dict[str, Any]) -> None:
    width = 0
    for line in evidence.page(result).splitlines():
        cells = len(re.split(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells


def test_the_result_is_kept_and_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]
) -> None:
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(evidence, "PAGE", tmp_path / "page.md")
    empty = CliRunner().invoke(main, ["evidence", "--results", str(tmp_path)])
    assert empty.exit_code == 1
    assert "run the command first" in empty.output
    (tmp_path / "cost.json").write_text(json.dumps(result), encoding="utf-8")
    made = CliRunner().invoke(main, ["evidence", "--results", str(tmp_path)])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == evidence.page(result)


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ({"short": True}, "all but a short run"),
        ({"growth": {}}, "growth"),
        ({"peer_versions": {"triton": "x"}}, "bentoml"),
    ],
)
def test_a_part_does_not_take_the_place_of_the_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    result: dict[str, Any],
    lacks: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(evidence, "PAGE", tmp_path / "page.md")
    (tmp_path / "cost.json").write_text(json.dumps(result | lacks), encoding="utf-8")
    made = CliRunner().invoke(main, ["evidence", "--results", str(tmp_path)])
    assert made.exit_code == 1
    assert f"lacks {told}" in made.output
    assert not (tmp_path / "page.md").exists()
