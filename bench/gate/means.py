"""Limits of means, paired ratios and ratios of two groups, at any error rate; none resampled.

The unit is the user. Student's t for means, Fieller's theorem for ratios
(Fieller, J. R. Stat. Soc. B 1954), Welch's degrees of freedom between groups.
They need no seed, and hold far out in the tail, where a line's share of the
file's error rate lies; a percentile bootstrap of 2,000 resamples ends at 1 in 2,000.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Values = NDArray[np.float64]
Limits = tuple[float, float]
NONE: Limits = (-math.inf, math.inf)


@dataclass(frozen=True)
class Mean:
    """A mean with the variance of that mean and its degrees of freedom."""

    n: int
    value: float
    variance: float
    df: float


def mean_of(values: Values, least_variance: float = 0.0) -> Mean:
    """The mean of `[n]` values.

    least_variance: of one value; what a small group is taken to vary by at least, so that one whose
    few users happen to be alike is not taken for known.
    """
    n = len(values)
    spread = float(values.var(ddof=1)) if n > 1 else math.inf
    return Mean(n, float(values.mean()), max(spread, least_variance) / n, max(n - 1, 1))


def _t(alpha: float, df: float) -> float:
    return -float(stdtrit(df, alpha))


def mean_limits(mean: Mean, alpha_low: float, alpha_high: float) -> Limits:
    """One-sided limits of a mean at the error rates of either end."""
    if mean.n < 2:
        return NONE
    error = math.sqrt(mean.variance)
    low, high = _t(alpha_low, mean.df) * error, _t(alpha_high, mean.df) * error
    return mean.value - low, mean.value + high


def ratio_limits(
    top: Mean, bottom: Mean, covariance: float, alpha_low: float, alpha_high: float
) -> Limits:
    """Fieller's limits of top / bottom, both with the variance of their mean.

    covariance: of the two means; 0 for two groups of users. Without limits where the bottom is not
    told from 0 at that error rate.
    """
    if min(top.n, bottom.n) < 2 or bottom.value <= 0:
        return NONE
    df = _welch_df(top, bottom) if covariance == 0 else top.df
    return (
        _fieller(top, bottom, covariance, _t(alpha_low, df))[0],
        _fieller(top, bottom, covariance, _t(alpha_high, df))[1],
    )


def _welch_df(top: Mean, bottom: Mean) -> float:
    ratio = top.value / bottom.value
    a, b = top.variance, ratio * ratio * bottom.variance
    below = a * a / top.df + b * b / bottom.df
    return (a + b) ** 2 / below if below > 0 else min(top.df, bottom.df)


def _fieller(top: Mean, bottom: Mean, covariance: float, t: float) -> Limits:
    a = bottom.value**2 - t * t * bottom.variance
    if a <= 0:
        return NONE
    half = top.value * bottom.value - t * t * covariance
    c = top.value**2 - t * t * top.variance
    root = math.sqrt(max(half * half - a * c, 0.0))
    return (half - root) / a, (half + root) / a


def paired_ratio(top: Values, bottom: Values) -> tuple[Mean, Mean, float]:
    """What `ratio_limits` takes, of two `[n]` arrays of the same users."""
    n = len(top)
    together = float(np.cov(top, bottom)[0, 1]) / n if n > 1 else 0.0
    # Exactly 0 would be taken for two groups; the smallest number changes no limit.
    return mean_of(top), mean_of(bottom), together or 5e-324


def difference_limits(first: Mean, second: Mean, alpha_low: float, alpha_high: float) -> Limits:
    """Welch's limits of first - second, of two groups of users."""
    if min(first.n, second.n) < 2:
        return NONE
    both = first.variance + second.variance
    below = first.variance**2 / first.df + second.variance**2 / second.df
    df = both**2 / below if below > 0 else min(first.df, second.df)
    difference, error = first.value - second.value, math.sqrt(both)
    return (
        difference - _t(alpha_low, df) * error,
        difference + _t(alpha_high, df) * error,
    )


def p_below(first: Mean, second: Mean, factor: float, offset: float = 0.0) -> float:
    """One-sided p-value against first >= factor * second + offset, of two groups of users."""
    if min(first.n, second.n) < 2:
        return 1.0
    a, b = first.variance, factor * factor * second.variance
    distance = first.value - factor * second.value - offset
    if a + b <= 0:
        return 0.0 if distance < 0 else 1.0
    df = (a + b) ** 2 / (a * a / first.df + b * b / second.df)
    return float(stdtr(df, distance / math.sqrt(a + b)))


def p_mean_below(mean: Mean, bound: float) -> float:
    """One-sided p-value against mean >= bound."""
    if mean.n < 2:
        return 1.0
    if mean.variance <= 0:
        return 0.0 if mean.value < bound else 1.0
    return float(stdtr(mean.df, (mean.value - bound) / math.sqrt(mean.variance)))
