"""How much evidence a line needs to decide with its declared power at its declared effect.

Sample sizes of statsmodels for means and shares, and the exact binomial for
percentiles. One-sided, at the line's own error rates.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.stats import binom

MOST = 10**9
"""A need beyond this is told as none."""


def users_for_mean(spread: float, effect: float, alpha: float, power: float) -> int:
    """Users for a mean (or a mean of paired differences) to be told from a bound `effect` away.

    spread: the standard deviation between users.
    """
    from statsmodels.stats.power import TTestPower

    if spread / effect > 10_000:
        return MOST
    size = TTestPower().solve_power(
        effect_size=effect / spread, alpha=alpha, power=power, alternative="larger"
    )
    return max(math.ceil(float(size)), 2)


def users_per_group_for_gap(spread: float, effect: float, alpha: float, power: float) -> int:
    """Users in each of two groups for a gap to be told from a bound `effect` away."""
    from statsmodels.stats.power import TTestIndPower

    size = TTestIndPower().solve_power(
        effect_size=effect / spread, alpha=alpha, power=power, ratio=1.0, alternative="larger"
    )
    return max(math.ceil(float(size)), 2)


def users_per_group_for_ratio(
    spread: float, expected: float, bound: float, effect: float, alpha: float, power: float
) -> int:
    """Users in each of two groups for a ratio of means to be told from `bound`, `effect` away.

    The ratio is told by first - bound * second, whose variance is that of a mean of users with
    spread * sqrt(1 + bound^2).
    """
    both = spread * math.sqrt(1 + bound * bound)
    return users_for_mean(both, effect * expected, alpha, power)


def users_per_group_for_shares(first: float, second: float, alpha: float, power: float) -> int:
    """Users in each of two groups for two shares to be told apart."""
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

    size = samplesize_proportions_2indep_onetail(
        abs(first - second), min(first, second), power, ratio=1, alpha=alpha, alternative="larger"
    )
    return math.ceil(float(size))


def percentile_power(n: int, quantile: float, late: float, alpha: float, *, passes: bool) -> float:
    """How often `n` independent requests, of which a true share `late` is late, pass (or fail)."""
    allowed = 1 - quantile
    if passes:
        most = int(binom.ppf(alpha, n, allowed))
        while most >= 0 and binom.cdf(most, n, allowed) > alpha:
            most -= 1
        return float(binom.cdf(most, n, late)) if most >= 0 else 0.0
    least = int(binom.isf(alpha, n, allowed))
    while binom.sf(least - 1, n, allowed) > alpha:
        least += 1
    return float(binom.sf(least - 1, n, late))


def requests_for_percentile(
    quantile: float, late: float, alpha: float, power: float, *, passes: bool
) -> int | None:
    """Independent requests for a percentile limit to be decided that often; None beyond 10^9."""

    def enough(n: int) -> bool:
        return percentile_power(n, quantile, late, alpha, passes=passes) >= power

    return _least(enough)


def _least(enough: Callable[[int], bool]) -> int | None:
    low, high = 1, 64
    while not enough(high):
        low, high = high, high * 2
        if high > MOST:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low
