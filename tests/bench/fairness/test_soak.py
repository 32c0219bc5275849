"""The soak counts, goes on where it stopped, and begins anew for another seed or other sources."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench.fairness import soak as soaking
from bench.fairness.__main__ import main
from bench.fairness.soak import Count, can_be_kept, resumed, soak


@pytest.mark.slow
def test_lists_are_counted_once_however_often_it_is_interrupted(tmp_path: Path) -> None:
    path, told = tmp_path / "soak.json", list[float]()

    def stop(done: float) -> None:
        told.append(done)
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        soak(Count(5), path, 6000, stop, chunk=1000)
    kept = resumed(path, 5)
    assert kept.lists == 1000
    ended = soak(kept, path, 6000, told.append, chunk=1000)
    whole = soak(Count(5), tmp_path / "whole.json", 6000, told.append, chunk=1000)
    assert (ended.lists, ended.chunks, ended.ahead) == (6000, 6, [])
    assert (ended.infeasible, ended.violations) == (whole.infeasible, 0)
    assert 0 < ended.infeasible < 6000


def test_another_seed_or_other_sources_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "soak.json"
    path.write_text(json.dumps({"seed": 5, "lists": 7, "sources": soaking.SOURCES}))
    assert (resumed(path, 5).lists, resumed(path, 6).lists) == (7, 0)
    path.write_text(json.dumps({"seed": 5, "lists": 7, "sources": "others"}))
    assert resumed(path, 5).lists == 0
    path.write_text("{")
    assert resumed(path, 5) == Count(5)


def test_chunks_that_end_out_of_order_are_kept() -> None:
    count = Count(1)
    for number in (1, 0, 3):
        count.add(number, 10, (1, 0, -1), 1)
    assert (count.lists, count.chunks, count.ahead) == (30, 2, [3])


def test_a_wrong_list_ends_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soaking, "soak_chunk", lambda *_: (0, 2, 17))
    command = ["soak", "--count", "1", "--state", str(tmp_path / "s.json"), "--json"]
    ran = CliRunner().invoke(main, command)
    result = json.loads(ran.stdout)
    assert (ran.exit_code, result["violations"]) == (1, 2)
    assert result["example"].endswith("list 17")


def test_what_can_be_kept_is_decided_by_supply() -> None:
    low, high = (
        np.array([[0, 0, 1], [0, 0, 0]], np.int32),
        np.array([[0, 1, 2], [0, 1, 1]], np.int32),
    )
    assert can_be_kept(low, high, np.array([1, 1]), 2)
    assert not can_be_kept(low, high, np.array([0, 9]), 2)
    assert not can_be_kept(np.zeros_like(low), high, np.array([0, 9]), 2)
