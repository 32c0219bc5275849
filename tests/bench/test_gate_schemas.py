"""The published schemas: themselves valid, real files keep them, and a spoilt file does not."""

from __future__ import annotations

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from bench.gate.record import Inputs, record_of
from bench.gate.report import as_json
from bench.gate.schemas import NAMES, schema_of
from bench.gate_command import SCHEMAS, gate
from bench.invariants.run import check_server
from bench.load.runner import Plan, run_load
from bench.load.scenario import Scenario
from bench.machine import machine
from strategies.live import LiveServer
from strategies.results import TODAY, budget, quality

ROOT = Path(__file__).resolve().parents[2]


def keeps(document: Any, name: str) -> bool:
    return bool(jsonschema.Draft202012Validator(schema_of(name)).is_valid(document))


@pytest.mark.parametrize("name", NAMES)
def test_each_schema_is_one_and_is_printed(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(name))
    printed = CliRunner().invoke(gate, ["schema", name])
    assert json.loads(printed.stdout) == schema_of(name)
    assert NAMES == SCHEMAS


def test_the_files_that_ship_keep_them() -> None:
    for folder, name in (("budgets", "budgets"), ("scenarios", "scenario")):
        files = sorted((ROOT / "bench" / folder).glob("*.toml"))
        assert files
        for path in files:
            document = tomllib.loads(path.read_text())
            assert keeps(document, name), path
            assert not keeps(document | {"surprise": 1}, name)


@pytest.mark.slow
def test_what_a_load_and_invariants_leave_keeps_them(live: LiveServer, tmp_path: Path) -> None:
    requests = tmp_path / "r.jsonl"
    requests.write_text('{"user_id": "a", "groups": {"income": "low"}}\n{"user_id": "b"}\n')
    scenario = Scenario.model_validate(
        {"schema_version": 1, "name": "s", "stage": [{"rate_rps": 30, "duration_s": 1}],
         "requests": {"file": requests}}
    )  # fmt: skip
    made = run_load(Plan(live.target, tmp_path / "out", scenario))
    jsonschema.validate(made, schema_of("load"))
    assert not keeps(made | {"valid": "yes"}, "load")
    assert not keeps({name: made[name] for name in made if name != "samples_sha256"}, "load")
    checked = check_server(live.target, examples=2, seed=3)
    jsonschema.validate(checked, schema_of("invariants"))
    assert not keeps(checked | {"violation_count": -1}, "invariants")


def test_verdicts_and_records_keep_them(tmp_path: Path) -> None:
    document = dict(quality().document)
    jsonschema.validate(document, schema_of("quality"))
    lines = [
        budget("quality.ndcg_at_20", on="interval", at_least=0.3, min_n=1000),
        budget("quality.item_exposure_gini", on="interval", at_most=0.99),
        budget("load.latency_ms.p99", at_most=50),
    ]
    (tmp_path / "b.toml").write_text('schema_version = 1\nname = "s"\n' + "\n".join(lines))
    (tmp_path / "quality.json").write_text(json.dumps(document))
    inputs = Inputs(tmp_path / "b.toml", (tmp_path / "quality.json",), today=TODAY)
    verdict = inputs.verdict()
    jsonschema.validate(as_json(verdict), schema_of("verdict"))
    record = record_of(inputs, verdict, machine(), 1)
    jsonschema.validate(record, schema_of("record"))
    spoilt = copy.deepcopy(record)
    spoilt["verdict"]["status"] = "maybe"
    assert not keeps(spoilt, "record")
    assert not keeps(record | {"record_sha256": "no digest"}, "record")
