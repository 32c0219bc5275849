"""The soak counts, goes on where it stopped, and begins anew for another seed or other sources."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bench.fairness import soak as soaking
from bench.fairness import soak_stage
from bench.fairness.__main__ import main
from bench.fairness.oracles import can_be_kept
from bench.fairness.soak import Count, resumed, soak
from bench.fairness.soak_loop import Found
from bench.fairness.soak_stage import KINDS, Drew, Tally, stage_chunk
from server.fairness import FairList, Status, rerank


@pytest.mark.slow
def test_lists_are_counted_once_however_often_it_is_interrupted(tmp_path: Path) -> None:
    path, told = tmp_path / "soak.json", list[float]()

    def stop(done: float) -> None:
        told.append(done)
        if done > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        soak(Count(5), path, 6000, stop, chunk=1000, staged=3)
    kept = resumed(path, 5)
    assert kept.lists == 1000
    assert {tally.lists for tally in kept.stage.values()} == {3}
    ended = soak(kept, path, 6000, told.append, chunk=1000, staged=3)
    whole = soak(Count(5), tmp_path / "whole.json", 6000, told.append, chunk=1000, staged=3)
    assert (ended.lists, ended.chunks, ended.ahead) == (6000, 6, [])
    assert (ended.infeasible, ended.violations) == (whole.infeasible, 0)
    assert 0 < ended.infeasible < 6000
    assert 0 < ended.retried < ended.partly < 6000
    assert ended.drew.groups == 64
    assert resumed(path, 5).drew == ended.drew == whole.drew
    assert ended.stage == whole.stage == resumed(path, 5).stage
    assert {kind: tally.lists for kind, tally in ended.stage.items()} == dict.fromkeys(KINDS, 18)


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
        found = Found(infeasible=1, partly=5, retried=2, groups=number, candidates=8, places=4)
        count.add(number, 10, found, {"mmr": Tally(4, 1, 0, 1, f"{number}", Drew(2, 9, number))}, 1)
    assert (count.lists, count.chunks, count.ahead) == (30, 2, [3])
    assert count.stage == {"mmr": Tally(12, 3, 0, 3, "1", Drew(2, 9, 3))}
    assert (count.partly, count.retried) == (15, 6)
    loop = Tally(30, 3, drew=Drew(3, 8, 4))
    assert (count.violations, count.loop, count.example) == (3, loop, "1")


def test_a_wrong_list_ends_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soaking, "soak_chunk", lambda *_: Found(wrong=2, example=17))
    monkeypatch.setattr(soaking, "stage_chunk", lambda *_: {"dpp": Tally(9)})
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


# The whole stage: nothing is wrong of it, and what is planted is found.


def test_a_short_soak_of_the_whole_stage_finds_nothing() -> None:
    tallies = stage_chunk(3, LISTS)
    assert {kind: (tally.lists, tally.violations) for kind, tally in tallies.items()} == (
        dict.fromkeys(KINDS, (LISTS, 0))
    )
    # Some of them are large.
    most = Drew()
    for tally in tallies.values():
        most = most.most(tally.drew)
    assert most.groups > 50
    assert most.places > 90
    assert tallies == stage_chunk(3, LISTS)
    assert all(tallies[kind].infeasible for kind in KINDS if kind != "several tables")


def test_pages_are_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[bool]] = {}

    def watched(case: Any, exposure: Any, page: int, moves: Any) -> tuple[Status, str]:
        rules = [kind for kind, _, _ in case.asked.document.rules]
        for kind in (*rules, f"{len(case.asked.widths)} tables"):
            seen.setdefault(kind, set()).add(moves is None)
        return Status.MET, ""

    monkeypatch.setattr(soak_stage, "KINDS", ("pages",))
    monkeypatch.setattr(soak_stage, "paged", watched)
    for seed in range(9):
        stage_chunk(seed, LISTS)
    kinds = ["floors", "window", "cap", "fa_ir", "calibrated", "amortised", "diverse"]
    # Under each of them with scores that stay, and with scores that move.
    assert seen == {key: {True, False} for key in (*kinds, "1 tables", "2 tables", "3 tables")}


Fault = Callable[..., FairList]


def _without_floors(scores: Any, groups: Any, count: int, compiled: Any, *ties: Any, **more: Any):
    free = dataclasses.replace(compiled, floors=np.zeros_like(compiled.floors))
    return rerank(scores, groups, count, free, *ties, **more)


def _without_ceilings(scores: Any, groups: Any, count: int, compiled: Any, *ties: Any, **more: Any):
    free = dataclasses.replace(compiled, ceilings=compiled.unbounded[1])
    return rerank(scores, groups, count, free, *ties, **more)


def _without_boost(*given: Any, boost: Any, **more: Any) -> FairList:
    return rerank(*given, boost=None if boost is None else np.zeros_like(boost), **more)


def _without_vectors(*given: Any, vectors: Any, **more: Any) -> FairList:
    return rerank(*given, vectors=None, **more)


def _of_the_catalogue(scores: Any, groups: Any, count: int, compiled: Any, *ties: Any, **more: Any):
    return rerank(scores, groups, count, compiled.for_user({}), *ties, **more)


def _repeating(*given: Any, fixed: Any, **more: Any) -> FairList:
    fair = rerank(*given, fixed=fixed, **more)
    order = fair.order.copy()
    if fixed is not None:
        order[-1] = order[0]
    return dataclasses.replace(fair, order=order)


def _forgetful(*given: Any, fixed: Any, **more: Any) -> FairList:
    return rerank(*given, fixed=None if fixed is None else fixed[1:], **more)


def _giving_up(*given: Any, **more: Any) -> FairList:
    fair = rerank(*given, **more)
    receipt = dataclasses.replace(fair.receipt, status=Status.INFEASIBLE)
    return dataclasses.replace(fair, receipt=receipt)


def _backwards(*given: Any, **more: Any) -> FairList:
    """A list that keeps no bound, and says truly that it does not; but there is one that does."""
    fair = rerank(*given, **more)
    receipt = dataclasses.replace(fair.receipt, status=Status.INFEASIBLE)
    return dataclasses.replace(fair, order=fair.order[::-1].copy(), receipt=receipt)


def _short(*given: Any, **more: Any) -> FairList:
    fair = rerank(*given, **more)
    return dataclasses.replace(fair, order=fair.order[:-1])


LISTS = 63

PLANTED: list[tuple[Fault, tuple[str, ...]]] = [
    (_without_floors, KINDS),
    # FA*IR has none, and caps of several tables are rare.
    (_without_ceilings, tuple(kind for kind in KINDS if kind not in ("fa_ir", "several tables"))),
    (_giving_up, KINDS),
    (_backwards, KINDS),
    (_short, KINDS),
    (_without_boost, ("amortised",)),
    (_without_vectors, ("mmr", "dpp")),
    (_of_the_catalogue, ("calibrated",)),
    (_repeating, ("pages",)),
    (_forgetful, ("pages",)),
]


@pytest.mark.parametrize(("planted", "kinds"), PLANTED, ids=lambda it: getattr(it, "__name__", ""))
def test_a_planted_fault_is_counted_under_each_kind_that_has_it(
    planted: Fault, kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_stage, "rerank", planted)
    tallies = stage_chunk(3, LISTS)
    assert [kind for kind in kinds if not tallies[kind].violations] == []
    assert all(tallies[kind].example.startswith(f"seed 3, {kind}, list ") for kind in kinds)


@pytest.mark.parametrize(
    ("first", "moves", "wrong"),
    [
        (Status.INFEASIBLE, True, False),
        (Status.INFEASIBLE, False, True),
        (Status.MET, True, False),
        (Status.MET, False, True),
    ],
)
def test_a_page_may_say_not_found_after_another_verdict_only_where_scores_moved(
    first: Status, moves: bool, wrong: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubting(*given: Any, fixed: Any, **more: Any) -> FairList:
        fair = rerank(*given, fixed=fixed, **more)
        status = first if fixed is None else Status.NOT_FOUND
        return dataclasses.replace(fair, receipt=dataclasses.replace(fair.receipt, status=status))

    monkeypatch.setattr(soak_stage, "rerank", doubting)
    monkeypatch.setattr(soak_stage, "fault", lambda *_: "")
    rng = random.Random(5)
    drawn = soak_stage.draw_policy(rng, "several tables")
    case = soak_stage.draw_case(rng, drawn)
    assert case.asked.size > 1
    _, told = soak_stage.paged(case, soak_stage.Exposure(drawn), 1, rng if moves else None)
    assert ("NOT_FOUND" in told) == wrong


@pytest.mark.parametrize("off", [0.5, -0.5])
def test_exposure_that_is_miscounted_is_found(off: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak_stage, "discounts", lambda *of: np.full(of[0], 1 + off))
    assert stage_chunk(3, 2)["amortised"].violations


def test_what_is_not_found_of_several_tables_has_its_own_column(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*given: Any, **more: Any) -> FairList:
        fair = rerank(*given, **more)
        receipt = dataclasses.replace(fair.receipt, status=Status.NOT_FOUND)
        return dataclasses.replace(fair, order=fair.order[::-1].copy(), receipt=receipt)

    monkeypatch.setattr(soak_stage, "rerank", lost)
    tallies = stage_chunk(3, LISTS)
    assert tallies["several tables"].not_found > 0
    # Of one table it is always known.
    assert tallies["one table"].violations == LISTS
