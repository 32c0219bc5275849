"""Lines that no budget file has to ask for: of which bundles, and what must be covered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.gate.asked import Evidence
from bench.gate.budgets import Budgets
from bench.gate.lines import Line, Status
from bench.gate.results import Result

BUNDLE_LINE = "bundle_id"
BASELINE_LINE = "baseline"


def _one_bundle(results: Sequence[Result]) -> str:
    """Why the results are not of one bundle; empty if they are."""
    bundles = sorted({result.bundle_id for result in results})
    models = sorted({result.model_digest for result in results if result.model_digest})
    if len(bundles) > 1:
        told = ", ".join(dict.fromkeys(f"{result.kind}: {result.bundle_id}" for result in results))
        return f"the results are of different bundles: {told}"
    if len(models) > 1:
        return f"the results name different models: {', '.join(models)}"
    return ""


def same_bundle(results: Sequence[Result], bundle_id: str | None) -> Line:
    """The line that every verdict has: all results speak of one bundle, and of the right one."""
    bundle = results[0].bundle_id
    status, why = Status.PASS, f"every result is of {bundle}"
    if told := _one_bundle(results):
        status, why = Status.FAIL, told
    elif bundle_id is not None and bundle != bundle_id:
        status, why = Status.FAIL, f"the results are of {bundle}"
    return Line(
        BUNDLE_LINE,
        status,
        bound=f"= {bundle_id}" if bundle_id else "one bundle",
        why=why,
        reason="A verdict on one bundle must not rest on what was measured of another.",
        n=len(results),
        unit="results",
        kind="bundle",
    )


@dataclass(frozen=True)
class Against:
    """The baseline's line, and whether it is the candidate itself and meant to be."""

    line: Line
    same: bool


def baseline_line(evidence: Evidence, budgets: Budgets) -> Against | None:
    """Whether the baseline is one other bundle; None where no line and no result speaks of one."""
    wanted = any(line.margin is not None for line in budgets.budget)
    before = evidence.baseline
    if not before and not wanted:
        return None
    declared, same = budgets.baseline_may_be_candidate, False
    if not before:
        status, why = Status.FAIL, "a line has a margin, but no result of a baseline was given"
    elif told := _one_bundle(before):
        status, why = Status.FAIL, told
    elif not wanted:
        status, why = Status.PASS, f"compared with nothing: no line has a margin ({_name(before)})"
    else:
        status, why = Status.PASS, f"every result of the baseline is of {_name(before)}"
        mine = evidence.candidate[0]
        same = before[0].bundle_id == mine.bundle_id
        digest = mine.model_digest
        if same and not declared:
            status = Status.FAIL
            why = (
                f"the baseline is the candidate itself, {_name(before)}: it compares nothing; "
                "baseline_may_be_candidate = true declares an A/A run"
            )
        elif same:
            why = f"the baseline is the candidate itself, {_name(before)}, as declared"
        elif digest and digest in {result.model_digest for result in before}:
            why += "; its model is the candidate's own"
    return Against(
        Line(
            BASELINE_LINE,
            status,
            bound="another bundle" if not declared else "one bundle, the candidate allowed",
            why=why,
            reason="A margin is a comparison; with nothing, or with itself, it holds always.",
            n=len(before),
            unit="results",
            kind="baseline",
        ),
        same=same and declared,
    )


def _name(results: Sequence[Result]) -> str:
    return results[0].bundle_id
