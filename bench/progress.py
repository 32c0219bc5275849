"""A progress bar on standard error, for what takes over two seconds; silent where nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Left


@contextmanager
def bar(what: str, total: float, *, left: bool = False) -> Iterator[Callable[[float], None]]:
    """Show a bar until the block ends; call what it yields with how much of `total` is done.

    left: show the time that is left as well, for what takes minutes.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        *([Left()] if left else []),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        task = p.add_task(what, total=total)
        yield lambda done: p.update(task, completed=min(done, total))
