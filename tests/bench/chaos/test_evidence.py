"""The page of reliability is what the kept results make, and says each of their rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.chaos import evidence
from bench.chaos.marks import at_most, keep


def test_the_page_is_made_of_the_kept_results() -> None:
    assert evidence.PAGE.read_text(encoding="utf-8") == evidence.page(evidence.read())


def test_a_result_becomes_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "kept")
    rows = [at_most("refused, 99th percentile", 12, 10, " ms"), at_most("a | b", 1, 2)]
    keep(tmp_path / "overload.json", "chaos_overload", rows, 3.0, title="overload for 1 s")
    assert evidence.collect(tmp_path) == ["overload"]
    told = evidence.page(evidence.read())
    assert "## Overload for 1 s" in told
    assert "| refused, 99th percentile | 12 ms | <= 10 ms | missed: 2 ms too much |" in told
    assert "| a \\| b | 1 | <= 2 | PASS |" in told
    kept = json.loads(evidence.kept("overload").read_text())
    assert kept["measured_on"]["cores"] > 0
