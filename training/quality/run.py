"""A quality run from its first row to the document, each row kept as soon as it is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from server.errors import Refused, listed
from training.baselines import BASELINES
from training.checkpoints import work_path, write_whole
from training.fair_training import check_attribute
from training.quality.ablation import ablation_entry
from training.quality.document import document
from training.quality.kept import Entry, Kept, code_digest
from training.quality.measured import Asked, baseline_entry, model_entry
from training.quality.policies import policy_entry
from training.quality.rows import PAIRS, SHIPPED, Row, model_rows
from training.settings import SequenceSettings, TrainSettings
from training.task import OnStep

ABLATION, POLICIES = "ablation", "policies"


@dataclass(frozen=True)
class Plan:
    """What a run is asked for. only: names of rows besides the baselines; empty is all of them."""

    settings: TrainSettings
    sequence: SequenceSettings
    fair_by: str | None = None
    only: tuple[str, ...] = ()
    seeds: int = 3
    resamples: int = 2000
    seed: int = 20

    def rows(self) -> list[Row]:
        """The models that are wanted.

        Raises:
            Refused: a name that is none.
        """
        rows = model_rows(self.settings, self.sequence, self.fair_by)
        known = [row.name for row in rows] + [ABLATION, POLICIES]
        for name in self.only:
            if name not in known:
                raise Refused(f"--rows: there is no row {name!r}; there are: {listed(known)}")
        return [row for row in rows if self.wants(row.name)]

    def wants(self, name: str) -> bool:
        """Whether the part is to be measured."""
        return not self.only or name in self.only


def run(asked: Asked, plan: Plan, out: Path, console: Console, on_step: OnStep) -> dict[str, Any]:
    """Measure what is not measured yet, and make the document of all."""
    if plan.fair_by is not None:
        check_attribute(asked.prepared.dataset, plan.fair_by)
    rows = plan.rows()
    policies = plan.wants(POLICIES) and any(row.name in (SHIPPED, PAIRS) for row in rows)
    total = len(BASELINES) + len(rows) + plan.wants(ABLATION) + policies
    progress = _Progress(Kept(out / "rows"), _key(asked), console, total)

    baselines = {
        one.name: progress.kept(
            one.name, {}, one.title, partial(baseline_entry, one, asked, on_step)
        )
        for one in BASELINES
    }
    models = {}
    trainer = _Trainer(rows, asked, out / "bundles", on_step)
    for row in rows:
        models[row.name] = (
            row,
            progress.kept(
                row.name,
                {"row": asdict(row)},
                row.title,
                partial(trainer.entry, row),
            ),
        )
    ablation = None
    if plan.wants(ABLATION):
        ablation = progress.kept(
            ABLATION,
            {"settings": asdict(plan.settings), "seeds": plan.seeds},
            "feature groups and seeds",
            lambda: ablation_entry(asked.prepared, plan.settings, plan.seeds),
        )
    costs = None
    if policies:
        shown = SHIPPED if SHIPPED in models else PAIRS
        costs = progress.kept(
            POLICIES,
            {"row": asdict(models[shown][0])},
            "policies",
            lambda: policy_entry(out / "bundles" / shown, asked, on_step),
        )
    return document(
        asked, baselines, models, ablation, costs, resamples=plan.resamples, seed=plan.seed
    )


def _key(asked: Asked) -> dict[str, Any]:
    split = asked.prepared.split
    return {
        "data": asked.prepared.dataset.digest(),
        "cuts_ms": [split.train_until_ms, split.validation_until_ms, split.test_until_ms],
        "k": asked.k,
        "code": code_digest(),
        "torch": torch.__version__,
    }


class _Trainer:
    """Trains rows into a folder of bundles, each with the key of what is in it beside it."""

    def __init__(self, rows: list[Row], asked: Asked, out: Path, on_step: OnStep) -> None:
        self._rows = {row.name: row for row in rows}
        self._asked = asked
        self._out = out
        self._on_step = on_step

    def entry(self, row: Row) -> Entry:
        """What a run of the same code and data left half done goes on; what another left is removed."""
        bundle, marker = self._out / row.name, self._marker(row)
        key = self._key_text(row)
        same = _text(marker) == key
        if not same:
            shutil.rmtree(work_path(bundle), ignore_errors=True)
            self._out.mkdir(parents=True, exist_ok=True)
            write_whole(marker, key.encode(), "the row's key")
            same = self._taken_over(row)
        keep = any(other.tuned_by == row.name for other in self._rows.values())
        return model_entry(row, self._asked, bundle, self._on_step, resume=same, keep=keep)

    def _taken_over(self, row: Row) -> bool:
        """Whether the checkpoints of the row that tuned for it are its own now."""
        tuned = self._rows.get(row.tuned_by or "")
        if tuned is None or _text(self._marker(tuned)) != self._key_text(tuned):
            return False
        left = work_path(self._out / tuned.name)
        if not left.exists():
            return False
        left.rename(work_path(self._out / row.name))
        return True

    def _marker(self, row: Row) -> Path:
        return self._out / f"{row.name}.key"

    def _key_text(self, row: Row) -> str:
        return json.dumps(_key(self._asked) | {"row": asdict(row)}, sort_keys=True)


def _text(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


class _Progress:
    """Tells which part is at work, and takes those from the folder that are done."""

    def __init__(self, kept: Kept, key: dict[str, Any], console: Console, total: int) -> None:
        self._kept = kept
        self._key = key
        self._console = console
        self._total = total
        self._at = 0

    def kept(self, name: str, key: dict[str, Any], title: str, make: Callable[[], Entry]) -> Entry:
        """The entry that is there, or a new one, kept."""
        self._at += 1
        head = f"[{self._at} of {self._total}] {name}"
        whole = self._key | key
        entry = self._kept.read(name, whole)
        if entry is not None:
            self._console.print(f"{head}: measured before", markup=False)
            return entry
        self._console.print(f"{head}: {title}", markup=False)
        entry = make()
        self._kept.write(name, whole, entry)
        return entry
