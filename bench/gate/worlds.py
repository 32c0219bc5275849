"""Releases that are made up, with a truth that is known: what `bench.gate.selftest` judges.

Owns how users, requests and runs are drawn. A world says how far the truth is
from each bound; a draw of it is a set of results as the gate reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gate.results import Result
from bench.gate.user_arrays import UserArrays

METRIC = "ndcg_at_20"
GROUPS = ("a", "b", "c", "d")
LEVEL = 0.3
SPREAD = 0.33
"""Between users of one group."""
PAIR_SPREAD = 0.08
"""Between users, of the candidate's difference from the baseline."""
RUN_SPREAD = 0.05
"""Between pairs of runs, of the log ratio of their percentiles."""
LIMIT_MS = 50.0
RATE = 25
"""Requests per second."""
_MACHINE = {"processor": "made up", "cores": 1, "system": "none"}
_PROTOCOL = {
    "on": "test", "split": "made up", "history_until_unix_ms": 0, "targets_until_unix_ms": 1, "k": 20,
    "ranking": "full", "min_users": 20,
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """users: in each of the four groups. seconds: of the load. pairs: of interleaved runs."""

    users: int
    seconds: int
    pairs: int


@dataclass(frozen=True)
class World:
    """The truth. loss: of every user against the baseline; group_loss: of group d on top of it.
    ratio: of group d's level to the others'. late, errors: shares of requests, errors among the late.
    stalls: the share of seconds in which all late ones fall; 1 is none. slower: candidate's time over
    the baseline's."""

    loss: float = 0.0
    group_loss: float = 0.0
    ratio: float = 0.9
    late: float = 0.025
    errors: float = 0.005
    stalls: float = 1.0
    slower: float = 1.0


Float64 = NDArray[np.float64]


def evaluations(world: World, size: Size, rng: np.random.Generator) -> tuple[Result, Result]:
    """Candidate's and baseline's, of the same users."""
    n = size.users * len(GROUPS)
    labels = np.repeat(np.array(GROUPS), size.users)
    last = labels == GROUPS[-1]
    level = np.where(last, LEVEL * world.ratio, LEVEL)
    # A third of the users at 0, as ranking metrics have them, the others skewed.
    zero = rng.random(n) < 1 / 3
    scores = np.where(zero, 0.0, rng.gamma(2.2, level * 1.5 / 2.2, n))
    noise = rng.normal(0.0, PAIR_SPREAD, n)
    ours = scores + noise / 2 - world.loss * (level / level.mean()) - world.group_loss * last
    theirs = scores - noise / 2
    return _evaluation("candidate", ours, labels), _evaluation("baseline", theirs, labels)


def _evaluation(bundle: str, values: Float64, labels: NDArray[np.str_]) -> Result:
    ids = np.arange(len(values)).astype(np.str_)
    estimate = {"value": float(values.mean()), "low": None, "high": None, "n_users": len(values)}
    document: dict[str, Any] = {
        "protocol": _PROTOCOL | {"n_users": len(values)},
        "dataset": {"digest": "made up"},
        "metrics": {METRIC: estimate},
        "groups": {},
    }
    arrays = UserArrays(ids, {METRIC: values}, {"group": labels})
    return Result("quality", bundle, bundle, document, f"{bundle}.json", users=arrays)


def load(world: World, size: Size, rng: np.random.Generator) -> Result:
    """One load of the candidate."""
    n = rng.poisson(size.seconds * RATE)
    starts_s = np.sort(rng.random(n) * size.seconds)
    stalled = rng.random(size.seconds) < world.stalls
    late = (rng.random(n) < world.late / world.stalls) & stalled[starts_s.astype(np.int64)]
    failed = late & (rng.random(n) < world.errors / world.late)
    times = np.where(late, 2 * LIMIT_MS, LIMIT_MS / 5) * rng.uniform(0.8, 1.2, n)
    return _load("candidate", np.where(failed, np.inf, times), starts_s)


def turns(world: World, size: Size, rng: np.random.Generator) -> tuple[list[Result], list[Result]]:
    """Loads of candidate and baseline by turns, on a machine that drifts."""
    ours: list[Result] = []
    theirs: list[Result] = []
    for pair in range(size.pairs):
        level = 10.0 * (1 + pair / size.pairs)
        # Each of the two has half of the variance of the log ratio.
        ratios = np.exp(rng.normal(0.0, RUN_SPREAD / np.sqrt(2), 2)) * (world.slower, 1.0)
        for place, (bundle, runs) in enumerate((("candidate", ours), ("baseline", theirs))):
            starts_s = (2 * pair + place) * 100 + np.arange(400) / RATE
            times = level * ratios[place] * rng.gamma(40.0, 1 / 40, 400)
            runs.append(_load(bundle, times, starts_s))
    return ours, theirs


def _load(bundle: str, times_ms: Float64, starts_s: Float64) -> Result:
    failed = int(np.isinf(times_ms).sum())
    document = {
        "valid": True,
        "machine": _MACHINE,
        "requests": len(times_ms),
        "errors": failed,
        "error_ratio": failed / max(len(times_ms), 1),
    }
    starts_ns = (starts_s * 1e9).astype(np.int64)
    return Result(
        "load", bundle, bundle, document, f"{bundle}-{starts_ns[0]}.json", times_ms, starts_ns
    )
