"""A claim of a list or its receipt, what became of it, and the measures that claims share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.verify.bounds import worth
from equipoise.v1 import recommendation_pb2 as pb

TOLERANCE = 1e-4
"""Scores travel as 32-bit floats."""


class Verdict(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    LIE = "lie"
    NOT_CHECKED = "not checked"
    MISSED = "missed"  # no lie, for no proof was claimed; but the list could have been better


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, what became of it, and why or with what numbers."""

    name: str
    verdict: Verdict
    told: str


def claim(name: str, broken: str, holds: str = "") -> Claim:
    """A claim that was checked: a lie where `broken` says why, else told with `holds`."""
    return Claim(name, Verdict.LIE if broken else Verdict.HOLDS, broken or holds)


def unchecked(name: str, why: str) -> Claim:
    """A claim that the evidence at hand does not decide."""
    return Claim(name, Verdict.NOT_CHECKED, why)


def close(a: float, b: float) -> bool:
    """Whether two numbers are one, as far as 32-bit floats tell."""
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def same_score(a: float, b: float) -> bool:
    """Whether two scores are one: however small they are."""
    return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-30)


def discounted(scores: Sequence[float], lowest: float, discount: str) -> float:
    """The sum of what scores are above the lowest, each times what its place is worth."""
    return sum(
        (score - lowest) * worth(discount, rank) for rank, score in enumerate(scores, start=1)
    )


def groups_told(message: pb.RankedItem | pb.ScoredCandidate) -> list[str]:
    """The groups that a message tells; where its two fields contradict, those of both: too many."""
    groups = list(message.groups)
    return groups if not message.group or groups == [message.group] else [*groups, message.group]


def rows_of(items: Sequence[pb.RankedItem]) -> Sequence[Sequence[str]]:
    """The groups of each place."""
    return [groups_told(item) for item in items]
