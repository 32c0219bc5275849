"""What a line asks of the results: which metric, against what, at which error rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.gate.budgets import Budget
from bench.gate.facts import facts_of
from bench.gate.levels import Levels
from bench.gate.results import Result

Against = Literal["bound", "baseline"]


@dataclass(frozen=True)
class Evidence:
    """All results: of the candidate, and of the baseline where there is one."""

    candidate: Sequence[Result]
    baseline: Sequence[Result] = ()

    def of(self, kind: str) -> list[Result]:
        """The candidate's results of one kind."""
        return [result for result in self.candidate if result.kind == kind]

    def before(self, kind: str) -> list[Result]:
        """The baseline's results of one kind."""
        return [result for result in self.baseline if result.kind == kind]


@dataclass(frozen=True)
class Asked:
    """One decision of a line: on its bound, or against the baseline.

    confidence: what a result's own intervals must have. low_bound, high_bound: what the value must
    keep; for a margin, of the difference from the baseline.
    """

    budget: Budget
    against: Against
    levels: Levels
    confidence: float
    better: Literal["higher", "lower"] = "higher"

    @property
    def kind(self) -> str:
        """Of the result that has the metric."""
        return self.budget.metric.partition(".")[0]

    @property
    def path(self) -> str:
        """Where in that result."""
        return self.budget.metric.partition(".")[2]

    @property
    def relative(self) -> bool:
        """Whether the difference is a share of the baseline's value."""
        return self.budget.margin_is == "relative"

    @property
    def low_bound(self) -> float | None:
        """The lowest value allowed."""
        if self.against == "bound":
            return self.budget.at_least
        assert self.budget.margin is not None
        return -self.budget.margin if self.better == "higher" else None

    @property
    def high_bound(self) -> float | None:
        """The highest value allowed."""
        if self.against == "bound":
            return self.budget.at_most
        return self.budget.margin if self.better == "lower" else None

    @property
    def alphas(self) -> tuple[float, float]:
        """One-sided error rates of the low and the high end of the interval."""
        return self.levels.of_ends(
            at_least=self.low_bound is not None, at_most=self.high_bound is not None
        )

    def keeps(self, value: float) -> bool:
        """Whether a value keeps the bounds."""
        low, high = self.low_bound, self.high_bound
        return (low is None or value >= low) and (high is None or value <= high)


def asked_of(budget: Budget, levels: Levels, confidence: float) -> list[Asked]:
    """The decisions of a line, one or two."""
    facts = facts_of(budget.metric)
    better = (facts.better if facts is not None else budget.direction) or "higher"
    against: list[Against] = []
    if budget.bound:
        against.append("bound")
    if budget.margin is not None:
        against.append("baseline")
    return [Asked(budget, one, levels, confidence, better) for one in against]
