"""A list and what it was made of -> its receipt. Owns what is measured of each list, and how."""

from __future__ import annotations

import numpy as np

from server.fairness import kernels
from server.fairness.bounded import Bounded, search
from server.fairness.calibrate import divergence
from server.fairness.compile import CompiledPolicy
from server.fairness.discount import discounts
from server.fairness.types import (
    CalibrationGap,
    FairList,
    Float32,
    Float64,
    GroupExposure,
    Int32,
    PrefixViolation,
    ReasonCode,
    Receipt,
    Skip,
    Status,
    quickly,
)

_NOTHING_FIXED = np.empty(0, np.int32)
# Sums of the same numbers in another order differ by less, as a share.
_ROUNDING = 1e-12


def receipt_of(
    scores: Float32,
    by_score: Int32,
    members: Int32,
    compiled: CompiledPolicy,
    found: Bounded,
    ranks: Int32,
    *,
    shaped: bool,
    continued: bool,
) -> Receipt:
    """The receipt of a list.

    by_score: `[n]`, positions in score order. members: `[A, n]` rows. ranks: `[k]`, by score.
    shaped: whether the list was made of another order than that; continued: whether it goes on after
    earlier pages.
    """
    size = len(found.places)
    worth = discounts(size, compiled.policy.discount)
    lowest = kernels.lowest_score(scores)
    got = kernels.gained(scores, found.places, worth, lowest)
    ideal = kernels.gained(scores, by_score[:size], worth, lowest)
    items, shares = kernels.exposed(members, found.places, worth, len(compiled.labels))
    best = got
    if found.status is Status.MET:
        best = _best(
            scores,
            by_score,
            members,
            compiled,
            found,
            got,
            ideal,
            worth,
            lowest,
            shaped=shaped,
            continued=continued,
        )
    return receipt_with(
        compiled,
        found.status,
        found.violation,
        (got, ideal, best),
        kernels.places_moved(ranks),
        items,
        shares,
        calibration_of(by_score, members, compiled, found.places, worth),
    )


def receipt_with(
    compiled: CompiledPolicy,
    status: Status,
    violation: PrefixViolation | None,
    utilities: tuple[float, float, float],
    moved: int,
    items: Int32,
    shares: Float64,
    calibration: tuple[CalibrationGap, ...],
) -> Receipt:
    """What was measured, as a receipt.

    utilities: the DCG of the list, of score order and of the best list. items, shares: of each
    group `[R]`.
    """
    got, ideal, best = utilities
    told = zip(compiled.labels, items.tolist(), shares.tolist(), strict=True)
    fields = {
        **compiled.named,
        "status": status,
        "skip_reason": Skip.NOT_SKIPPED,
        "first_bad_prefix": violation,
        "utility_kept": _ratio(got, ideal),
        "places_moved": moved,
        # What GroupExposure(*one) comes to, in half the time.
        "exposure": tuple([tuple.__new__(GroupExposure, one) for one in told if one[1]]),
        "utility_of_best": _ratio(got, best) if status is Status.MET else 0.0,
        "calibration": calibration,
    }
    return quickly(Receipt, fields)


def as_scored(
    by_score: Int32,
    compiled: CompiledPolicy,
    skip: Skip,
    size: int,
    fixed: Int32,
    scores: Float32,
) -> FairList:
    """The list of a fair stage that had nothing to do: plain score order, after what was shown.

    by_score: `[n]`, positions in score order; fixed: `[m]`, those that take the first places.
    """
    places, ranks = by_score[:size].copy(), np.arange(1, size + 1, dtype=np.int32)
    reasons, kept = np.full(size, ReasonCode.SCORE, np.int8), 1.0
    if len(fixed):
        places = np.concatenate([fixed, by_score[~np.isin(by_score, fixed)]])[:size]
        ranks = kernels.ranks_among(by_score, places)
        reasons[ranks != np.arange(1, size + 1)] = ReasonCode.SHOWN_BEFORE
        worth, lowest = discounts(size, compiled.policy.discount), kernels.lowest_score(scores)
        kept = _ratio(
            kernels.gained(scores, places, worth, lowest),
            kernels.gained(scores, by_score[:size].copy(), worth, lowest),
        )
    receipt = Receipt(
        **compiled.named,  # type: ignore[arg-type]
        status=Status.SKIPPED,
        skip_reason=skip,
        first_bad_prefix=None,
        utility_kept=kept,
        places_moved=int(np.count_nonzero(reasons != ReasonCode.SCORE)),
        exposure=(),
    )
    return FairList(places, ranks, reasons, receipt)


def _ratio(got: float, best: float) -> float:
    # A best of 0 (or of NaN) has nothing to lose; what differs by rounding is the same; NaN stays.
    if not best > 0 or got == best or abs(got - best) <= _ROUNDING * best:
        return 1.0
    return got / best


def _best(
    scores: Float32,
    by_score: Int32,
    members: Int32,
    compiled: CompiledPolicy,
    found: Bounded,
    got: float,
    ideal: float,
    worth: Float64,
    lowest: float,
    *,
    shaped: bool,
    continued: bool,
) -> float:
    """No list that keeps the bounds has a larger DCG.

    The exact kernel's own lists are the best where there are floors alone or ceilings alone. With
    both, each of the two alone bounds what both together allow.
    """
    if not compiled.labels:
        return ideal
    if len(members) > 1:
        bound = found.bound
        if bound is None or shaped:
            _, _, bound = search(scores, members, by_score, compiled, len(worth))
        shift = lowest * float(worth.sum())
        slack = _ROUNDING * (abs(bound) + abs(shift))
        return bound - shift if bound - shift > got + slack else got
    both = compiled.has_floors and compiled.has_ceilings
    if not (both or shaped or continued):
        return got
    free = compiled.unbounded
    sides = [(compiled.floors, free[1] if both else compiled.ceilings)]
    if both:
        sides.append((free[0], compiled.ceilings))
    size = len(worth)
    return min(
        kernels.gained(
            scores,
            kernels.arrange(members[0], by_score, floors, ceilings, size, _NOTHING_FIXED)[0],
            worth,
            lowest,
        )
        for floors, ceilings in sides
    )


def calibration_of(
    by_score: Int32, members: Int32, compiled: CompiledPolicy, places: Int32, worth: Float64
) -> tuple[CalibrationGap, ...]:
    """How far plain score order and the list are from the user's shares."""
    gaps: list[CalibrationGap] = []
    for calibration, target in zip(compiled.calibrations, compiled.targets, strict=True):
        if not target.any():
            continue
        own = members[compiled.starts.index(calibration.start)] - calibration.start
        before, after = (
            divergence(
                target, np.bincount(own[part], weights=worth, minlength=len(target)) / worth.sum()
            )
            for part in (by_score[: len(places)], places)
        )
        gaps.append(CalibrationGap(calibration.group_table, before, after))
    return tuple(gaps)
