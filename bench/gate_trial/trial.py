"""Candidates against a baseline, each judged by the gate: which line saw what.

Owns the verdicts and the table; `bench.gate_trial.measured` owns the measuring.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gate.lines import Status
from bench.gate.record import Inputs
from bench.gate.verdict import Verdict
from bench.gate_trial.measured import invariants, turns
from bench.progress import bar
from bench.refused import InputRefused
from bench.served import serving
from bench.whole import write_whole


@dataclass(frozen=True)
class Trial:
    """How much is measured of each candidate. budgets: with the policies' digests in it."""

    baseline: Path
    quality: Path
    budgets: Path
    pairs: int
    seconds: float
    examples: int
    seed: int


@dataclass(frozen=True)
class Row:
    """One candidate: what was planted, the verdict, the lines that failed, and whether it is as it should be.

    seen_by: the line that must fail, "" for none. undecided: lines without enough evidence. lines: what each said.
    """

    name: str
    told: str
    seen_by: str
    status: str
    failed: tuple[str, ...]
    undecided: tuple[str, ...]
    lines: dict[str, str]

    @property
    def right(self) -> bool:
        """A fault is seen by its line; where nothing was planted, nothing fails."""
        return self.seen_by in self.failed if self.seen_by else not self.failed


def budgets_with_policies(
    template: Path, quality: Path, out: Path, policies: Sequence[str]
) -> Path:
    """The budgets, and the baseline's own digests of these policies.

    Raises:
        InputRefused: the evaluation tells no digest of one.
    """
    told = json.loads(quality.read_text())["policies"]
    lines = []
    for name in policies:
        digest = told.get(name.replace("-", "_"), {}).get("digest")
        if not isinstance(digest, str):
            raise InputRefused(str(quality), f"policies.{name}.digest", "is missing")
        lines.append(f'{name} = "{digest}"')
    named = "\n".join(["", "[policies]", *lines, ""]) if lines else ""
    text = template.read_text() + named
    tomllib.loads(text)
    write_whole(out, text)
    return out


def judged(trial: Trial, bundle: Path, quality: Path, folder: Path, number: int) -> Verdict:
    """Serve candidate and baseline, load them by turns, check the theorems, ask the gate."""
    with ExitStack() as stack:
        theirs = stack.enter_context(serving(folder / "baseline.log", "--bundle", trial.baseline))
        ours = stack.enter_context(serving(folder / "candidate.log", "--bundle", bundle))
        show = stack.enter_context(bar(f"{folder.name}: loads", trial.pairs))
        loads, before = turns(
            theirs,
            ours,
            folder / "loads",
            trial.pairs,
            trial.seconds,
            trial.seed + 100 * number,
            show,
        )
        checked = invariants(
            ours.target, bundle, folder / "invariants.json", trial.examples, trial.seed
        )
    inputs = Inputs(
        trial.budgets, (quality, checked, *loads), (trial.quality, *before),
        today=datetime.now(UTC).date(),
    )  # fmt: skip
    return inputs.verdict()


def row_of(name: str, told: str, seen_by: str, verdict: Verdict) -> Row:
    """What the verdict says of the candidate."""

    def having(status: Status) -> tuple[str, ...]:
        return tuple(line.metric for line in verdict.lines if line.status is status)

    return Row(
        name, told, seen_by, verdict.status.value, having(Status.FAIL), having(Status.NOT_ENOUGH),
        {line.metric: line.why for line in verdict.lines},
    )  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """For people: one line a candidate."""
    lines = [f"{'planted':<12}{'what it is':<34}{'verdict':<20}seen by"]
    for row in rows:
        own = "ok" if row.right else "NOT AS IT SHOULD BE"
        seen = ", ".join(row.failed) or "-"
        lines.append(f"{row.name:<12}{row.told:<34}{row.status:<20}{seen}  [{own}]")
        if row.seen_by and not row.right:
            lines.append(
                f"{'':<12}should have been seen by {row.seen_by}: {row.lines.get(row.seen_by, 'no such line')}"
            )
    return "\n".join(lines)


def document(rows: Sequence[Row], trial: Trial) -> dict[str, Any]:
    """For machines."""
    return {
        "kind": "gate-trial",
        "schema_version": 1,
        "pairs": trial.pairs,
        "seconds": trial.seconds,
        "seed": trial.seed,
        "rows": [asdict(row) | {"right": row.right} for row in rows],
    }
