"""The verdict's page and its record: what stands there is what was decided, and a change is noticed."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench.gate.page import page
from bench.gate.record import Inputs, digest_of, read_record
from bench.gate.report import seen_text
from bench.gate_command import gate
from bench.refused import InputRefused
from strategies.results import TODAY, budget, load, quality

BUDGETS = [
    budget("quality.ndcg_at_20", on="interval", at_least=0.3, min_n=1000),
    budget("quality.ndcg_at_20", at_least=0.5),
    budget("quality.item_exposure_gini", on="interval", at_most=0.99),
    budget("load.latency_ms.p99", on="value", at_most=50, min_n=10),
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    head = 'schema_version = 1\nname = "a <b>shop</b>"\n'
    (tmp_path / "b.toml").write_text(head + "\n".join(BUDGETS))
    document = dict(quality().document)
    document["groups"] = {
        "income": {
            label: {"ndcg_at_20": {"value": value, "low": value - 0.1, "high": value + 0.1}}
            for label, value in (("low & high", 0.3), ("<script>", 0.4))
        }
    }
    document["policies"] = {
        "tiers": {"groups": [{"group": "small", "share_before": 0.1, "share_after": 0.2}]}
    }
    (tmp_path / "quality.json").write_text(json.dumps(document))
    (tmp_path / "load.json").write_text(json.dumps(dict(load([1.0, 2.0, 30.0] * 10).document)))
    return tmp_path


def inputs(files: Path) -> Inputs:
    return Inputs(
        files / "b.toml", (files / "quality.json", files / "load.json"), today=TODAY
    )  # fmt: skip


class Read(HTMLParser):
    """Texts, and what would be fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [
            value for name, value in attrs
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#")
        ]  # fmt: skip

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_says_what_was_decided_and_needs_nothing_beside_it(files: Path) -> None:
    asked = inputs(files)
    verdict = asked.verdict()
    html = page(verdict, asked.read)
    read = Read()
    read.feed(html)
    whole = re.sub(r"\s+", " ", " ".join(read.texts))
    for line in verdict.lines:
        assert line.metric in whole
        assert seen_text(line) in whole
        assert re.sub(r"\s+", " ", line.why) in whole
        assert line.reason in whole
    assert read.fetched == []
    assert "script" not in read.tags
    assert (
        read.tags.count("svg") == 3
    )  # intervals, groups, exposure; of a load without samples none
    assert "<script>" in whole  # a label, as text
    assert "a <b>shop</b>" in whole
    # What did not pass comes first, and colours follow the reader's.
    assert whole.index(" fail ") < whole.index("not enough evidence") < whole.rindex(" pass ")
    assert "prefers-color-scheme: dark" in html
    assert "var(--bad)" in html
    assert not re.findall(r"#0[1-9a-f]0[0-9a-f]{3}", html)


def test_intervals_are_drawn_for_every_line_with_a_limit(files: Path) -> None:
    asked = inputs(files)
    html = page(asked.verdict(), asked.read)
    drawn = html[html.index("Intervals against") :]
    for name in ("quality.ndcg_at_20", "quality.item_exposure_gini"):
        assert name in drawn


@pytest.mark.parametrize(
    "odd",
    [
        {"policies": {"a": 1}},
        {"model": None, "policies": {"a": {"groups": []}}},
        {"groups": {"income": 3}},
        {"groups": {"income": {"low": 3}}},
        {"groups": {"income": {"low": {"ndcg_at_20": {"value": "odd"}}}}},
        {"policies": {"a": {"groups": [{"group": "small"}]}}},
    ],
    ids=str,
)
def test_what_the_page_cannot_draw_is_told_and_the_verdict_stands(
    files: Path, odd: dict[str, Any]
) -> None:
    document = dict(quality().document) | {"groups": {}, "policies": {}} | odd
    (files / "quality.json").write_text(json.dumps(document))
    asked = inputs(files)
    html = page(asked.verdict(), asked.read)
    assert "not drawn" in html
    assert "quality.ndcg_at_20" in html


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(gate, [str(one) for one in arguments])


def decided(files: Path) -> Path:
    record = files / "record.json"
    result = call(
        "--budgets", files / "b.toml", files / "quality.json", files / "load.json", "--today",
        TODAY.isoformat(), "--record-out", record, "--html-out", files / "page.html",
    )  # fmt: skip
    assert result.exit_code == 1
    assert (files / "page.html").read_text().startswith("<!doctype html>")
    return record


def test_a_record_is_checked_and_whatever_was_changed_is_told(files: Path) -> None:
    record = decided(files)
    result = call("verify", record)
    assert result.exit_code == 0, result.output
    assert "the same verdict comes of them: fail" in result.output
    document = json.loads(record.read_text())
    assert document["record_sha256"] == digest_of(document)
    assert document["verdict"]["status"] == "fail"

    nicer = json.loads(record.read_text())
    nicer["verdict"]["status"] = "pass"
    (files / "nicer.json").write_text(json.dumps(nicer))
    result = call("verify", files / "nicer.json")
    assert result.exit_code == 1
    assert "was changed since it was written" in result.output

    # Hashed anew, it is whole; but another verdict comes of the files.
    nicer["record_sha256"] = digest_of(nicer)
    (files / "nicer.json").write_text(json.dumps(nicer))
    result = call("verify", files / "nicer.json")
    assert result.exit_code == 1
    assert "NO   another verdict comes of them: fail" in result.output

    quality_file = files / "quality.json"
    whole = quality_file.read_text()
    quality_file.write_text(whole.replace("0.3", "0.9", 1))
    result = call("verify", record)
    assert result.exit_code == 1
    assert f"NO   {quality_file} is another file" in result.output
    quality_file.unlink()
    assert f"NO   {quality_file} is not there" in call("verify", record).output


def test_a_record_is_checked_elsewhere(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    result = call("--budgets", "b.toml", "quality.json", "load.json", "--record-out", "r.json")
    assert result.exit_code == 1
    archive = tmp_path / "archive"
    archive.mkdir()
    for name in ("b.toml", "quality.json", "load.json", "r.json"):
        shutil.copy(name, archive / name)
    monkeypatch.chdir("/")
    assert call("verify", archive / "r.json", "--files", archive).exit_code == 0
    assert call("verify", archive / "r.json").exit_code == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "not JSON"), ("[]", "allowed: 'release-record'"), ('{"kind": "load"}', "release-record"),
     ('{"kind": "release-record", "schema_version": 9}', "got 9, allowed: 1")],
)  # fmt: skip
def test_what_is_no_record_is_refused(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(InputRefused, match=re.escape(told)):
        read_record(tmp_path / "r.json")
    with pytest.raises(InputRefused, match="No such file"):
        read_record(tmp_path / "none.json")
