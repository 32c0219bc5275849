"""Every command of docs/gate.md runs, on files as the page's commands would have left them."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.gate import parse_budgets
from bench.gate.budgets import read_budgets
from bench.load.samples import Recorder, Sample
from server.cli import main
from strategies.results import invariants, load
from strategies.users import BEFORE, PROTOCOL

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("equipoise gate")
]
SHOP = """schema_version = 1
name = "shop"
[[budget]]
metric = "quality.ndcg_at_20"
margin = 0.01
margin_is = "absolute"
decide_on = "interval"
min_n = 1000
reason = "made for a test"
"""
AGREED = read_budgets(ROOT / "bench/budgets/demo.toml").policies["provider-tiers"]


def write_quality(folder: Path, bundle_id: str, seed: int) -> None:
    rng = np.random.default_rng(7)
    n, metrics, arrays = 4000, {}, {}
    for name in ("ndcg_at_20", "first_basket_recall_at_20"):
        rule = rng.beta(2, 4, n)
        arrays[f"recency_frequency/{name}"] = rule
        arrays[name] = rule + np.random.default_rng(seed).normal(0.02, 0.05, n)
        metrics[name] = arrays[name].mean()
        metrics[f"{name}_minus_recency_frequency"] = (arrays[name] - rule).mean()
    fair = arrays["provider_tiers/ndcg_at_20"] = arrays["ndcg_at_20"] * 0.99 + 0.001 * rng.random(n)
    metrics["price_of_fairness_provider_tiers"] = 1 - fair.mean() / arrays["ndcg_at_20"].mean()
    document = {
        "kind": "quality", "schema_version": 1, "bundle_id": bundle_id,
        "model_digest": bundle_id.encode().hex(), "dataset": {"digest": "e" * 64},
        "protocol": PROTOCOL | {"n_users": n}, "intervals": {"confidence": 0.95},
        "made_unix_ms": 4_000_000_000_000,
        "metrics": {k: {"value": v, "low": None, "high": None, "n_users": n} for k, v in metrics.items()},
        "groups": {}, "policies": {"provider_tiers": {
            "policy": "provider-tiers", "digest": AGREED, "floor_violations_after": 0,
        }},
        "per_user_file": "per_user.npz",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.array(["under 35K", "35-74K", "75K and over", "unknown"])[np.arange(n) % 4]
    columns: dict[str, Any] = {
        "user_id": np.arange(n).astype(str),
        "group/income": labels,
        **arrays,
    }
    np.savez(folder / "per_user.npz", **columns)
    digest = hashlib.sha256((folder / "per_user.npz").read_bytes()).hexdigest()
    (folder / "quality.json").write_text(json.dumps(document | {"per_user_sha256": digest}))


def write_load(folder: Path) -> None:
    recorder, rng = Recorder(), np.random.default_rng(1)
    for place, due_ns in enumerate(np.sort(rng.integers(0, 20_000_000_000, 1600)).tolist()):
        ended_ns = due_ns + int(rng.integers(1_000_000, 5_000_000))
        recorder.add(Sample(due_ns, due_ns, ended_ns, "Recommend", "OK", 20, 1, 0, f"r{place}"))
    content = recorder.samples().to_bytes()
    folder.mkdir(parents=True)
    (folder / "samples.parquet").write_bytes(content)
    document = dict(load([1.0] * 1600).document) | {
        "samples": "samples.parquet", "samples_sha256": hashlib.sha256(content).hexdigest(),
        "started_unix_ms": 4_000_000_000_000, "model_digest": b"shop-0123456789ab".hex(),
    }  # fmt: skip
    (folder / "load.json").write_text(json.dumps(document))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_quality(tmp_path / "out/demo/quality", "shop-0123456789ab", 1)
    write_quality(tmp_path / "out/last", BEFORE, 2)
    write_load(tmp_path / "out/demo/load")
    (tmp_path / "out/demo/invariants.json").write_text(
        json.dumps(dict(invariants(made_unix_ms=4_000_000_000_000).document))
    )
    (tmp_path / "out/shop.toml").write_text(SHOP)
    (tmp_path / "out/last/shop.toml").write_text(SHOP)
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    return tmp_path


def test_every_command_of_the_page_passes(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(COMMANDS) >= 6
    for line in COMMANDS:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as done:
            main()
        told = capsys.readouterr()
        assert done.value.code == 0, f"{line}\n{told.out}{told.err}"
        assert told.out
    assert (shop / "out/budgets.seal.json").is_file()


def test_the_pages_budgets_are_read_and_use_every_key_of_the_form() -> None:
    small, whole = (
        parse_budgets(text, "gate.md") for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    )
    assert len(small.budget) == 1
    used = {key for line in whole.budget for key in line.model_fields_set}
    known = set(type(whole.budget[0]).model_fields)
    assert used | {"at_most", "owner", "expires"} == known
    assert whole.coverage.metrics
    assert whole.dropped


def test_the_page_names_every_hard_case_file_and_the_selftests_rows() -> None:
    from bench.gate.selftest import BUDGETS, subjects

    for subject in subjects(BUDGETS):
        assert subject.name in PAGE
