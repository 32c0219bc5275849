"""Exposure over many lists: a boost for each provider, from what all lists so far gave it.

Owns the counters' arithmetic and two controllers. The boost is added to the scores before
the exact stage, so every list still keeps its bounds. A provider is a group, a row of the
counters. Pure: a boost depends on nothing but the summed exposure, so merging workers is
addition and a restart goes on with the same boosts.

P-MMF: Xu, Chen, Xu, Li, Zhang, Guo: "P-MMF: Provider Max-min Fairness Re-ranking in
Recommender System", WWW 2023. Lists are to maximise

    sum of scores + strength * min_p (e_p / target_p),    e: exposure; target: shares.

The score of p's items is lowered by its dual mu_p, which is feasible iff, for every set S of
providers, sum_{p in S} target_p mu_p >= -strength. Over all S the least sum is that of the
negative terms, so the 2^P constraints are one: sum_p max(0, -target_p mu_p) <= strength. In
z_p = target_p mu_p, whose norm the paper takes, the projection leaves positive z alone and
takes the rest to a simplex: no quadratic program, and no sorting (Michelot, JOTA 1986).

The paper takes a projected step after each list. Here the steps are summed and projected
once (dual averaging: Nesterov, 2009; Xiao, 2010), which has a regret of the same order. With
X the exposure of all lists and E_p that of p, the summed gradient is target_p X - E_p, so the
dual is the projection of z_p = step * (E_p / target_p - X), and the state is the counters. A
target is a share to reach, not a cap, so mu > 0, the price of the paper's cap e <= target,
is left out. What remains is water poured over the providers' exposure per target:

    boost_p = step * max(0, level - E_p / target_p) / target_p

where level is as high as strength / step of water reaches, and at most X.

FairCo: Morik, Singh, Hong, Joachims: "Controlling Fairness and Bias in Dynamic
Learning-to-Rank", SIGIR 2020, section 6: proportional to how far each is behind the one that
is treated best.

>>> exposure = np.zeros(3)
>>> accumulate(exposure, np.int32([0, 0, 1]), np.array([1.0, 0.625, 0.5]))
>>> exposure.tolist()
[1.625, 0.5, 0.0]
>>> shares = np.array([0.5, 0.25, 0.25])
>>> p_mmf_boost(exposure, shares, 0.125, 0.0625).tolist()  # two of water, and one is behind by 2
[0.0, 0.0, 0.5]
>>> fair_co_boost(exposure, shares, 0.0625).tolist()
[0.0, 0.078125, 0.203125]
"""

from __future__ import annotations

import numpy as np

from server.fairness.types import Float64, Int32
from server.jit import kernel

# Of so many providers the level is guessed from one in so many.
_MANY, _APART = 64, 16

GRID = 2.0**-20
"""Exposure is counted in whole multiples of this; see `accumulate`."""


@kernel
def accumulate(exposure: Float64, groups: Int32, discounts: Float64) -> None:
    """Add one list's exposure to `exposure [P]`, in place.

    groups: `[k] int32`, the groups of the list's items, best place first. discounts: `[>= k]`.

    Each discount is rounded to `GRID`. Sums below 2**33 are exact then, whatever their order:
    workers that are merged in any order have the same bits as one worker that did it all.

    Raises:
        IndexError: a group is no row of `exposure`, or there are too few discounts; nothing is added.
    """
    if groups.shape[0] > discounts.shape[0]:
        raise IndexError("fewer discounts than items")
    for place in range(groups.shape[0]):
        if groups[place] < 0 or groups[place] >= exposure.shape[0]:
            raise IndexError("a group is no row of the exposure counters")
    for place in range(groups.shape[0]):
        exposure[groups[place]] += np.rint(discounts[place] / GRID) * GRID


# Sums run in four lanes, in a fixed order: one alone waits for each addition, and an order that the
# compiler may choose would have other bits on other machines.


@kernel
def _sums(exposure: Float64, targets: Float64) -> tuple[float, float]:
    a = b = c = d = 0.0
    e = f = g = h = 0.0
    whole = exposure.shape[0] // 4 * 4
    for p in range(0, whole, 4):
        a += exposure[p]
        b += exposure[p + 1]
        c += exposure[p + 2]
        d += exposure[p + 3]
        e += targets[p]
        f += targets[p + 1]
        g += targets[p + 2]
        h += targets[p + 3]
    for p in range(whole, exposure.shape[0]):
        a += exposure[p]
        e += targets[p]
    return (a + b) + (c + d), (e + f) + (g + h)


@kernel
def _lowest(values: Float64) -> float:
    a = b = c = d = np.inf
    whole = values.shape[0] // 4 * 4
    for p in range(0, whole, 4):
        a = values[p] if values[p] < a else a
        b = values[p + 1] if values[p + 1] < b else b
        c = values[p + 2] if values[p + 2] < c else c
        d = values[p + 3] if values[p + 3] < d else d
    for p in range(whole, values.shape[0]):
        a = values[p] if values[p] < a else a
    return min(a, b, c, d)


@kernel
def _below(heights: Float64, level: float) -> tuple[float, int]:
    """The sum of the heights below a level, and how many they are."""
    a = b = c = d = 0.0
    whole = heights.shape[0] // 4 * 4
    for p in range(0, whole, 4):
        a += heights[p] if heights[p] < level else 0.0
        b += heights[p + 1] if heights[p + 1] < level else 0.0
        c += heights[p + 2] if heights[p + 2] < level else 0.0
        d += heights[p + 3] if heights[p + 3] < level else 0.0
    for p in range(whole, heights.shape[0]):
        a += heights[p] if heights[p] < level else 0.0
    n_wet = 0
    for p in range(heights.shape[0]):
        n_wet += heights[p] < level
    return (a + b) + (c + d), n_wet


@kernel
def _fallen(heights: Float64, water: float, level: float) -> float:
    """The level to which one that is not too low falls: by Newton's method on a convex piecewise
    linear function, from the right. O(P) a step, and a few steps."""
    while True:
        total, n_wet = _below(heights, level)
        if n_wet == 0 or (water + total) / n_wet >= level:
            return level
        level = (water + total) / n_wet


@kernel
def _water_level(heights: Float64, water: float, top: float) -> float:
    """The level L <= top with sum_p max(0, L - heights_p) = water, or `top` where water is left.

    inf is above any water.
    """
    n = heights.shape[0]
    if n >= _MANY:
        # The level of some of them is near that of all. From any level, above or below, one step of
        # the method comes to a level that is not too low.
        some = heights[::_APART].copy()
        share = water * some.shape[0] / n
        guess = _fallen(some, share, min(top, _lowest(some) + share))
        total, n_wet = _below(heights, guess)
        if n_wet > 0:
            return _fallen(heights, water, min(top, (water + total) / n_wet))
    return _fallen(heights, water, min(top, _lowest(heights) + water))


@kernel
def project_dual(dual: Float64, targets: Float64, strength: float) -> Float64:
    """The feasible dual nearest to `dual [P]`, `[P] float64`; `targets [P]` all positive.

    argmin_mu sum_p target_p^2 (mu_p - dual_p)^2 over the mu with sum_{p in S} target_p mu_p >=
    -strength for every S: the paper's step, which `p_mmf_boost` has in closed form.
    """
    heights = dual * targets
    level = _water_level(heights, strength, 0.0)
    nearest = dual.copy()
    for p in range(heights.shape[0]):
        if heights[p] < 0.0:
            nearest[p] = -max(0.0, level - heights[p]) / targets[p]
    return nearest


@kernel
def _poured(exposure: Float64, targets: Float64, strength: float, step: float) -> Float64:
    """`p_mmf_boost` where all targets are more than 0."""
    n = exposure.shape[0]
    boost = np.zeros(n, np.float64)
    if n == 0 or strength <= 0.0 or step <= 0.0:
        return boost
    ratios = exposure / targets
    given, wanted = _sums(exposure, targets)
    level = _water_level(ratios, strength / step, given / wanted)
    for p in range(n):
        if ratios[p] < level:
            boost[p] = min(step * (level - ratios[p]), strength) / targets[p]
    return boost


@kernel
def p_mmf_boost(exposure: Float64, targets: Float64, strength: float, step: float) -> Float64:
    """What to add to the scores of each provider's items, `[P] float64`.

    exposure: `[P]`, summed over all lists. targets: `[P]`, shares that sum to 1; a provider of
    target 0 is out of it: it counts nowhere and gets 0. strength: what the lists' scores may pay
    for the minimum. step: score for a unit of exposure per target that a provider is behind.

    0 <= boost_p <= strength / target_p, and sum_p target_p boost_p <= strength. target_p boost_p
    falls with E_p / target_p and with nothing else of p: who has less for its target gets at least
    as much, equals get the same, numbering is of no account, and who is at or above the mean ratio
    gets 0. More exposure never raises one's own boost.

    A provider whose items are never candidates is behind for ever, and in the end takes all of
    `strength`, to no effect: give it target 0.
    """
    n = exposure.shape[0]
    n_part = 0
    for p in range(targets.shape[0]):
        n_part += targets[p] > 0.0
    if n_part == n:
        return _poured(exposure, targets, strength, step)
    boost = np.zeros(n, np.float64)
    part = np.flatnonzero(targets > 0.0)
    boost[part] = _poured(exposure[part], targets[part], strength, step)
    return boost


@kernel
def fair_co_boost(exposure: Float64, targets: Float64, strength: float) -> Float64:
    """What to add to the scores of each provider's items, `[P] float64`.

    boost_p = strength * (max_q E_q / target_q - E_p / target_p); 0 for the one that is treated best.
    A provider of target 0 is out of it, as in `p_mmf_boost`. Here E is summed where the paper has
    means, as its factor tau - 1 does. It has no bound: who stays behind is raised until it is
    first, and the largest gap of mean exposure shrinks as 1 / lists.
    """
    n = exposure.shape[0]
    ratios = exposure / targets
    most = -np.inf
    for p in range(n):
        if targets[p] > 0.0 and ratios[p] > most:
            most = ratios[p]
    boost = np.zeros(n, np.float64)
    for p in range(n):
        if targets[p] > 0.0:
            boost[p] = strength * (most - ratios[p])
    return boost


def warm_up() -> None:
    """Compile every kernel (or load it from the cache), for the types that a server gives them."""
    exposure, targets = np.ones(2), np.full(2, 0.5)
    groups, discounts = np.zeros(1, np.int32), np.ones(1)
    accumulate(exposure, groups, discounts)
    discounts.flags.writeable = False  # as those of `server.fairness.metrics`
    accumulate(exposure, groups, discounts)
    p_mmf_boost(exposure, targets, 1.0, 1.0)
    fair_co_boost(exposure, targets, 1.0)
