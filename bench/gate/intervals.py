"""Intervals of percentiles and shares that the gate computes itself, all of them exact.

>>> percentile([1.0, 2.0, 3.0], 0.5)
2.0
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

Latencies = NDArray[np.float64] | Sequence[float]


def percentile(values: Latencies, quantile: float) -> float:
    """The smallest value that at least `quantile` of the values do not exceed; NaN for none."""
    ordered = np.sort(np.asarray(values, np.float64))
    if not len(ordered):
        return math.nan
    # The small number keeps 0.99 * 100 at 99, not at the next rank.
    rank = max(math.ceil(quantile * len(ordered) - 1e-9), 1)
    return float(ordered[rank - 1])


def _low_rank(n: int, quantile: float, alpha: float) -> int:
    """The largest rank l with P[Bin(n, quantile) < l] <= alpha; 0 if there is none."""
    near = int(binom.ppf(alpha, n, quantile))
    ranks = np.arange(max(near - 1, 0), min(near + 2, n) + 1)
    kept = ranks[binom.cdf(ranks - 1, n, quantile) <= alpha]
    return int(kept[-1]) if len(kept) else 0


def _high_rank(n: int, quantile: float, alpha: float) -> int | None:
    """The smallest rank u with P[Bin(n, quantile) >= u] <= alpha; None if n is too small."""
    near = int(binom.isf(alpha, n, quantile)) + 1
    ranks = np.arange(max(near - 2, 1), min(near + 2, n) + 1)
    kept = ranks[binom.sf(ranks - 1, n, quantile) <= alpha]
    return int(kept[0]) if len(kept) else None


def percentile_limits(
    values: Latencies,
    quantile: float,
    alpha_low: float,
    alpha_high: float,
    worth: tuple[int, int] | None = None,
) -> tuple[float, float]:
    """Order statistics below and above the true percentile, each end at its own error rate.

    Distribution-free: the number of values at or below the true percentile is Bin(n, quantile). The
    upper end is the rule of MLPerf loadgen's early stopping: below a limit iff
    P[Bin(n, 1 - quantile) <= late] <= alpha_high. An end that n values cannot give is infinite.
    `+inf` among the values (a failed request) is the slowest. worth: how many independent values
    they are worth at either end; None: as many as there are.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n = len(ordered)
    n_low, n_high = (n, n) if worth is None else worth
    low, high = -math.inf, math.inf
    if n_low > 0 and (rank := _low_rank(n_low, quantile, alpha_low)) > 0:
        scaled = math.floor(rank * n / n_low + 1e-9)
        low = float(ordered[scaled - 1])
    if n_high > 0 and (up := _high_rank(n_high, quantile, alpha_high)) is not None:
        scaled = min(math.ceil(up * n / n_high - 1e-9), n)
        high = float(ordered[scaled - 1])
    return low, high


def percentile_interval(
    values: Latencies, quantile: float, confidence: float
) -> tuple[float, float]:
    """`percentile_limits` of independent values, both ends at half of what `confidence` leaves."""
    tail = (1 - confidence) / 2
    return percentile_limits(values, quantile, tail, tail)


def requests_needed(late: int, n: int, quantile: float, alpha: float) -> int | None:
    """How many independent requests would pass a percentile limit if the share of late ones stayed.

    None when that share is not below 1 - quantile: more requests would not help.
    """
    if n == 0 or late / n >= 1 - quantile:
        return None
    low, high = n, n

    def passes(size: int) -> bool:
        return float(binom.cdf(math.ceil(late / n * size), size, 1 - quantile)) <= alpha

    while not passes(high):
        high *= 2
        if high > 10**9:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return low


def share_limits(
    share: float, alpha_low: float, alpha_high: float, worth: tuple[int, int]
) -> tuple[float, float]:
    """Clopper and Pearson's exact limits of a share; `worth` need not make it a whole count."""
    n_low, n_high = worth
    hits_low, hits_high = share * n_low, share * n_high
    low = float(beta.ppf(alpha_low, hits_low, n_low - hits_low + 1)) if hits_low > 0 else 0.0
    missed = n_high - hits_high
    high = float(beta.isf(alpha_high, hits_high + 1, missed)) if missed > 0 else 1.0
    return low, high


def share_interval(hits: int, n: int, confidence: float) -> tuple[float, float]:
    """`share_limits` of independent requests, both ends at half of what `confidence` leaves."""
    tail = (1 - confidence) / 2
    return share_limits(hits / n, tail, tail, (n, n))
