"""Candidate against baseline, paired by user: by how much is it worse?

Owns the non-inferiority statistics of quality. Both served the same users, so
what counts is each user's difference: its spread is a fraction of the spread
between users, and one user with many purchases is still one user.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.gate.cells import Ends, holm, within_variance
from bench.gate.means import (
    Values,
    mean_limits,
    mean_of,
    p_mean_below,
    paired_ratio,
    ratio_limits,
)
from bench.gate.measured import Broken, Cell


def both_known(candidate: Values, baseline: Values) -> tuple[Values, Values]:
    """The values of users who have one on both sides.

    Raises:
        Broken: a user has a value on one side only, or nobody has one.
    """
    known, known_before = np.isfinite(candidate), np.isfinite(baseline)
    if (known != known_before).any():
        lost = int(np.count_nonzero(known != known_before))
        raise Broken(f"{lost} users have a value on one side only; a pair needs both")
    if not known.any():
        raise Broken("no user has a value: an empty group")
    return candidate[known], baseline[known]


def paired(
    candidate: Values, baseline: Values, *, relative: bool, alpha_low: float, alpha_high: float
) -> Ends:
    """Candidate minus baseline, `[n]` each, with its limits; relative: as a share of the baseline.

    Raises:
        Broken: relative to a baseline of 0.
    """
    if relative and baseline.mean() <= 0:
        raise Broken("the baseline is at 0: there is no relative difference")
    if not (candidate != baseline).any():
        return _alike(len(candidate), baseline.mean() if relative else 1.0, alpha_low, alpha_high)
    if not relative:
        difference = mean_of(candidate - baseline)
        return (difference.value, *mean_limits(difference, alpha_low, alpha_high))
    top, bottom, together = paired_ratio(candidate, baseline)
    low, high = ratio_limits(top, bottom, together, alpha_low, alpha_high)
    return top.value / bottom.value - 1, low - 1, high - 1


def _alike(n: int, whole: float, alpha_low: float, alpha_high: float) -> Ends:
    """The limits where nobody differs among `n`: of users who would, as many as could have been missed
    (1 - alpha^(1/n), the rule of three), each losing or gaining all of a value in [0, 1]."""
    return 0.0, -(1 - alpha_low ** (1 / n)) / whole, (1 - alpha_high ** (1 / n)) / whole


def paired_cells(
    cells: Mapping[str, tuple[Values, Values]],
    *,
    relative: bool,
    margin: float,
    alpha_low: float,
    alpha_high: float,
) -> tuple[Ends, tuple[Cell, ...]]:
    """The group that loses most, and every group: label -> candidate's and baseline's values.

    The high end is simultaneous, as in `bench.gate.cells`; p-values are against a loss of `margin`.

    Raises:
        Broken: relative to a baseline of 0 in a group.
    """
    split = alpha_high / len(cells)
    floor = within_variance({label: ours - theirs for label, (ours, theirs) in cells.items()})
    alike = not any((ours != theirs).any() for ours, theirs in cells.values())
    found, p_values = [], []
    for label, (ours, theirs) in cells.items():
        if alike:
            # No spread within any group to borrow from.
            ends = paired(ours, theirs, relative=relative, alpha_low=alpha_low, alpha_high=split)
            whole = float(theirs.mean()) if relative else 1.0
            p_values.append(max(0.0, 1 - margin * whole) ** len(ours))
        elif relative:
            ends = paired(ours, theirs, relative=True, alpha_low=alpha_low, alpha_high=split)
            p_values.append(p_mean_below(mean_of(ours - (1 - margin) * theirs, floor), 0.0))
        else:
            mean = mean_of(ours - theirs, floor)
            ends = (mean.value, *mean_limits(mean, alpha_low, split))
            p_values.append(p_mean_below(mean, -margin))
        found.append(Cell(label, len(ours), int(np.count_nonzero(theirs > 0)), *ends))
    told = tuple(
        Cell(c.label, c.n, c.positives, c.value, c.low, c.high, p)
        for c, p in zip(found, holm(p_values), strict=True)
    )
    values, lows, highs = zip(*((c.value, c.low, c.high) for c in told), strict=True)
    return (min(values), min(lows), min(highs)), told
