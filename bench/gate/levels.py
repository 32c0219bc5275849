"""How much each line may err: the file's error rates, split over lines and looks.

Two mistakes, two rules. A release passes only if *every* line passes, so a bad
release passes by mistake no oftener than its worst line does, and a pass needs
no split (an intersection-union test; Berger, Technometrics 1982). A release
fails if *any* line fails, so false alarms add up, and what a line may fail by
mistake is its share of `family_alpha` (Bonferroni). Looks add up for both.

>>> levels_of(tests=5, confidence=0.95, family_alpha=0.05, looks=1)
Levels(of_pass=0.025, of_fail=0.01)
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.gate.budgets import Budget, Budgets


@dataclass(frozen=True)
class Levels:
    """One-sided error rates of one line: of a pass, of a fail."""

    of_pass: float
    of_fail: float

    def of_ends(self, *, at_least: bool, at_most: bool) -> tuple[float, float]:
        """The one-sided error rates of an interval's low and high end.

        For a lower bound the low end passes and the high end fails; for an upper one the other
        way round; with both bounds each end takes the stricter rate.
        """
        if at_least and at_most:
            return min(self.of_pass, self.of_fail), min(self.of_pass, self.of_fail)
        return (self.of_pass, self.of_fail) if at_least else (self.of_fail, self.of_pass)


def levels_of(*, tests: int, confidence: float, family_alpha: float, looks: int) -> Levels:
    """The rates of one of `tests` lines."""
    of_pass = round((1 - confidence) / 2, 12)
    of_fail = min(of_pass, family_alpha / max(tests, 1))
    return Levels(of_pass / looks, of_fail / looks)


def tests_of(budget: Budget) -> int:
    """How many interval decisions a line makes: its bound, and its margin."""
    bound = budget.decide_on == "interval" and bool(budget.bound)
    return int(bound) + int(budget.margin is not None)


def levels(budgets: Budgets) -> Levels:
    """The rates of every line of a file."""
    return levels_of(
        tests=sum(tests_of(line) for line in budgets.budget),
        confidence=budgets.confidence,
        family_alpha=budgets.family_alpha,
        looks=budgets.looks,
    )
