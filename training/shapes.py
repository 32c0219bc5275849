"""What padding to buckets would cost and save: python -m training.shapes

Times untrained models of the shapes that are trained, on one thread, without a server. Owns no part
of serving; decision 9 is made of what it prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from server.features import FEATURE_NAMES
from server.model import Feed, OnnxScorer, pair_ports, sequence_ports
from training import export
from training.model import PairRanker
from training.sequence_model import SequenceRanker

ITEMS, LENGTH, RUNS = 10_000, 50, 110
BATCHES = (1, 4, 8, 16)
WIDTHS = range(352, 513, 16)
LENGTHS = (8, 16, 24, 32, 40, 50)
CANDIDATES = 208

Draw = Callable[[int, int], Feed]


def list_us(scorer: OnnxScorer, feeds: Sequence[Feed], lists: int) -> float:
    """The median time of a list where these inputs come in turn."""
    for feed in feeds:
        scorer.score(feed)
    taken_ns = np.zeros(RUNS)
    for run in range(RUNS):
        feed = feeds[run % len(feeds)]
        started_ns = time.perf_counter_ns()
        scorer.score(feed)
        taken_ns[run] = time.perf_counter_ns() - started_ns
    return float(np.median(taken_ns)) / lists / 1e3


def pairs(rng: np.random.Generator) -> tuple[OnnxScorer, Draw]:
    width = len(FEATURE_NAMES)
    model = PairRanker(torch.zeros(width), torch.ones(width), (64, 32))

    def draw(lists: int, candidates: int) -> Feed:
        return {"features": rng.normal(0, 1, (lists, candidates, width)).astype(np.float32)}

    return OnnxScorer(export.export_onnx(model), pair_ports(width)), draw


def sequences(rng: np.random.Generator, length: int) -> tuple[OnnxScorer, Draw]:
    def draw(lists: int, candidates: int) -> Feed:
        return {
            "history": rng.integers(0, ITEMS + 1, (lists, length)).astype(np.int32),
            "candidates": rng.integers(1, ITEMS + 1, (lists, candidates)).astype(np.int32),
        }

    model = SequenceRanker(ITEMS, length)
    return OnnxScorer(export.export_onnx(model), sequence_ports(length)), draw


def main() -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    print("us a list; candidates padded to a multiple of 16, as served, or to one bucket of 512")
    middle = (WIDTHS[0] + WIDTHS[-1]) // 2
    print(f"{'':<16}{'lists':>6}{f'{middle} each time':>16}{'352 to 512':>14}{'all 512':>10}")
    for name, (scorer, draw) in {
        "pair features": pairs(rng),
        f"history of {LENGTH}": sequences(rng, LENGTH),
    }.items():
        for lists in BATCHES:
            one = list_us(scorer, [draw(lists, middle)], lists)
            many = list_us(scorer, [draw(lists, width) for width in WIDTHS], lists)
            padded = list_us(scorer, [draw(lists, WIDTHS[-1])], lists)
            print(f"{name:<16}{lists:>6}{one:>16.1f}{many:>14.1f}{padded:>10.1f}")
    print(f"\nus a list of {CANDIDATES} candidates, by the history that the graph is made for")
    print(f"{'length':<16}" + "".join(f"{f'{lists} lists':>12}" for lists in BATCHES))
    for length in LENGTHS:
        scorer, draw = sequences(rng, length)
        costs = (list_us(scorer, [draw(lists, CANDIDATES)], lists) for lists in BATCHES)
        print(f"{length:<16}" + "".join(f"{cost:>12.1f}" for cost in costs))


if __name__ == "__main__":
    main()
