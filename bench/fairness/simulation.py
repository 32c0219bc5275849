"""The simulation of Geyik et al. (KDD 2019) with the exact floors beside the paper's own rules.

For each draw: proportions are uniform numbers over their sum, every group has 100 uniform scores,
the list has 100 places. Told for each rule: NDCG against the plain order of scores, prefixes with a
group below its floor (InfeasibleIndex), the share of lists with any, and NDKL.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from bench.fairness.compiled import CORES
from bench.fairness.detgreedy import (
    Heads,
    Listed,
    det_cons,
    det_const_sort,
    det_greedy,
    det_relaxed,
)
from bench.fairness.draw import document, labels_of
from bench.fairness.lines import Progress
from server.fairness import compile_policy, parse_policy, rerank
from server.fairness.metrics import dcg, infeasible_index, ndkl
from server.fairness.types import Int32

DRAWS = 4000
SIZE = 100
# Proportions are drawn in millionths, so that floors are whole-number arithmetic.
STEPS = 10**6
CHUNK = 250


def floors_of(parts: Sequence[int], size: int) -> Int32:
    """floor(k p) of every group, `[G, size + 1]`."""
    k = np.arange(size + 1, dtype=np.int64)
    floors: Int32 = (k * np.array(parts)[:, np.newaxis] // sum(parts)).astype(np.int32)
    return floors


def exact_floors(heads: Heads, parts: Sequence[int], size: int) -> Listed:
    """The fair stage's own list."""
    labels = labels_of(len(parts))
    text = document("floors", f'floors = {{{labels[0]} = "1/1"}}\n')
    policy = compile_policy(parse_policy(text, "simulation"), labels, size)
    policy = dataclasses.replace(policy, floors=floors_of(parts, size))
    scores = np.concatenate([np.asarray(own, np.float32) for own in heads])
    groups = np.repeat(np.arange(len(parts), dtype=np.int32), [len(own) for own in heads])
    order = rerank(scores, groups, size, policy).order
    return groups[order].tolist(), scores[order].tolist()


RULES: dict[str, Callable[[Heads, Sequence[int], int], Listed]] = {
    "exact floors": exact_floors,
    "DetGreedy": det_greedy,
    "DetConstSort": det_const_sort,
    "DetRelaxed": det_relaxed,
    "DetCons": det_cons,
}


@dataclass(frozen=True)
class Measured:
    """One rule at one number of groups, means over the draws."""

    rule: str
    groups: int
    draws: int
    ndcg: float
    infeasible_index: float
    broken: float
    ndkl: float


def _draws(n_groups: int, seed: int, number: int) -> dict[str, np.ndarray]:
    """Per rule `[number, 4]`: ndcg, infeasible index, whether broken, ndkl."""
    rng = np.random.default_rng(seed)
    found = {rule: np.zeros((number, 4)) for rule in RULES}
    for draw in range(number):
        parts = (1 + (rng.random(n_groups) * STEPS).astype(np.int64)).tolist()
        scores = np.sort(rng.random((n_groups, SIZE)).astype(np.float32), axis=1)[:, ::-1]
        ideal = dcg(np.sort(scores.reshape(-1))[::-1][:SIZE])
        floors, wanted = floors_of(parts, SIZE), np.array(parts) / sum(parts)
        heads = scores.tolist()
        for rule, make in RULES.items():
            listed, gains = make(heads, parts, SIZE)
            groups = np.array(listed, np.int32)
            index = infeasible_index(groups, floors)
            found[rule][draw] = dcg(gains) / ideal, index, index > 0, ndkl(groups, wanted)
    return found


def simulate(
    counts: Sequence[int], draws: int, seed: int, progress: Progress
) -> Iterator[list[Measured]]:
    """For each number of groups the rules' means."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(CORES, mp_context=context) as pool:
        tasks = {
            n_groups: [
                pool.submit(
                    _draws,
                    n_groups,
                    int(np.random.SeedSequence([seed, n_groups, at]).generate_state(1)[0]),
                    min(CHUNK, draws - at),
                )
                for at in range(0, draws, CHUNK)
            ]
            for n_groups in counts
        }
        done = 0
        for n_groups, parts in tasks.items():
            answers = []
            for task in parts:
                answers.append(task.result())
                done += 1
                progress(done / (len(counts) * len(parts)))
            yield [
                Measured(
                    rule,
                    n_groups,
                    draws,
                    *np.concatenate([part[rule] for part in answers]).mean(axis=0).tolist(),
                )
                for rule in RULES
            ]
