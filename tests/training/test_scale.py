"""The benchmark of training: real trainings of tiny shops; what is printed is what is written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from training.scale.__main__ import main
from training.scale.report import GIB, document, lines
from training.scale.shop import Size, write_shop

SIZES = (5_000, 8_000)


def scale(out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training.scale", "--quick", "--family=pairs", "--out", str(out), *flags],
        check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


@pytest.mark.slow
def test_each_size_is_trained_once_and_the_file_holds_what_is_printed(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    sizes = f"--sizes={','.join(map(str, SIZES))}"
    first = scale(out, sizes, "--json")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told == json.loads(out.read_text())
    assert tuple(row["events"] for row in told["sizes"]) == SIZES
    for row in told["sizes"]:
        assert sum(row["parts_s"].values()) == pytest.approx(row["wall_s"], abs=0.2)
        assert row["cpu_s"] > 0.5
        assert 0.1 * GIB < row["peak_rss_bytes"] < 8 * GIB
        assert 0 < row["validation_ndcg_at_20"] < 1
    assert all(goal["met"] for goal in told["goals"])
    assert list(tmp_path.iterdir()) == [out]  # no shop, no bundle, no lock

    again = scale(out, sizes)
    assert again.returncode == 0, again.stderr
    assert "training" not in again.stderr
    assert again.stdout.splitlines() == lines(told)
    for row in told["sizes"]:
        assert f"{row['wall_s']:,.0f} s" in again.stdout


@pytest.mark.slow
def test_what_takes_too_long_is_ended_and_said_to_be_and_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    ended = scale(out, "--sizes=5000", "--limit-minutes=0.05")
    assert ended.returncode == 0, ended.stderr
    assert "not done in time" in ended.stdout
    assert "MISSED 5,000 events" in ended.stdout
    assert list(tmp_path.iterdir()) == [out]
    again = scale(out, "--sizes=5000", "--limit-minutes=0.05")
    assert "5,000 events: training" in again.stderr


@pytest.mark.slow
def test_a_run_that_is_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "training.scale", "--sizes=2e5", f"--out={out}"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    errors = tmp_path / ".scale-work" / "200000" / "errors.txt"
    until = time.monotonic() + 120
    while not errors.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert errors.exists()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sizes", ["4999", "nine", "1e5,", "1e12"])
def test_sizes_that_are_none_are_refused(tmp_path: Path, sizes: str) -> None:
    refused = CliRunner().invoke(main, ["--out", str(tmp_path / "scale.json"), "--sizes", sizes])
    assert refused.exit_code == 2
    assert "allowed: numbers of events from 5,000" in refused.output


def test_growth_and_goals_follow_from_the_rows() -> None:
    def row(
        events: int, wall_s: float, peak: int | None, in_time: bool = True
    ) -> dict[str, object]:
        return {
            "events": events, "users": 1, "items": 1, "in_time": in_time, "wall_s": wall_s,
            "cpu_s": 2 * wall_s, "parts_s": {"lists": wall_s}, "peak_rss_bytes": peak,
            "validation_ndcg_at_20": 0.1, "on": {"commit": "", "cores": 2, "load_15_minutes": 1.0},
        }  # fmt: skip

    told = document(
        [row(10**6, 100.0, GIB), row(10**7, 10_000.0, 17 * GIB), row(10**5, 100.0, GIB)]
    )
    assert [one["wall_s_power"] for one in told["growth"]] == [0.0, 2.0]
    assert told["growth"][1]["parts_power"] == {"lists": 2.0}
    missed = [(goal["events"], goal["what"]) for goal in told["goals"] if not goal["met"]]
    assert missed == [(10**7, "wall_s"), (10**7, "peak_rss_bytes")]
    # Of a size that was ended nothing follows.
    told = document([row(10**5, 100.0, GIB), row(10**6, 200.0, None, in_time=False)])
    assert told["growth"][0]["wall_s_power"] is None
    assert [goal["met"] for goal in told["goals"]] == [True, True, False, False]


def test_a_shop_is_what_it_is_said_to_be(tmp_path: Path) -> None:
    size = Size.of(50_000)
    purchases, items = (pl.read_parquet(path) for path in write_shop(size, tmp_path, seed=1))
    assert (purchases.height, items.height) == (50_000, 500)
    assert purchases["user"].n_unique() == 500
    assert set(purchases["item"]) <= set(items["item"])
    counts = purchases["item"].value_counts(sort=True)["count"].to_numpy()
    assert counts[:50].sum() > 4 * counts[-250:].sum()
    # A trip is one user's at one instant.
    trips = purchases.group_by("basket").agg(pl.col("user", "time").n_unique())
    assert trips["user"].max() == trips["time"].max() == 1
    pairs = purchases.select("user", "item").n_unique()
    assert 0.3 * purchases.height < pairs < 0.7 * purchases.height
    # The same seed, the same shop; another seed, another.
    other = tmp_path / "other"
    other.mkdir()
    write_shop(size, other, seed=1)
    assert all((other / p.name).read_bytes() == p.read_bytes() for p in tmp_path.glob("*.parquet"))
    write_shop(size, other, seed=2)
    assert not np.array_equal(pl.read_parquet(other / "interactions.parquet"), purchases)
