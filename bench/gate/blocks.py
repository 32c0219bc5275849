"""How many independent requests the requests of a load are worth: blocks of time.

Owns the dependence between requests. Requests that wait behind one stall are
late together, so a thousand of them are no thousand witnesses; the unit is the
block of time. The share of late requests is taken as a mean over blocks, its
variance over blocks against that of independent requests is the design effect,
and the exact binomial limits are taken with n / design effect requests, with
Student's correction for few blocks (Korn and Graubard, Survey Methodology 1998;
Woodruff, JASA 1952, for percentiles). A few stalls that make most of the
variance are few witnesses of it: degrees of freedom follow the kurtosis over
blocks (Satterthwaite). Where neighbouring blocks go together (lag-1
correlation), blocks are joined in twos until they do not. What no variance can
tell is a stall that has not happened yet: see `blocks_without_a_stall`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Latencies = NDArray[np.float64]
# One-sided 5 % of a correlation of independent blocks, times the root of their number.
_LAG_LIMIT = 1.645
LEAST_BLOCKS = 2


@dataclass(frozen=True)
class Clock:
    """Which block each request was in.

    starts_ns: `[requests] int64`, when it was (to be) sent. runs: `[requests] int64`, which run it
    was of; a block never spans two.
    """

    starts_ns: NDArray[np.int64]
    runs: NDArray[np.int64]

    def blocks(self, block_s: float) -> NDArray[np.int64]:
        """`[requests] int64`: numbers from 0 in order of time, none left out."""
        origin = np.zeros(int(self.runs.max()) + 1, np.int64)
        for run in np.unique(self.runs):
            origin[run] = self.starts_ns[self.runs == run].min()
        place = (self.starts_ns - origin[self.runs]) // round(block_s * 1e9)
        key = self.runs * (int(place.max()) + 1) + place
        return np.unique(key, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Dependence:
    """blocks: how many. block_s: how long. design_effect: variance over blocks against that of
    independent requests, at least 1. df: degrees of freedom of that. joined: neighbours went together and were joined."""

    n: int
    blocks: int
    block_s: float
    design_effect: float
    df: float
    joined: bool

    def effective_n(self, alpha: float) -> int:
        """How many independent requests these are worth at one end with error rate `alpha`."""
        if self.blocks < LEAST_BLOCKS:
            return 0
        few = stats.t.isf(alpha, self.df)
        many = stats.t.isf(alpha, max(self.n - 1, 1))
        return min(self.n, math.floor(self.n / self.design_effect * (many / few) ** 2 + 1e-9))


def dependence(late: NDArray[np.bool_], clock: Clock, block_s: float) -> Dependence:
    """The dependence between requests in what they have in common: being `late`."""
    n, length, joined = len(late), block_s, False
    while True:
        ids = clock.blocks(length)
        sizes = np.bincount(ids).astype(np.float64)
        residuals = np.bincount(ids, weights=late) - late.mean() * sizes
        together = len(sizes) >= 2 * LEAST_BLOCKS and _neighbours_agree(residuals)
        if not together:
            break
        length, joined = 2 * length, True
    blocks, share = len(sizes), float(late.mean())
    alone = share * (1 - share) / n
    effect = 1.0
    if alone > 0 and blocks >= LEAST_BLOCKS:
        over_blocks = blocks / (blocks - 1) * float((residuals**2).sum()) / n**2
        effect = max(over_blocks / alone, 1.0)
    df = max(blocks - 1.0, 1.0)
    fourth = float((residuals**4).sum())
    if fourth > 0:
        kurtosis = blocks * fourth / float((residuals**2).sum()) ** 2
        df = min(df, max(2 * blocks / max(kurtosis - 1, 1e-9), 1.0))
    return Dependence(n, blocks, length, effect, df, joined)


def blocks_without_a_stall(quantile: float, alpha: float) -> int:
    """How many blocks a pass of a percentile needs, whatever was seen in them.

    If stalls make whole blocks late, as many as the percentile allows, then so many blocks show
    none of them with probability `alpha`. This is the loadgen table's first entry, in blocks.

    >>> blocks_without_a_stall(0.99, 0.01)
    459
    """
    return math.ceil(math.log(alpha) / math.log(quantile))


def _neighbours_agree(residuals: NDArray[np.float64]) -> bool:
    spread = float((residuals**2).sum())
    if spread <= 0:
        return False
    lag = float((residuals[1:] * residuals[:-1]).sum()) / spread
    return lag > _LAG_LIMIT / math.sqrt(len(residuals))
