"""The worst of several groups, told with an interval that knows it was searched for.

Owns the statistics of a fairness line. Of the smallest of several numbers:
- a lower limit needs no correction: the smallest of all lower limits is above the smallest number
  only if the limit of *that* one is (an intersection-union argument);
- an upper limit does: the smallest of all upper limits is right only if all of them are, so the
  error rate is split over what was compared (Bonferroni; p-values of cells by Holm, 1979).
For the largest the other way round. With groups there are G (G - 1) ratios and gaps: nobody knows
beforehand which group is best.

Values of 0 and 1 take Miettinen and Nurminen's score limits of statsmodels, and Clopper and
Pearson's exact ones for a single group; others Welch and Fieller, where no group's variance is
taken to be below that within all of them: 30 users who all have 0 are not known to be at 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from bench.gate.means import (
    NONE,
    Mean,
    Values,
    difference_limits,
    mean_limits,
    mean_of,
    p_below,
    p_mean_below,
    ratio_limits,
)
from bench.gate.measured import Broken, Cell

How = Literal["worst", "worst_ratio", "worst_gap"]
Cells = Mapping[str, Values]
Ends = tuple[float, float, float]
"""Value, low end, high end."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values."""
    from statsmodels.stats.multitest import multipletests

    adjusted: list[float] = multipletests(list(p_values), method="holm")[1].tolist()
    return adjusted


def within_variance(cells: Cells) -> float:
    """The variance of a user's value within its group, pooled over the groups."""
    squares = sum(float(((v - v.mean()) ** 2).sum()) for v in cells.values())
    df = sum(len(v) - 1 for v in cells.values())
    return squares / df if df > 0 else 0.0


def is_binary(cells: Cells) -> bool:
    """Whether every value is 0 or 1, so that exact methods apply."""
    return all(bool(np.isin(values, (0.0, 1.0)).all()) for values in cells.values())


def compared(
    cells: Cells, how: How, bound: float | None, alpha_low: float, alpha_high: float
) -> tuple[Ends, tuple[Cell, ...]]:
    """The worst cell's value with its limits, and every cell.

    cells: label -> `[n] float64`, two groups or more, each with a user. bound: what the p-values
    are against; None leaves them out. alpha_low, alpha_high: one-sided error rates of the ends.

    Raises:
        Broken: all groups are at 0, so that there is no ratio.
    """
    floor = within_variance(cells)
    means = {label: mean_of(values, floor) for label, values in cells.items()}
    if how == "worst":
        found = _worst(cells, means, bound, alpha_low, alpha_high)
        value, low, high = (min(getattr(c, end) for c in found) for end in ("value", "low", "high"))
        return (value, low, high), found
    if how == "worst_ratio" and max(mean.value for mean in means.values()) <= 0:
        raise Broken("every group is at 0: there is no ratio")
    pairs = _Pairs(cells, means, is_binary(cells))
    if how == "worst_ratio":
        found = pairs.ratios(bound, alpha_low, alpha_high)
        value, low, high = (min(getattr(c, end) for c in found) for end in ("value", "low", "high"))
    else:
        found = pairs.gaps(bound, alpha_low, alpha_high)
        value, low, high = (max(getattr(c, end) for c in found) for end in ("value", "low", "high"))
    return (value, low, high), found


def _with_holm(cells: Sequence[Cell], p_values: Sequence[float] | None) -> tuple[Cell, ...]:
    if p_values is None:
        return tuple(cells)
    return tuple(replace(cell, p_holm=p) for cell, p in zip(cells, holm(p_values), strict=True))


def _worst(
    cells: Cells, means: Mapping[str, Mean], bound: float | None, low: float, high: float
) -> tuple[Cell, ...]:
    binary, split = is_binary(cells), high / len(cells)
    out, p_values = [], []
    for label, values in cells.items():
        mean, hits = means[label], int(np.count_nonzero(values > 0))
        limits = (
            exact_share_limits(hits, mean.n, low, split)
            if binary
            else mean_limits(mean, low, split)
        )
        out.append(Cell(label, mean.n, hits, mean.value, *limits))
        if bound is not None:
            p_values.append(
                binomtest(hits, mean.n, min(max(bound, 0.0), 1.0), "less").pvalue
                if binary
                else p_mean_below(mean, bound)
            )
    return _with_holm(out, p_values if bound is not None else None)


def exact_share_limits(
    hits: int, n: int, alpha_low: float, alpha_high: float
) -> tuple[float, float]:
    """Clopper and Pearson's limits of a share, each end at its own one-sided error rate."""
    tried = binomtest(hits, n)
    low = tried.proportion_ci(1 - 2 * alpha_low, "exact").low
    high = tried.proportion_ci(1 - 2 * alpha_high, "exact").high
    return float(low), float(high)


class _Pairs:
    """Every group against every other."""

    def __init__(self, cells: Cells, means: Mapping[str, Mean], binary: bool) -> None:
        self._cells, self._means, self._binary = cells, means, binary
        self._hits = {label: int(np.count_nonzero(v > 0)) for label, v in cells.items()}
        self._pairs = len(cells) * (len(cells) - 1)

    def _score(
        self, a: str, b: str, compare: str, alpha_low: float, alpha_high: float
    ) -> tuple[float, float]:
        low = self._limits(a, b, compare, alpha_low)[0]
        high = self._limits(a, b, compare, alpha_high)[1]
        return (
            -math.inf if math.isnan(low) else low,
            math.inf if math.isnan(high) else high,
        )

    def _limits(self, a: str, b: str, compare: str, alpha: float) -> tuple[float, float]:
        from statsmodels.stats.proportion import confint_proportions_2indep

        counts = (self._hits[a], self._means[a].n, self._hits[b], self._means[b].n)
        # The score limits are found by a search that can end without any; the others have a formula.
        for method in ("score", "newcomb" if compare == "diff" else "log-adjusted"):
            try:
                with np.errstate(all="ignore"):
                    found = confint_proportions_2indep(
                        *counts, method=method, compare=compare, alpha=2 * alpha
                    )
            except ValueError:
                continue
            return float(found[0]), float(found[1])
        return NONE

    def _p_score(self, a: str, b: str, compare: str, value: float, side: str) -> float:
        from statsmodels.stats.proportion import test_proportions_2indep

        counts = (self._hits[a], self._means[a].n, self._hits[b], self._means[b].n)
        with np.errstate(all="ignore"):
            found = test_proportions_2indep(
                *counts, value=value, method="score", compare=compare, alternative=side
            )
        p = float(found.pvalue)
        return 1.0 if math.isnan(p) else p

    def ratios(self, bound: float | None, alpha_low: float, alpha_high: float) -> tuple[Cell, ...]:
        """Of each cell: its ratio to the best of the others."""
        split = alpha_high / self._pairs
        low = dict.fromkeys(self._cells, math.inf)
        high = dict.fromkeys(self._cells, math.inf)
        p = dict.fromkeys(self._cells, 1.0)
        for a, b in permutations(self._cells, 2):
            top, bottom = self._means[a], self._means[b]
            limits = (
                self._score(a, b, "ratio", alpha_low, split)
                if self._binary and self._hits[b]
                else ratio_limits(top, bottom, 0.0, alpha_low, split)
            )
            low[a], high[a] = min(low[a], limits[0]), min(high[a], limits[1])
            if bound is not None:
                one = (
                    self._p_score(a, b, "ratio", bound, "smaller")
                    if self._binary and self._hits[b] and bound > 0
                    else p_below(top, bottom, bound)
                )
                p[a] = min(p[a], one * (len(self._cells) - 1))
        return self._told(low, high, self._ratio, p if bound is not None else None)

    def gaps(self, bound: float | None, alpha_low: float, alpha_high: float) -> tuple[Cell, ...]:
        """Of each cell: how far it is below the best of the others."""
        split = alpha_low / self._pairs
        low = dict.fromkeys(self._cells, -math.inf)
        high = dict.fromkeys(self._cells, -math.inf)
        p = dict.fromkeys(self._cells, 1.0)
        for a, b in permutations(self._cells, 2):
            limits = (
                self._score(b, a, "diff", split, alpha_high)
                if self._binary
                else difference_limits(self._means[b], self._means[a], split, alpha_high)
            )
            low[a], high[a] = max(low[a], limits[0]), max(high[a], limits[1])
            if bound is not None:
                one = (
                    self._p_score(b, a, "diff", bound, "larger")
                    if self._binary
                    else p_below(self._means[a], self._means[b], 1.0, -bound)
                )
                p[a] = min(p[a], one * (len(self._cells) - 1))
        return self._told(low, high, self._gap, p if bound is not None else None)

    def _ratio(self, label: str) -> float:
        best = max(self._means[other].value for other in self._cells if other != label)
        return self._means[label].value / best if best > 0 else math.inf

    def _gap(self, label: str) -> float:
        best = max(self._means[other].value for other in self._cells if other != label)
        return best - self._means[label].value

    def _told(
        self, low: Mapping[str, float], high: Mapping[str, float], value: Callable[[str], float],
        p: Mapping[str, float] | None,
    ) -> tuple[Cell, ...]:  # fmt: skip
        cells = [
            Cell(
                label, self._means[label].n, self._hits[label], value(label), low[label],
                high[label],
            )
            for label in self._cells
        ]  # fmt: skip
        return _with_holm(cells, [min(p[label], 1.0) for label in self._cells] if p else None)
