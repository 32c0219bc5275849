"""`equipoise gate`: exit codes, and the same verdict in four forms."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from junitparser import Error, Failure, JUnitXml

from bench.gate import Line, Status, evaluate
from bench.gate.measured import Cell
from bench.gate.report import as_junit, as_markdown, cells_text
from bench.gate.results import read_result
from bench.gate.user_arrays import read_user_arrays
from bench.load.samples import Recorder, Sample
from bench.refused import InputRefused
from equipoise.v1 import recommendation_pb2 as pb
from server.cli import main
from strategies.results import TODAY, budget, budgets, load, quality

GOOD = budget("quality.ndcg_at_20", on="interval", at_least=0.3, min_n=1000)
BAD = budget("quality.ndcg_at_20", at_least=0.5)
OPEN = budget("quality.item_exposure_gini", on="interval", at_most=0.99)


@dataclass(frozen=True)
class Run:
    returncode: int
    stdout: str
    stderr: str


class Gate:
    """`equipoise gate` in this process: the whole command, from arguments to exit code."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self._folder = folder
        self._patch = patch
        self._capture = capture

    def raw(self, *arguments: str | Path) -> Run:
        self._patch.setattr(sys, "argv", ["equipoise", "gate", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            main()
        told = self._capture.readouterr()
        assert isinstance(done.value.code, int)
        return Run(done.value.code, told.out, told.err)

    def __call__(self, *lines: str, result: Any = None, flags: tuple[str, ...] = ()) -> Run:
        head = 'schema_version = 1\nname = "test"\n'
        budget_file, result_file = self._folder / "b.toml", self._folder / "quality.json"
        budget_file.write_text(head + "\n".join(lines))
        document = dict(quality().document) if result is None else result
        result_file.write_text(document if isinstance(document, str) else json.dumps(document))
        return self.raw("--budgets", budget_file, result_file, *flags)


@pytest.fixture
def gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Gate:
    return Gate(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("lines", "code", "word"),
    [
        ((GOOD,), 0, "PASS"),
        ((GOOD, BAD, OPEN), 1, "FAIL"),
        ((GOOD, OPEN), 3, "NOT ENOUGH EVIDENCE"),
    ],
)
def test_the_exit_code_is_the_verdict(
    lines: tuple[str, ...], code: int, word: str, gate: Gate
) -> None:
    run = gate(*lines)
    assert run.returncode == code, run.stderr
    assert word in run.stdout


@pytest.mark.parametrize(
    ("lines", "result", "told"),
    [
        ((), None, "budget: is missing"),
        ((GOOD.replace("min_n", "min_m"),), None, "did you mean 'min_n'"),
        (
            (GOOD.replace("quality.", "qualty."),),
            None,
            "allowed: quality.PATH, load.PATH, invariants.PATH; did you mean 'quality'?",
        ),
        ((GOOD,), "not json", "not JSON"),
        ((GOOD,), '{"kind": "quality", "schema_ver', "not JSON"),
        ((GOOD,), "[]", "not a JSON object"),
        ((GOOD,), {"kind": "quality", "schema_version": 1}, "bundle_id: is missing"),
        ((GOOD,), {"kind": "mood", "schema_version": 1, "bundle_id": "b"}, "kind: got 'mood'"),
        ((GOOD,), {"kind": "quality", "schema_version": 2, "bundle_id": "b"}, "schema_version"),
        ((GOOD,), {"kind": "quality", "schema_version": 1, "bundle_id": ""}, "bundle_id: got ''"),
    ],
)
def test_malformed_input_exits_2_with_one_line(
    lines: tuple[str, ...], result: Any, told: str, gate: Gate
) -> None:
    run = gate(*lines, result=result)
    assert run.returncode == 2
    assert told in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_no_result_and_absent_files_are_usage_errors(gate: Gate, tmp_path: Path) -> None:
    budget_file, absent = tmp_path / "b.toml", tmp_path / "absent"
    budget_file.write_text('schema_version = 1\nname = "t"\n' + GOOD)
    for arguments in (
        ("--budgets", budget_file),
        ("--budgets", budget_file, absent),
        ("--budgets", absent, absent),
        (absent,),
    ):
        run = gate.raw(*arguments)
        assert run.returncode == 2
        assert run.stderr


def test_the_installed_command_exits_with_the_verdict(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text('schema_version = 1\nname = "t"\n' + OPEN)
    (tmp_path / "q.json").write_text(json.dumps(dict(quality().document)))
    command = [sys.executable, "-m", "server.cli", "gate", "--budgets", "b.toml", "q.json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 3, run.stderr


def test_a_nan_in_a_file_is_read_and_never_passes(gate: Gate) -> None:
    text = json.dumps(dict(quality().document)).replace("0.34,", "NaN,")
    assert "NaN" in text
    run = gate(budget("quality.ndcg_at_20", at_least=0.01), result=text)
    assert run.returncode == 1
    assert "not a finite number" in re.sub(r"\s+", " ", run.stdout)


def test_all_reports_are_written_and_agree(gate: Gate, tmp_path: Path) -> None:
    flags = [f"--{kind}-out={tmp_path / 'out' / kind}" for kind in ("json", "markdown", "junit")]
    run = gate(GOOD, BAD, OPEN, flags=(*flags, "--json"))
    verdict = json.loads(run.stdout)
    assert verdict == json.loads((tmp_path / "out" / "json").read_text())
    assert (verdict["status"], verdict["exit_code"]) == ("fail", 1)
    statuses = [line["status"] for line in verdict["lines"]]
    assert statuses == ["pass", "pass", "fail", "not enough evidence"]
    markdown = (tmp_path / "out" / "markdown").read_text()
    rows = [row for row in markdown.splitlines() if row.startswith("| ")]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]] == statuses
    junit = JUnitXml.fromfile(str(tmp_path / "out" / "junit"))
    assert (junit.tests, junit.failures, junit.errors, junit.skipped) == (4, 1, 1, 0)


def test_not_enough_evidence_is_an_error_in_junit_not_a_skip() -> None:
    verdict = evaluate(budgets(GOOD, BAD, OPEN), [quality()], today=TODAY)
    results = [case.result for suite in JUnitXml.fromstring(as_junit(verdict)) for case in suite]
    kinds = [type(found[0]) if found else None for found in results]
    assert kinds == [None, None, Failure, Error]


def test_markdown_survives_pipes_in_texts_and_infinite_ends() -> None:
    line = GOOD.replace("made for a test", "a|b")
    tail = budget("load.latency_ms.p99", on="interval", at_most=9)
    verdict = evaluate(budgets(line, tail), [quality(), load([1.0] * 100)], today=TODAY)
    page = as_markdown(verdict)
    assert "a\\|b" in page
    assert "[1, inf], 100 requests" in page


def test_the_verdict_of_another_day_can_be_asked_for(gate: Gate) -> None:
    line = budget("quality.ndcg_at_20", at_least=0.01, extra="expires = 2026-06-30")
    assert gate(line, flags=("--today", "2026-06-30")).returncode == 0
    assert gate(line, flags=("--today", "2026-07-01")).returncode == 1
    assert gate(line, flags=("--today", "soon")).returncode == 2


def test_a_report_that_cannot_be_written_leaves_nothing_half_written(
    gate: Gate, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    run = gate(GOOD, flags=("--json-out", str(tmp_path / "file" / "v.json")))
    assert run.returncode == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("kind", ["json", "markdown", "junit", "html", "record"])
def test_a_full_disk_is_one_line_and_no_verdict_and_hides_none(
    kind: str, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "out" / "file"
    monkeypatch.setattr(os, "fsync", full)
    run = gate(GOOD, flags=(f"--{kind}-out", str(out)))
    assert run.returncode == 2
    assert run.stderr == f"Error: --{kind}-out: {out}: No space left on device\n"
    assert "PASS" in run.stdout
    assert list(out.parent.iterdir()) == []


def test_a_load_result_whose_samples_are_gone_is_refused(tmp_path: Path) -> None:
    document = dict(load([1.0, 2.0]).document) | {"samples": "samples.npz"}
    path = tmp_path / "load.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputRefused, match=r"samples of load\.json are not there"):
        read_result(path)


def test_explain_tells_each_line_and_seal_is_what_the_gate_asks_for(
    gate: Gate, tmp_path: Path
) -> None:
    assert gate(GOOD).returncode == 0
    path = tmp_path / "b.toml"
    told = gate.raw("explain", path)
    assert told.returncode == 0
    assert "quality.ndcg_at_20 must be >= 0.3" in told.stdout
    assert json.loads(gate.raw("explain", path, "--json").stdout)["kind"] == "explanation"
    sealed = gate.raw("seal", path, "--out", tmp_path / "seal.json")
    digest = sealed.stdout.strip()
    assert len(digest) == 64
    assert gate(GOOD, flags=("--seal", digest)).returncode == 0
    changed = GOOD.replace("0.3", "0.2")
    assert gate(changed, flags=("--seal", digest)).returncode == 1
    assert gate(changed, flags=("--seal", str(tmp_path / "seal.json"))).returncode == 1
    assert gate(GOOD, flags=("--seal", "ff")).returncode == 2


def test_the_baseline_and_the_last_release_are_files(gate: Gate, tmp_path: Path) -> None:
    line = budget("quality.ndcg_at_20", on="interval", margin=0.01, extra='margin_is = "absolute"')
    last = tmp_path / "last.toml"
    last.write_text('schema_version = 1\nname = "last"\n' + GOOD)
    old = tmp_path / "old.json"
    old.write_text(json.dumps(dict(quality(bundle_id="shop-old").document)))
    run = gate(line, flags=("--baseline", str(old)))
    assert run.returncode == 1
    assert "does not tell the digest of its data" in re.sub(r"\s+", " ", run.stdout)
    run = gate(OPEN, flags=("--last-release", str(last)))
    assert run.returncode == 1
    assert "the line is no more" in re.sub(r"\s+", " ", run.stdout)
    assert gate(GOOD, flags=("--look", "2")).returncode == 2


@pytest.mark.parametrize("content", ["", "[]", "null", "{}"])
def test_an_empty_result_file_and_an_empty_budget_file_are_usage_errors(
    content: str, gate: Gate, tmp_path: Path
) -> None:
    assert gate(GOOD, result=content).returncode == 2
    (tmp_path / "b.toml").write_text("")
    assert gate.raw("--budgets", tmp_path / "b.toml", tmp_path / "quality.json").returncode == 2


@pytest.mark.parametrize("name", ["per_user.npz", "samples.parquet"])
def test_truncated_arrays_are_refused_in_one_line(name: str, gate: Gate, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 and no more")
    digest = hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    of = {"samples": name, "samples_sha256": digest, "started_unix_ms": 1}
    document = dict(load([1.0]).document) | of if "samples" in name else dict(quality().document)
    run = gate(GOOD, result=document | {"per_user_file": name})
    assert run.returncode == 2
    assert name in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


def test_arrays_with_a_wrong_byte_are_refused(tmp_path: Path) -> None:
    """Zip's checksums find it, or zlib does, or numpy: whoever does, it is one line."""
    path, rng = tmp_path / "per_user.npz", np.random.default_rng(2)
    np.savez_compressed(path, user_id=np.arange(60).astype(str), ndcg_at_20=rng.random(60))
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_user_arrays(path)
        except InputRefused:
            refused += 1
    assert refused > len(whole) // 3 * 0.8
    for size in range(0, len(whole), 25):
        path.write_bytes(whole[:size])
        with pytest.raises(InputRefused, match="is not a file of per-user arrays"):
            read_user_arrays(path)


def test_a_load_without_a_request_passes_nothing(gate: Gate, tmp_path: Path) -> None:
    content = Recorder().samples().to_bytes()
    (tmp_path / "none.parquet").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    of = {"samples": "none.parquet", "samples_sha256": digest, "started_unix_ms": 1}
    lines = [budget(f"load.{path}", at_most=1e3) for path in ("latency_ms.p99", "errors")]
    lines.append(budget("load.error_ratio", at_most=0.5))
    run = gate(*lines, result=dict(load([]).document) | of)
    assert run.returncode == 1
    assert run.stdout.count("fail                 load.") == len(lines)


def test_receipts_that_the_samples_do_not_have_are_refused(gate: Gate, tmp_path: Path) -> None:
    recorder = Recorder()
    for n in range(10):
        met = pb.RECEIPT_STATUS_MET if n else pb.RECEIPT_STATUS_SKIPPED
        recorder.add(Sample(n, n, n + 1, "Recommend", "OK", 20, met, 0, f"r{n}"))
    content = recorder.samples().to_bytes()
    (tmp_path / "ten.parquet").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    of = {"samples": "ten.parquet", "samples_sha256": digest, "started_unix_ms": 1}
    line = budget("load.receipts.SKIPPED", at_most=0)
    document = dict(load([1.0] * 10).document) | of
    run = gate(line, result=document)
    assert run.returncode == 2
    assert "has receipts {'MET': 9, 'SKIPPED': 1}" in run.stderr
    assert gate(line, result=document | {"receipts": {"MET": 9, "SKIPPED": 1}}).returncode == 1


def test_arrays_beside_a_result_are_read_with_it(gate: Gate, tmp_path: Path) -> None:
    values = np.random.default_rng(1).beta(2, 3, 1844)
    mean = float(values.mean())
    document = dict(quality().document) | {
        "metrics": {"ndcg_at_20": {"value": mean, "low": None, "high": None, "n_users": 1844}},
        "per_user_file": "per_user.npz",
    }
    assert gate(GOOD, result=document).returncode == 3, "no interval without them"
    ids = np.array([str(place) for place in range(1844)])
    np.savez(tmp_path / "per_user.npz", user_id=ids, ndcg_at_20=values)
    assert gate(GOOD, result=document).returncode == 0
    np.savez(tmp_path / "per_user.npz", user_id=np.repeat(ids[:922], 2), ndcg_at_20=values)
    run = gate(GOOD, result=document)
    assert (run.returncode, "names a user twice" in run.stderr) == (2, True)


def test_arrays_of_another_run_are_refused(gate: Gate, tmp_path: Path) -> None:
    arrays = tmp_path / "per_user.npz"
    values = np.full(1844, 0.34)
    np.savez(arrays, user_id=np.arange(1844).astype(str), ndcg_at_20=values)
    digest = hashlib.sha256(arrays.read_bytes()).hexdigest()
    document = dict(quality().document) | {"per_user_file": arrays.name, "per_user_sha256": digest}
    assert gate(BAD, result=document).returncode == 1, "these are read"
    # The numbers agree with the document: nothing but the digest tells.
    np.savez(arrays, user_id=np.arange(1844).astype(str), ndcg_at_20=values, other=values)
    run = gate(BAD, result=document)
    assert run.returncode == 2
    assert run.stderr == f"Error: {arrays}: is not the file that quality.json was made with\n"
    assert gate(BAD, result=document | {"per_user_sha256": None}).returncode == 1, "an old file"
    arrays.unlink()
    assert (
        gate(BAD, result=document).stderr
        == f"Error: {arrays}: the arrays of quality.json are not there\n"
    )


RATIO = budget("quality.groups.income.recall_at_20.worst_ratio", on="interval", at_least=0.8)


def test_the_groups_behind_a_line_that_did_not_pass_are_told_the_worst_first(
    gate: Gate, tmp_path: Path
) -> None:
    run = gate(RATIO, flags=("--markdown-out", str(tmp_path / "v.md")))
    assert run.returncode == 1
    told = "groups (value): 'unknown' 0.1 ["
    assert told in run.stdout
    (row,) = (row for row in (tmp_path / "v.md").read_text().splitlines() if "worst_ratio" in row)
    assert told in row
    assert row.index("'35-74K' 0.24 [") < row.index("'under 35K' 0.25 [")
    passing = gate(RATIO.replace("0.8", "0.01"))
    assert passing.returncode == 0
    assert "groups (" not in passing.stdout


def test_many_groups_are_cut_and_a_gap_has_its_worst_at_the_top() -> None:
    cells = tuple(Cell(f"g{n}", 10 + n, 3, n / 10, p_holm=1.0) for n in range(8))
    line = Line("quality.groups.a.m.worst_gap", Status.NOT_ENOUGH, "", "", "", cells=cells)
    assert cells_text(line).startswith("groups (below the best other): 'g7' 0.7 n 17 p 1; 'g6'")
    assert cells_text(line).endswith("'g3' 0.3 n 13 p 1; 3 more")
    lost = replace(line, metric="quality.m.worst", kind="margin")
    assert cells_text(lost).startswith("groups (against the baseline): 'g0' 0 n 10 p 1; ")
