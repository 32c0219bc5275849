"""`prove`: everything that is claimed of the fair stage's lists, counted against other rules.

Long: all small worlds and 10^6 random instances a rule. Short: the same checks on fewer, for a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import factorial
from typing import Any

from bench.fairness.exhaustive import FULL, SHORT, World, exhaustive, order_of_input
from bench.fairness.fa_ir import SIZES, fa_ir_tables
from bench.fairness.larger import random_instances
from bench.fairness.lines import Line, Progress
from bench.fairness.report import as_plain
from bench.fairness.several import own_tables, several_tables
from bench.fairness.solvers import solver_instances


@dataclass(frozen=True)
class Extent:
    """How much is tried. orders: (n, K, G) of the worlds whose inputs are put in every order."""

    worlds: tuple[World, ...]
    orders: tuple[int, int, int]
    random: int
    solved: int
    several: int
    fa_ir_sizes: tuple[int, ...]

    def counted(self) -> dict[str, int]:
        """How much of each part, by words for it."""
        return {
            "worlds": len(self.worlds),
            "orders of the input": factorial(self.orders[0]),
            "random instances of a rule": self.random,
            "windows by assignment": self.solved,
            "lists of several tables": self.several,
            "sizes of FA*IR's tables": len(self.fa_ir_sizes),
        }


LONG = Extent(FULL, (5, 3, 2), 1_000_000, 20_000, 2_000, SIZES)
BRIEF = Extent(SHORT, (3, 2, 2), 4_000, 200, 25, (1, 10, 20))


def prove(
    extent: Extent, seed: int, progress: Progress, told: Callable[[Line], None]
) -> dict[str, Any]:
    """Run every check; `told` hears of each line as it is done."""
    regret: dict[str, Any] = {}
    several: dict[str, Any] = {}
    # (share of the time, the lines of a part)
    parts: tuple[tuple[float, Callable[[Progress], Iterator[Line]]], ...] = (
        (0.3, lambda on: exhaustive(extent.worlds, on)),
        (0.05, lambda on: iter([order_of_input(*extent.orders, on)])),
        (0.15, lambda on: random_instances(extent.random, seed, on)),
        (0.15, lambda on: several_tables(extent.several, seed, on, several)),
        (0.05, lambda on: own_tables(extent.several, seed, on)),
        (0.25, lambda on: solver_instances(extent.solved, seed, on, regret)),
        (0.05, lambda on: fa_ir_tables(extent.fa_ir_sizes, on)),
    )
    lines: list[Line] = []
    before = 0.0
    for share, part in parts:

        def on(done: float, before: float = before, share: float = share) -> None:
            progress(before + share * done)

        for line in part(on):
            lines.append(line)
            told(line)
        before += share
    return {
        "kind": "fairness_proof",
        "schema_version": 1,
        "seed": seed,
        "extent": {
            part: {"tried": tried, "wanted": LONG.counted()[part]}
            for part, tried in extent.counted().items()
        },
        "instances": sum(line.instances for line in lines),
        "mismatches": sum(line.mismatches for line in lines),
        "lines": [as_plain(line) for line in lines],
        "window_regret": regret,
        "several_tables_regret": several,
    }
