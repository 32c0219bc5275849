"""The trial of the gate: a small shop's bundle is damaged, served, judged, and the right line sees it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from bench.gate.lines import Line, Status, Verdict
from bench.gate_trial.__main__ import main
from bench.gate_trial.faults import faults
from bench.gate_trial.measured import invariants, run
from bench.gate_trial.trial import Row, budgets_with_policies, row_of, table
from bench.refused import InputRefused
from server.bundle import DataInfo
from strategies.bundles import tiny_bundle
from strategies.purchases import raw, shop_rows, tables
from training.data.prepare import prepare_tables

BUDGETS = """
schema_version = 1
name = "small"
baseline_may_be_candidate = true
[[budget]]
metric = "quality.ndcg_at_20"
margin = 0.05
margin_is = "absolute"
decide_on = "interval"
min_n = 20
reason = "Lists are to be as good as they were."
[[budget]]
metric = "load.error_ratio"
at_most = 0.0
decide_on = "value"
min_n = 50
reason = "One machine."
[[budget]]
metric = "invariants.violations"
at_most = 0
decide_on = "value"
min_n = 50
reason = "They are theorems."
"""


def verdict(*lines: tuple[str, Status]) -> Verdict:
    made = tuple(Line(name, status, "", f"why {name}", "") for name, status in lines)
    return Verdict(Status.FAIL, made, "b", "bundle-1")


def test_a_row_is_right_only_if_the_line_that_should_see_it_failed() -> None:
    other, own = ("load.error_ratio", Status.FAIL), ("quality.ndcg_at_20", Status.FAIL)
    seen = row_of("worse", "1 %", "quality.ndcg_at_20", verdict(other, own))
    assert seen.right
    assert seen.failed == ("load.error_ratio", "quality.ndcg_at_20")
    for status in (Status.PASS, Status.NOT_ENOUGH):
        row = row_of("worse", "1 %", "quality.ndcg_at_20", verdict(other, (own[0], status)))
        assert not row.right
        assert "should have been seen by quality.ndcg_at_20: why quality.ndcg_at_20" in table([row])
    assert row_of("none, 1", "alike", "", verdict((own[0], Status.NOT_ENOUGH))).right
    alarm = row_of("none, 1", "alike", "", verdict(other))
    assert not alarm.right
    assert "NOT AS IT SHOULD BE" in table([alarm])


def test_every_fault_has_a_line_in_the_budgets_that_ship() -> None:
    from bench.gate.budgets import read_budgets
    from bench.gate_trial.__main__ import BUDGETS as SHIPPED

    lines = {line.metric for line in read_budgets(SHIPPED).budget} | {"policies.provider-tiers"}
    planted = faults("income", "under 35K", "provider-tiers", "small")
    assert {fault.seen_by for fault in planted} <= lines
    assert [fault.name for fault in planted] == [
        "shuffled", "worse", "zeroed", "floor", "slower", "leak",
    ]  # fmt: skip


def test_a_policy_without_a_digest_is_refused(tmp_path: Path) -> None:
    quality, template = tmp_path / "quality.json", tmp_path / "b.toml"
    quality.write_text(json.dumps({"policies": {"a_b": {"digest": "f" * 64}}}))
    template.write_text(BUDGETS)
    made = budgets_with_policies(template, quality, tmp_path / "made.toml", ["a-b"])
    assert made.read_text().endswith(f'[policies]\na-b = "{"f" * 64}"\n')
    with pytest.raises(InputRefused, match=r"policies\.c\.digest"):
        budgets_with_policies(template, quality, tmp_path / "made.toml", ["c"])


def test_a_command_that_fails_is_told_with_its_last_word() -> None:
    import sys

    with pytest.raises(InputRefused, match="ended with 7: the end"):
        run(
            [sys.executable, "-c", "import sys; print('the end', file=sys.stderr); sys.exit(7)"],
            "x",
        )


def test_an_earlier_report_is_not_taken_for_that_of_a_run_that_failed(tmp_path: Path) -> None:
    old = tmp_path / "invariants.json"
    old.write_text("{}")
    with pytest.raises(InputRefused, match=r"ended with 2: .*is a server up"):
        invariants("127.0.0.1:1", tmp_path, old, 1, 1)


@pytest.mark.slow
def test_a_lowered_floor_is_seen_by_its_line_and_two_servers_of_one_bundle_raise_no_alarm(
    tmp_path: Path,
) -> None:
    shop = prepare_tables(tables(shop_rows()))
    data = DataInfo(
        source="by hand", until_unix_ms=shop.split.validation_until_ms, users=1, items=60,
        interactions=1, digest="0" * 64,
    )  # fmt: skip
    tiny_bundle(tmp_path / "bundle", data=data)
    raw(shop_rows()).write_parquet(tmp_path / "bought.parquet")
    people = {"user": [f"user-{n:02}" for n in range(30)], "income": ["low", "high", "mid"] * 10}
    pl.DataFrame(people).write_csv(tmp_path / "users.csv")
    (tmp_path / "budgets.toml").write_text(BUDGETS)
    flags = ["--interactions", tmp_path / "bought.parquet", "--users", tmp_path / "users.csv"]
    done = CliRunner().invoke(
        main,
        [
            *("--bundle", tmp_path / "bundle", "--budgets", tmp_path / "budgets.toml"),
            *(f"--data={flag}" for flag in flags),
            *("--only", "floor", "--only", "none", "--alike", "1"),
            *("--policy", "tiers", "--pairs", "3", "--seconds", "1", "--examples", "1"),
            *("--out", tmp_path / "out"),
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output + str(done.exception)
    made = json.loads((tmp_path / "out/trial.json").read_text())
    rows = {
        row["name"]: Row(**{k: v for k, v in row.items() if k != "right"}) for row in made["rows"]
    }
    assert set(rows) == {"none, 1", "floor"}
    assert tuple(rows["floor"].failed) == ("policies.tiers",)
    assert not rows["none, 1"].failed
    assert rows["none, 1"].lines["quality.ndcg_at_20"].startswith("no difference at all")
