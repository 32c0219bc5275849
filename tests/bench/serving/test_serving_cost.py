"""`python -m bench.serving`: each way is measured on a real server, and a wrong answer ends the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.serving.drawn import Shape, draw
from bench.serving.drive import Run, as_arguments
from strategies.live import LiveServer

pytestmark = pytest.mark.slow


def test_every_way_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "serving.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving", "--short", "--out", str(out)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "where one list's microseconds go" in done.stdout
    told = json.loads(out.read_text())
    ways = {(one["load"]["way"], one["load"]["in_flight"]) for one in told["loads"]}
    assert ways >= {("unary", 1), ("unary", 64), ("stream", 16), ("batch", 16)}
    for one in told["loads"]:
        assert one["load"]["lists"] == 64
        assert one["cpu_us"] > 0
        assert 0 < one["p50_us"] <= one["p99_us"]
        phases = {name: us for name, us in one["phases_us"].items() if name != "queue_ns"}
        assert min(phases.values()) > 0
        assert one["rest_us"] == pytest.approx(one["cpu_us"] - sum(phases.values()))
    assert told["empty_call_us"] > 0


def test_requests_differ_and_a_seed_makes_the_same_again() -> None:
    ids = [f"i{n}" for n in range(500)]
    made = draw(ids, Shape(), 20, seed=3)
    assert len({one.SerializeToString() for one in made}) == 20
    assert made == draw(ids, Shape(), 20, seed=3)
    assert made != draw(ids, Shape(), 20, seed=4)
    for one in made:
        assert (len(one.history), len(one.candidate_item_ids)) == (50, 200)
        assert len(set(one.candidate_item_ids)) == 200


@pytest.mark.parametrize("way", ["unary", "stream", "batch"])
def test_a_wrong_answer_ends_the_run(live: LiveServer, tmp_path: Path, way: str) -> None:
    """This server knows none of the items, so its lists are empty."""
    (tmp_path / "items.json").write_text(json.dumps({"ids": [f"other-{n}" for n in range(400)]}))
    run = Run(live.target, str(tmp_path), way, 4, 40, 1)  # type: ignore[arg-type]
    done = subprocess.run(
        as_arguments(run), input="\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "0 items" in done.stderr
