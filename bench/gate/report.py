"""The verdict for people and for machines: text, markdown, JUnit, JSON. Decides nothing."""

from __future__ import annotations

import json
from typing import Any

from junitparser import Error, Failure, JUnitXml, TestCase, TestSuite
from rich.console import Console
from rich.markup import escape

from bench.gate.measured import Cell
from bench.gate.verdict import Line, Status, Verdict, plain

SCHEMA_VERSION = 1
MOST_CELLS = 5
"""Groups that a terminal and a merge request are told; the JSON has all."""
_WIDEST = max(len(status.value) for status in Status)
_HOWS = {"worst_ratio": "over the best other", "worst_gap": "below the best other"}
_COLOURS = {Status.PASS: "green", Status.FAIL: "red", Status.NOT_ENOUGH: "yellow"}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _counted(line: Line) -> str:
    unit = line.unit.removesuffix("s") if line.n == 1 else line.unit
    return f"{line.n:,} {unit}"


def seen_text(line: Line) -> str:
    """Value, interval and evidence in one cell.

    >>> seen_text(Line("m", Status.PASS, "<= 1", "", "", 0.5, 0.4, 0.6, 12, "users"))
    '0.5 [0.4, 0.6], 12 users'
    """
    if line.value is None:
        return "-" if not line.n else _counted(line)
    interval = "" if line.low is None else f" [{_number(line.low)}, {_number(line.high)}]"
    return f"{_number(line.value)}{interval}, {_counted(line)}"


def cells_text(line: Line) -> str:
    """The groups behind a line that did not pass, the worst first; empty where there are none.

    >>> cells = (Cell("a", 40, 9, 0.8, 0.7, 0.9), Cell("b", 31, 4, 0.5, 0.3, 0.7, 0.0123))
    >>> told = Line("quality.groups.age.m.worst_ratio", Status.FAIL, "", "", "", cells=cells)
    >>> cells_text(told)
    "groups (over the best other): 'b' 0.5 [0.3, 0.7] n 31 p 0.012; 'a' 0.8 [0.7, 0.9] n 40"
    """
    if line.status is Status.PASS or not line.cells:
        return ""
    how, last = "value", line.metric.rpartition(".")[2]
    # Of a document without per-user arrays a cell has the group's own value.
    compared = line.cells[0].positives is not None
    if line.kind == "margin":
        how = "against the baseline"
    elif compared and last in _HOWS:
        how = _HOWS[last]
    ordered = sorted(line.cells, key=lambda cell: cell.value, reverse=how == _HOWS["worst_gap"])
    told = [
        f"{cell.label!r} {_number(cell.value)}"
        + ("" if cell.low is None else f" [{_number(cell.low)}, {_number(cell.high)}]")
        + f" n {cell.n:,}"
        + ("" if cell.p_holm is None else f" p {cell.p_holm:.2g}")
        for cell in ordered[:MOST_CELLS]
    ]
    if len(ordered) > MOST_CELLS:
        told.append(f"{len(ordered) - MOST_CELLS} more")
    return f"groups ({how}): {'; '.join(told)}"


def summary(verdict: Verdict) -> str:
    """The verdict in one sentence."""
    counts = ", ".join(
        f"{verdict.count(status)} {status.value}" for status in Status if verdict.count(status)
    )
    return f"{verdict.status.value.upper()}: {verdict.bundle_id} against '{verdict.budgets}' ({counts})"


def print_lines(verdict: Verdict, console: Console) -> None:
    """Two rows a line: verdict and metric, then what was seen; what did not pass with its reason.

    No table: metric names are longer than a terminal or a CI log is wide.
    """
    for line in verdict.lines:
        colour = _COLOURS[line.status]
        console.print(
            f"[{colour}]{line.status.value:<{_WIDEST}}[/]  {escape(line.metric)}", soft_wrap=True
        )
        told = [seen_text(line), f"bound {line.bound}", line.why]
        if line.status is not Status.PASS:
            told += [
                *filter(None, [cells_text(line)]),
                line.reason,
                *([f"Ask: {line.owner}."] if line.owner else []),
            ]
        for text in ("; ".join(told[:3]), *told[3:]):
            console.print(" " * (_WIDEST + 2) + text, markup=False, soft_wrap=True)
    console.print(f"[bold {_COLOURS[verdict.status]}]{escape(summary(verdict))}[/]", soft_wrap=True)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def as_markdown(verdict: Verdict) -> str:
    """The verdict as a page for a merge request."""
    rows = [
        f"| {line.status.value} | `{_cell(line.metric)}` | {_cell(seen_text(line))} | "
        f"{_cell(line.bound)} | {_cell('; '.join(filter(None, [line.why, cells_text(line)])))} | {_cell(line.reason)} |"
        for line in verdict.lines
    ]
    head = (
        "| verdict | metric | seen | bound | why | the bound's reason |\n|---|---|---|---|---|---|"
    )
    return "\n".join([f"**{_cell(summary(verdict))}**", "", head, *rows, ""])


def as_junit(verdict: Verdict) -> str:
    """One test case a line. Not enough evidence is an error, so that no CI takes it for a pass."""
    suite = TestSuite(f"equipoise gate: {verdict.budgets}")
    for line in verdict.lines:
        case = TestCase(line.metric, classname=f"gate.{verdict.budgets}")
        text = f"{seen_text(line)}; bound {line.bound}; {line.why}"
        if line.status is Status.FAIL:
            case.result = [Failure(text, "fail")]
        elif line.status is Status.NOT_ENOUGH:
            case.result = [Error(text, "not enough evidence")]
        else:
            case.system_out = text
        suite.add_testcase(case)
    suite.add_property("bundle_id", verdict.bundle_id)
    report = JUnitXml()
    report.add_testsuite(suite)
    report.update_statistics()  # type: ignore[no-untyped-call]
    text = report.tostring()  # type: ignore[no-untyped-call]
    return text.decode() if isinstance(text, bytes) else str(text)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain data; an infinite number is the text "inf"."""
    return {
        "kind": "verdict",
        "schema_version": SCHEMA_VERSION,
        "bundle_id": verdict.bundle_id,
        "budgets": verdict.budgets,
        "status": verdict.status.value,
        "exit_code": verdict.exit_code,
        "budgets_sha256": verdict.budgets_sha256,
        "baseline": verdict.baseline,
        "look": verdict.look,
        "looks": verdict.looks,
        "lines": [
            {
                "metric": line.metric,
                "status": line.status.value,
                "value": plain(line.value),
                "low": plain(line.low),
                "high": plain(line.high),
                "n": line.n,
                "unit": line.unit,
                "bound": line.bound,
                "why": line.why,
                "reason": line.reason,
                "owner": line.owner,
                "kind": line.kind,
                "low_bound": line.low_bound,
                "high_bound": line.high_bound,
                "relative": line.relative,
                "bound_unit": line.bound_unit,
                "alpha_low": line.alpha_low,
                "alpha_high": line.alpha_high,
                "needed": line.needed,
                "effective_n": line.effective_n,
                "blocks": line.blocks,
                "weaker_because": line.weaker_because,
                "cells": [_cell_json(cell) for cell in line.cells],
            }
            for line in verdict.lines
        ],
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {
        "label": cell.label,
        "n": cell.n,
        "positives": cell.positives,
        "value": plain(cell.value),
        "low": plain(cell.low),
        "high": plain(cell.high),
        "p_holm": plain(cell.p_holm),
    }


def json_text(verdict: Verdict) -> str:
    """`as_json` as text."""
    return json.dumps(as_json(verdict), indent=1, allow_nan=False) + "\n"
