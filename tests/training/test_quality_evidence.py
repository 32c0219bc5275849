"""The page of quality tables says what the kept tables say, and takes nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.errors import Refused
from training.baselines import BASELINES
from training.quality import evidence
from training.quality.table import text


def test_the_page_is_made_of_the_kept_tables() -> None:
    tables = evidence.kept()
    assert evidence.PAGE.read_text() == evidence.page(tables), "run: make quality-evidence"
    for made in tables.values():
        names = [row["name"] for row in made["rows"] if row["kind"] == "baseline"]
        assert names == [one.name for one in BASELINES]
        assert text(made) in evidence.PAGE.read_text()


def test_only_a_table_is_taken(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"quality-table.json: no table of 'equipoise quality'"):
        evidence.keep("none", tmp_path, tmp_path)
    (tmp_path / evidence.TABLE).write_text('{"kind": "folds"}')
    with pytest.raises(Refused, match="got 'folds', allowed: 'quality-table'"):
        evidence.keep("none", tmp_path, tmp_path)
    assert not list(tmp_path.glob(f"{evidence.PREFIX}*-none*"))
    (tmp_path / evidence.TABLE).write_text('{"kind": "quality-table", "rows": []}')
    evidence.keep("shop", tmp_path, tmp_path)
    assert json.loads((tmp_path / "quality-shop.json").read_text())["rows"] == []
    with pytest.raises(Refused, match=r"got 'shop', allowed: NAME=FOLDER"):
        evidence.main(["shop"])
