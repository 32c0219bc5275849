"""The timings run, interleave, and show a missed goal as missed and not as an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.fairness import inputs, kernel, served, speed, start
from bench.fairness.dual import Dual
from bench.fairness.report import console, speed_table
from bench.fairness.timing import Row, in_turns_us
from server.fairness import FairList, Status, rerank


def test_calls_take_turns_over_all_inputs() -> None:
    seen: list[str] = []
    times = in_turns_us([lambda x: seen.append(f"a{x}"), lambda x: seen.append(f"b{x}")], [1, 2], 3)
    assert seen[:4] == ["a1", "a2", "b1", "b2"]
    assert len(seen) == 4 * 5
    assert len(times) == 2


@pytest.mark.parametrize("kind", speed.GROWING)
def test_what_is_timed_are_lists_that_keep_their_policy(kind: str) -> None:
    cases = inputs.given(kind, 5000, 100, 64)
    for case in cases:
        receipt = rerank(case.scores, case.groups, case.count, case.policy).receipt
        assert receipt.status is Status.MET
    assert len({case.scores.tobytes() for case in cases}) == inputs.VARIED


@pytest.mark.parametrize("kind", speed.SHAPED, ids=lambda kind: kind.name)
def test_what_is_timed_of_the_other_kinds_are_lists_that_keep_their_policy(
    kind: speed.Kind,
) -> None:
    for case in kind.made(600, 20)[:2]:
        made = speed.with_shaping(case)
        assert isinstance(made, FairList)
        assert made.receipt.status is Status.MET
        assert len(made.order) == 20


def test_larger_intersections_are_timed_with_what_their_receipts_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, "BEYOND", ((600, 20, (3, 4, 2)), (400, 60, (8, 8, 8))))
    seen: list[float] = []
    rows = list(speed.larger(1, seen.append))
    assert [row.goal for row in rows] == [None] * 4
    assert rows[0].note.startswith("4 of 4 lists MET, utility_of_best ")
    assert "NOT_FOUND" in rows[3].note
    assert seen[-1] == 1


def test_a_general_solver_finds_the_projection_that_the_closed_form_has() -> None:
    drawn = Dual.drawn(np.random.default_rng(1), 20)
    np.testing.assert_allclose(drawn.by_slsqp(), drawn.ours(), atol=1e-6)


def test_a_batch_gives_the_lists_of_rerank() -> None:
    cases = inputs.given(*speed.SMALL)
    scores, groups = (np.stack([getattr(c, name) for c in cases]) for name in ("scores", "groups"))
    policy = cases[0].policy
    places = kernel.fair_batch(scores, groups, policy.floors, policy.ceilings, 50)
    one_by_one = [rerank(c.scores, c.groups, 50, policy).order.tolist() for c in cases]
    assert places.tolist() == one_by_one


def test_a_batch_is_timed_as_served_and_the_kernel_alone_has_no_goal() -> None:
    served_row, alone = speed.batch(1, lambda _: None)
    assert "as the server makes them, with receipts" in served_row.name
    assert served_row.goal == 0.3
    assert alone.name.startswith("kernel alone, not served: ")
    assert alone.goal is None
    assert alone.value < served_row.value


def test_a_missed_goal_is_shown() -> None:
    rows = [Row("fast", 0.4, "ratio", 0.5), Row("slow", 3.0, "ratio", 1.0), Row("free", 1.0, "ms")]
    assert [row.met for row in rows] == [True, False, None]
    shown = console()
    with shown.capture() as told:
        shown.print(speed_table("t", rows))
    assert "missed" in told.get()


def test_what_looks_like_markup_in_a_note_is_printed_as_it_is() -> None:
    shown = console()
    with shown.capture() as told:
        shown.print(speed_table("t", [Row("a [/x]", 0.4, "ms", note="of [new] and a:heart:b")]))
    assert "a [/x]" in told.get()
    assert "of [new] and a:heart:b" in told.get()


@pytest.mark.slow
def test_a_read_only_install_starts_without_writing_beside_it(tmp_path: Path) -> None:
    copy = start.read_only_copy(tmp_path)
    assert (copy / "server/fairness/__pycache__").is_file()
    assert (copy / "server/__pycache__").is_file()


@pytest.mark.slow
def test_the_phase_of_a_served_list_is_told_for_each_method_and_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served, "WARM_CALLS", 1)
    done: list[float] = []
    rows = list(served.served(1, done.append))
    names = [row.name for row in rows]
    assert [("Rerank" in name, "4 in flight" in name) for name in names] == [
        (True, False), (True, True), (False, False), (False, True),
    ]  # fmt: skip
    assert all(row.value > 1 and row.unit == "us" for row in rows)
    assert all("40 lists" in row.note for row in rows)
    assert done[-1] == 1.0
