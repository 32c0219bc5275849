"""`python -m bench.serving`: each way is measured on a real server, and a wrong answer ends the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.served import serving, synthetic_bundle
from bench.serving.calls import Calls, Shape
from bench.serving.drawn import draw
from bench.serving.drive import Run, as_arguments
from bench.serving.measure import flags_of
from bench.serving.work import ListMaker, write_work
from strategies.live import LiveServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_bundle(tmp_path_factory.mktemp("made") / "bundle", items=500)


def test_every_way_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "serving.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving", "--short", "--no-peers", "--out", str(out)],
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
    assert told["model_us"] > 0
    goals = {row["name"]: row for row in told["goals"]}
    [idle] = [row for name, row in goals.items() if name.startswith("Recommend, 1 in flight: p50")]
    floor_us = told["model_us"] + told["empty_call_us"]
    assert idle["value"] == pytest.approx(told["loads"][0]["p50_us"] / floor_us)
    assert [one["size"] for one in told["growth"]["candidates"]["steps"]] == [100, 400]
    assert {one["workers"] for one in told["growth"]["workers"]["steps"]} == {1, 2}
    assert told["peers"] == []


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
    done = _driven(Run(live.target, str(tmp_path), way, 4, 40, 1, text=True))  # type: ignore[arg-type]
    assert done.returncode != 0
    assert "0 items" in done.stderr


@pytest.mark.parametrize("way", ["unary", "stream", "batch"])
def test_a_list_in_another_order_than_expected_ends_the_run(
    bundle: Path, tmp_path: Path, way: str
) -> None:
    work = tmp_path / "work"
    write_work(bundle, work)
    right = ListMaker(work).draw(Shape(candidates=60), 8, seed=1)
    swapped = right.expected.copy()
    swapped[5, :2] = swapped[5, 1::-1]
    with serving(tmp_path / "log", *flags_of(bundle, tmp_path / "events.db")) as live:
        for calls, code in ((right, 0), (Calls(right.history, right.candidates, swapped), 1)):
            calls.save(tmp_path / "calls.npz")
            run = Run(
                live.target, str(bundle), way, 4, 16, 1, calls=str(tmp_path / "calls.npz")  # type: ignore[arg-type]
            )  # fmt: skip
            done = _driven(run)
            assert done.returncode == code, done.stderr
    assert "request 5 got" in done.stderr


def _driven(run: Run) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        as_arguments(run), input="\n", capture_output=True, text=True, timeout=60, check=False
    )
