"""The proof by trial in its short form; its oracles agree; and a wrong kernel is found by it."""

from __future__ import annotations

import json
import random
import re
from fractions import Fraction

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.optimize import OptimizeResult

from bench.fairness import exhaustive, fa_ir, kernel, larger, milp, oracles, overlap_gap, several
from bench.fairness.__main__ import main
from bench.fairness.draw import KINDS, draw_pool
from bench.fairness.exact import by_assignment, by_program
from server.fairness import overlap
from server.fairness.discount import discounts
from server.fairness.fair_ir import fail_probability
from server.fairness.kernels import score_order
from server.fairness.metrics import dcg


@pytest.mark.slow
def test_the_short_proof_has_no_mismatch() -> None:
    ran = CliRunner().invoke(main, ["prove", "--short", "--seed", "7", "--json"])
    result = json.loads(ran.stdout)
    assert (ran.exit_code, result["mismatches"], result["seed"]) == (0, 0, 7)
    assert all(line["instances"] for line in result["lines"])
    assert result["instances"] > 200_000
    assert result["extent"]["random instances of a rule"] == {"tried": 4000, "wanted": 1_000_000}
    notes = {line["check"]: line["note"] for line in result["lines"]}
    solved = [notes[check] for check in notes if "HiGHS" in check or "assignment" in check]
    assert len(solved) == 5
    # A solver of toy sizes alone would prove little: what was drawn is told.
    for sizes in (
        re.search(r"up to (\d+) candidates, (\d+) places, (\d+) groups", note) for note in solved
    ):
        assert sizes is not None
        assert all(int(own) >= most for own, most in zip(sizes.groups(), (40, 15, 6), strict=True))
    regret = result["several_tables_regret"]
    assert (regret["instances"], regret["goal"], regret["silent"]) == (25, 0.001, 0)
    assert 0 < regret["near"] <= regret["can_be_kept"] <= 25


def test_a_list_in_score_order_is_found_to_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_score_alone(scores, groups, ties, floors, ceilings, both, worth, first):
        return np.arange(len(worth), dtype=np.int32), 0, len(scores), False

    monkeypatch.setattr(exhaustive, "served_places", by_score_alone)
    floors, ceilings = exhaustive.tables(exhaustive.World(4, 3, 2))
    _, _, mismatches, example = exhaustive._try_all.py_func(
        floors, ceilings, 4, False, True, discounts(3)
    )
    assert mismatches > 0
    assert floors[example].any()


def test_a_list_of_several_tables_that_breaks_a_floor_in_silence_is_a_mismatch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_score_alone(instance, beam_width):
        order = np.argsort(-instance.scores, kind="stable")[: instance.size]
        utility = float(instance.scores[order] @ instance.discounts)
        return overlap_gap.Arranged(order, (0, 0), overlap.KEPT, utility, utility)

    honest = overlap_gap.overlap_gap(10, 1)
    monkeypatch.setattr(overlap_gap, "arranged", by_score_alone)
    lying = overlap_gap.overlap_gap(10, 1)
    assert honest.silent == 0 < lying.silent
    assert several.regret_of([honest, lying])["silent"] == lying.silent
    assert several.regret_of([honest])["near"] == honest.near > 0


def _random(seed: int, n: int, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.sort(rng.integers(0, 50, n))[::-1].copy(), rng.integers(0, n_groups, n, np.int32)


@pytest.mark.parametrize("seed", range(8))
def test_the_oracles_agree(seed: int) -> None:
    values, groups = _random(seed, 6, 2)
    floors = exhaustive.floor_tables(4, 2)[seed * 30]
    ceilings = np.tile(np.arange(5, dtype=np.int32), (2, 1))
    lists, counts = np.zeros(5, np.int64), np.zeros(5, np.int64)
    longest = oracles.every_list(values, groups, floors, ceilings, 4, lists)
    assert oracles.every_count(values, groups, floors, ceilings, 4, counts) == longest
    assert lists.tolist() == counts.tolist()
    scores = values.astype(np.float32)
    best = by_assignment(scores, groups, floors, ceilings, 4)
    program = by_program(scores, groups, floors, ceilings, 4)
    if longest < 4:
        assert best is program is None
        return
    places = oracles.backward(values, groups, floors, 4)
    assert np.cumsum(values[places]).tolist() == lists[1:].tolist()
    assert best == pytest.approx(dcg(values[places])) == program


def test_a_program_without_an_answer_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    given = np.ones(2, np.float32), np.zeros(2, np.int32)
    bounds = np.zeros((1, 3), np.int32), np.arange(3, dtype=np.int32)[np.newaxis]
    gave_up = OptimizeResult(status=1, x=None, message="out of time")
    monkeypatch.setattr(milp, "milp", lambda *_, **__: gave_up)
    with pytest.raises(RuntimeError, match="out of time"):
        by_program(*given, *bounds, 2)


def test_the_compiled_call_is_rerank() -> None:
    values, groups = _random(3, 40, 4)
    policy = exhaustive.any_policy(12)
    for table in exhaustive.floor_tables(3, 4)[::40]:
        floors = np.repeat(table, 4, axis=1)[:, :13]
        ceilings = np.tile(np.arange(13, dtype=np.int32), (4, 1))
        made = kernel.with_tables(policy, floors, ceilings)
        for ties in (None, np.arange(40)[::-1].copy()):
            assert kernel.same_as_rerank(values.astype(np.float32), groups, 12, made, ties)


def test_the_compiled_call_is_rerank_of_large_lists_that_need_a_part_of_the_order() -> None:
    pool = draw_pool(random.Random(2), 16, KINDS, 64, 50)
    assert larger.unlike_rerank(1, 400, pool) == 0


@pytest.mark.parametrize("highest", [1, 3])
def test_many_equal_scores_are_sorted_as_by_the_server(highest: int) -> None:
    """So many that the kernel leaves them to another sort, which is numpy's in the server."""
    rng = np.random.default_rng(highest)
    scores = rng.integers(0, highest, 300).astype(np.float32)
    for ties in (rng.permutation(300), rng.integers(0, 9, 300), kernel.NO_TIE_BREAK):
        assert kernel.whole_order(scores, ties).tolist() == score_order(scores, ties).tolist()


@pytest.mark.parametrize("share", ["1/4", "1/2", "7/10"])
def test_the_exact_program_is_what_the_server_sums(share: str) -> None:
    floors = fa_ir.served(20, Fraction(share), Fraction(1, 10), adjusted=True)
    exact = float(fa_ir.exact_fail(floors, Fraction(share)))
    got = fail_probability(np.array(floors, np.int32), float(Fraction(share)))
    assert got == pytest.approx(exact, abs=1e-12)
