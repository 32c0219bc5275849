"""Budgets and results -> pass, fail or not enough evidence: a pure function.

Owns how lines come together: those of the budgets (`bench.gate.decide`), and
those that every verdict has (`bench.gate.standing`, `seal`, `weaker`, `coverage`). Overall: any fail is a
fail; else any "not enough evidence" is that. Reads no file, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from bench.gate.asked import Evidence, asked_of
from bench.gate.budgets import Budgets
from bench.gate.coverage import coverage_lines
from bench.gate.decide import decide, line_of
from bench.gate.levels import levels
from bench.gate.lines import EXIT_CODES, Kind, Line, Status, Verdict, overall, plain
from bench.gate.measures import measure
from bench.gate.policies import policy_lines
from bench.gate.results import Result, check_kinds
from bench.gate.seal import Seal, digest_of, seal_line
from bench.gate.standing import BASELINE_LINE, BUNDLE_LINE, baseline_line, same_bundle
from bench.gate.weaker import weaker_lines
from bench.refused import InputRefused

__all__ = [
    "BASELINE_LINE",
    "BUNDLE_LINE",
    "EXIT_CODES",
    "Kind",
    "Line",
    "Status",
    "Verdict",
    "evaluate",
    "overall",
    "plain",
]


def evaluate(
    budgets: Budgets,
    results: Sequence[Result],
    *,
    today: date,
    bundle_id: str | None = None,
    baseline: Sequence[Result] = (),
    look: int = 1,
    seal: Seal | None = None,
    last_release: Budgets | None = None,
) -> Verdict:
    """The verdict on `results`.

    today: against which lines expire. bundle_id: the bundle that is to be released; when None,
    all results must still be of one. baseline: results of the release to compare with. look: which
    of the declared looks this is. seal: what the budgets' digest must be. last_release: the
    budgets of the release before, than which these may not be weaker without a reason.

    Raises:
        InputRefused: no result, two of one kind other than loads, or a look beyond those declared.
    """
    check_kinds(results)
    if baseline:
        check_kinds(baseline)
    if not 1 <= look <= budgets.looks:
        raise InputRefused(
            "--look", "", f"got {look}; the budgets declare looks = {budgets.looks}, and pay for "
            "no more",
        )  # fmt: skip
    evidence, rates = Evidence(results, baseline), levels(budgets)
    lines = [same_bundle(results, bundle_id)]
    against = baseline_line(evidence, budgets)
    if against is not None:
        lines.append(against.line)
    if seal is not None:
        lines.append(seal_line(budgets, seal, results))
    if last_release is not None:
        lines += weaker_lines(budgets, last_release)
    for budget in budgets.budget:
        for asked in asked_of(budget, rates, budgets.confidence):
            seen = measure(evidence, asked)
            decided = decide(asked, seen, today, same=against is not None and against.same)
            lines.append(line_of(asked, seen, decided))
    lines += policy_lines(budgets, results)
    lines += coverage_lines(budgets, lines)
    return Verdict(
        status=overall([line.status for line in lines]),
        lines=tuple(lines),
        budgets=budgets.name,
        bundle_id=bundle_id or results[0].bundle_id,
        budgets_sha256=digest_of(budgets),
        baseline=baseline[0].bundle_id if baseline else None,
        look=look,
        looks=budgets.looks,
    )
