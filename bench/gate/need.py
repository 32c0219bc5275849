"""What a line needs, before any run: users, requests, blocks or pairs, and on which assumptions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.gate.asked import Asked, Evidence
from bench.gate.blocks import blocks_without_a_stall
from bench.gate.cells import within_variance
from bench.gate.documents import GroupPath, group_path
from bench.gate.load import LEAST_BLOCKS, quantile_of
from bench.gate.measured import Broken
from bench.gate.power import (
    requests_for_percentile,
    users_for_mean,
    users_per_group_for_gap,
    users_per_group_for_ratio,
)
from bench.gate.quality import group_values, per_user
from bench.gate.user_arrays import joined

ASSUMED_SPREAD = 0.3
"""Between users, of a score from 0 to 1 of which many are 0: a cautious guess."""
FOR_BLOCKS = 1.1
"""What independent requests lose by being judged over blocks: that they are so is not known."""
ASSUMED_SPREAD_OF_PAIRS = 0.1
"""Between pairs of runs, of the log ratio: 10 %."""


@dataclass(frozen=True)
class Need:
    """to_pass: how many `unit` for a release that is `effect` inside of the bound to pass as often
    as `power` says; to_fail: for one that is as far outside to fail. None where none can be told;
    then `assumed` says why. blocks: of time, for a pass."""

    unit: str
    effect: float | None = None
    to_pass: int | None = None
    to_fail: int | None = None
    assumed: str = ""
    blocks: int | None = None


def need_of(asked: Asked, pilot: Evidence) -> Need:
    """What the line needs. pilot: earlier results, to take spreads from; may be empty."""
    budget = asked.budget
    if budget.decide_on == "value":
        return Need({"load": "requests", "invariants": "checks"}.get(asked.kind, "users"))
    if asked.kind == "load":
        return _of_load(asked)
    if asked.kind != "quality":
        return Need("checks", assumed="no interval is taken of it")
    return _of_quality(asked, pilot)


def _effect(asked: Asked) -> float | None:
    if asked.budget.effect is not None:
        return asked.budget.effect
    return asked.budget.margin if asked.against == "baseline" else None


def _of_load(asked: Asked) -> Need:
    budget, levels = asked.budget, asked.levels
    if asked.against == "baseline":
        effect = _effect(asked)
        assert effect is not None
        spread = budget.spread or ASSUMED_SPREAD_OF_PAIRS
        told = f"a spread of {spread:g} between pairs" + ("" if budget.spread else ", a guess")
        if not asked.relative and budget.spread is None:
            return Need("pairs of runs", effect, assumed="declare spread, in the metric's unit")
        # On the scale of log ratios; the margin is what stands between no change and the bound.
        width = math.log1p(effect) if asked.relative else effect
        return Need(
            "pairs of runs", effect,
            max(users_for_mean(spread, width, levels.of_pass, budget.power), budget.min_pairs),
            max(users_for_mean(spread, width, levels.of_fail, budget.power), budget.min_pairs),
            told,
        )  # fmt: skip
    try:
        quantile = quantile_of(asked.path)
    except Broken as broken:
        return Need("requests", assumed=str(broken))
    allowed = budget.at_most if asked.path == "error_ratio" else None
    if quantile is None and not allowed:
        return Need("requests", assumed="no exact rule is known for it")
    at = quantile if quantile is not None else 1 - (allowed or 0.0)
    effect = budget.effect or (1 - at) / 2
    late = 1 - at - effect

    def needed(share: float, alpha: float, *, passes: bool) -> int | None:
        n = requests_for_percentile(at, share, alpha, budget.power, passes=passes)
        return None if n is None else math.ceil(n * FOR_BLOCKS)

    least = LEAST_BLOCKS
    if quantile is not None:
        least = max(least, blocks_without_a_stall(quantile, levels.of_pass))
    return Need(
        "requests", effect,
        needed(max(late, 0.0), levels.of_pass, passes=True),
        needed(min(1 - at + effect, 1.0), levels.of_fail, passes=False),
        "requests that do not depend on each other; more where late ones cluster",
        budget.min_blocks or least,
    )  # fmt: skip


def _of_quality(asked: Asked, pilot: Evidence) -> Need:
    budget, levels, power = asked.budget, asked.levels, asked.budget.power
    how = asked.path.rpartition(".")[2]
    unit = "users in each group" if how in ("worst", "worst_ratio", "worst_gap") else "users"
    effect = _effect(asked)
    if effect is None:
        return Need(unit, assumed="declare effect: how far from the bound it is to decide")
    spread, expected, groups, told = _assumed(asked, pilot)
    # What is searched among groups pays for the search; and to pass, no group may miss.
    compared = {"worst": groups, "worst_ratio": groups - 1, "worst_gap": groups - 1}.get(how, 1)
    pairs = groups * (groups - 1) if how in ("worst_ratio", "worst_gap") else groups
    passes = (levels.of_pass, 1 - (1 - power) / max(compared, 1))
    fails = (levels.of_fail / max(pairs, 1), power)
    if how == "worst_ratio":
        if expected is None:
            return Need(unit, effect, assumed="declare expected: the level that ratios rest on")
        bound = budget.at_least if budget.at_least is not None else (budget.at_most or 1.0)
        ratio = (spread, expected, bound, effect)
        return Need(
            unit, effect, users_per_group_for_ratio(*ratio, *passes),
            users_per_group_for_ratio(*ratio, *fails), told,
        )  # fmt: skip
    if how == "worst_gap":
        return Need(
            unit, effect, users_per_group_for_gap(spread, effect, *passes),
            users_per_group_for_gap(spread, effect, *fails), told,
        )  # fmt: skip
    width = effect
    if asked.against == "baseline" and asked.relative:
        if expected is None:
            return Need(unit, effect, assumed="declare expected: the baseline's level")
        width = effect * expected
    return Need(
        unit, effect, users_for_mean(spread, width, *passes), users_for_mean(spread, width, *fails),
        told,
    )  # fmt: skip


def _assumed(asked: Asked, pilot: Evidence) -> tuple[float, float | None, int, str]:
    """Spread between users, the level, how many groups, and where these come from."""
    spread, expected, groups = asked.budget.spread, asked.budget.expected, 1
    seen = _seen(asked, pilot)
    if seen is not None:
        spread, expected = spread or seen[0], expected or seen[1]
        groups = seen[2]
    told = "of the results given" if seen is not None else "a guess"
    told = "declared" if asked.budget.spread is not None else told
    among = f"; searched among {groups} groups" if groups > 1 else ""
    return (
        spread or ASSUMED_SPREAD, expected, groups,
        f"a spread of {spread or ASSUMED_SPREAD:.3g} between users ({told}){among}",
    )  # fmt: skip


def _seen(asked: Asked, pilot: Evidence) -> tuple[float, float, int] | None:
    """Spread, level and number of groups in earlier results; None where they do not tell."""
    results, before = pilot.of("quality"), pilot.before("quality")
    if not results or results[0].users is None:
        return None
    result, users = results[0], results[0].users
    try:
        groups: GroupPath | None = group_path(result, asked.path)
        metric = groups.metric if groups is not None else asked.path
        values = per_user(users, metric)
        if values is None:
            return None
        level = float(np.nanmean(values))
        if asked.against == "baseline":
            theirs = before[0].users if before else None
            baseline = per_user(theirs, metric) if theirs is not None else None
            if theirs is None or baseline is None:
                return None
            here, there = joined(users, theirs)
            level, values = float(np.nanmean(baseline)), values[here] - baseline[there]
            count = 1
            if groups is not None and groups.how is not None:
                count = len(group_values(result, users, groups, asked.budget.leave_out))
            return float(np.nanstd(values, ddof=1)), level, count
        if groups is None or groups.how is None:
            return float(np.nanstd(values, ddof=1)), level, 1
        members = group_values(result, users, groups, asked.budget.leave_out)
        cells = {label: values[of & np.isfinite(values)] for label, of in members.items()}
        return math.sqrt(within_variance(cells)), level, len(cells)
    except Broken:
        return None
