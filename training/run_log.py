"""The book of one training run: what is told, bars, stages, curves and costs.

Must not know what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from training.checkpoints import CPU, Stage, WorkFolder
from training.loop import Course
from training.spent import Spent


class RunLog:
    """One run's; without a work folder its stages are not saved.

    curves: the learning curve of each stage. spent: the time of each part.
    """

    def __init__(self, console: Console, seed: int, device: torch.device = CPU) -> None:
        self._console = console
        self._seed = seed
        self.device = device
        self.work: WorkFolder | None = None
        self.curves: dict[str, dict[str, list[Any]]] = {}
        self.spent = Spent()

    def tell(self, text: str) -> None:
        """A line for who waits."""
        self._console.print(text, markup=False, emoji=False)

    def stage(self, name: str) -> Stage:
        """The next stage of the run."""
        if self.work is None:
            return Stage(name, self._seed, self.device)
        return self.work.stage(name, self._seed, self.device)

    def ended(self, name: str, course: Course) -> None:
        """A stage is done: its curve is kept."""
        self.curves[name] = course.curve()

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar; what it yields takes how many more are done."""
        columns = (
            TextColumn(f"{what:<27}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.advance(task, done)
            # Training may stop early: then it is done, not stuck.
            progress.update(task, completed=total)
