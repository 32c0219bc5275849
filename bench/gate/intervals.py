"""Intervals that the gate computes itself, all of them exact; none resampled.

>>> percentile([1.0, 2.0, 3.0], 0.5)
2.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

Latencies = NDArray[np.float64] | Sequence[float]


def percentile(values: Latencies, quantile: float) -> float:
    """The smallest value that at least `quantile` of the values do not exceed; NaN for none."""
    ordered = np.sort(np.asarray(values, np.float64))
    if not len(ordered):
        return math.nan
    # The small number keeps 0.99 * 100 at 99, not at the next rank.
    rank = max(math.ceil(quantile * len(ordered) - 1e-9), 1)
    return float(ordered[rank - 1])


def percentile_interval(
    values: Latencies, quantile: float, confidence: float
) -> tuple[float, float]:
    """Order statistics that hold the true percentile with at least `confidence`.

    Distribution-free, for independent requests: the number of values at or below the true
    percentile is Bin(n, quantile). The upper end is the rule of MLPerf loadgen's early stopping:
    below a limit iff P[Bin(n, 1 - quantile) <= late] <= (1 - confidence) / 2. An end that n values
    cannot give is infinite. `+inf` among the values (a failed request) is the slowest.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    tail = (1 - confidence) / 2
    low, high = -math.inf, math.inf
    if n:
        # The largest rank l with P[Bin < l] <= tail, the smallest rank u with P[Bin >= u] <= tail.
        ranks = np.arange(1, n + 1)
        below = np.flatnonzero(binom.cdf(ranks - 1, n, quantile) <= tail)
        above = np.flatnonzero(binom.sf(ranks - 1, n, quantile) <= tail)
        low = float(ordered[below[-1]]) if len(below) else -math.inf
        high = float(ordered[above[0]]) if len(above) else math.inf
    return low, high


def requests_needed(late: int, n: int, quantile: float, confidence: float) -> int | None:
    """How many requests would pass a percentile limit if the share of late ones stayed as it is.

    None when that share is not below 1 - quantile: more requests would not help.
    """
    if n == 0 or late / n >= 1 - quantile:
        return None
    low, high = n, n
    tail = (1 - confidence) / 2

    def passes(size: int) -> bool:
        return float(binom.cdf(math.ceil(late / n * size), size, 1 - quantile)) <= tail

    while not passes(high):
        high *= 2
        if high > 10**9:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return low


def share_interval(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson's exact interval of a share."""
    found = binomtest(hits, n).proportion_ci(confidence, "exact")
    return float(found.low), float(found.high)
