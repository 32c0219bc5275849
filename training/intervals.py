"""Intervals over users: how sure a mean, a difference or a ratio of means is.

Owns the bootstrap. The unit is the user: lists of one user are not independent, so
users are drawn, never lists (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13: percentile intervals). Must not know what is measured.

>>> sample = Resampler(n_users=4, resamples=500, seed=7)
>>> estimate = sample.mean(np.array([0.0, 1.0, 1.0, np.nan]))
>>> estimate.n_users, round(estimate.value or 0, 3), estimate.low, estimate.high
(3, 0.667, 0.0, 1.0)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from server.features.types import Float64

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; None where there is no user it could rest on.

    n_users: users with a value. better: which way is better.
    """

    value: float | None
    low: float | None
    high: float | None
    n_users: int
    better: Better = "higher"

    def as_json(self) -> dict[str, float | int | str | None]:
        """The estimate as it stands in a results file."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n_users": self.n_users,
            "better": self.better,
        }


class Resampler:
    """Draws the same users for every number, so that differences are paired.

    resamples: more is a steadier interval and takes longer, linearly.
    confidence: the share of resamples between low and high.
    """

    def __init__(
        self, n_users: int, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 20
    ) -> None:
        self.n_users = n_users
        self.resamples = resamples
        self.confidence = confidence
        self.seed = seed

    @cached_property
    def draws(self) -> Float64:
        """`[resamples, n_users]`: how often each user was drawn."""
        if self.n_users == 0:
            return np.zeros((self.resamples, 0))
        rng = np.random.default_rng(self.seed)
        even = np.full(self.n_users, 1.0 / self.n_users)
        return rng.multinomial(self.n_users, even, size=self.resamples).astype(np.float64)

    def mean(self, values: Float64, better: Better = "higher") -> Estimate:
        """The mean of `[n_users]` values; NaN is a user without a value."""
        known = np.isfinite(values)
        return self._ratio(np.where(known, values, 0.0), known.astype(np.float64), known, better)

    def ratio(self, part: Float64, whole: Float64, better: Better = "higher") -> Estimate:
        """`mean(part) / mean(whole)` over users that have both."""
        known = np.isfinite(part) & np.isfinite(whole)
        return self._ratio(np.where(known, part, 0.0), np.where(known, whole, 0.0), known, better)

    def _ratio(self, part: Float64, whole: Float64, known: np.ndarray, better: Better) -> Estimate:
        if len(part) != self.n_users or len(whole) != self.n_users:
            raise ValueError(f"{len(part)} values, the sample has {self.n_users} users")
        n_known = int(known.sum())
        if n_known == 0 or whole.sum() == 0:
            return Estimate(None, None, None, n_known, better)
        parts, wholes = (self.draws @ np.stack([part, whole], axis=1)).T
        # A resample without a single user that has a value says nothing; it is left out.
        drawn = wholes != 0
        tail = (1.0 - self.confidence) / 2.0
        low, high = np.quantile(parts[drawn] / wholes[drawn], [tail, 1.0 - tail])
        return Estimate(float(part.sum() / whole.sum()), float(low), float(high), n_known, better)
