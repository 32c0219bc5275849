"""Times as ratios: ours and another's in turns, so that a busy machine slows both alike.

Each round goes once over all inputs with the one, then with the other; a time is the median of its
rounds. Time is the thread's own on the CPU: what others run at the same time does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

# Rounds before the first that counts: caches, branch predictors, first calls.
WARM_ROUNDS = 2


def in_words(value: float) -> str:
    """A measured value for people; small ones with their power of ten.

    >>> in_words(0.4649), in_words(2.15e-07), in_words(134.7)
    ('0.46', '2.2e-07', '134.70')
    """
    return f"{value:.2f}" if value >= 0.01 else f"{value:.1e}"


Call = Callable[[Any], object]


@dataclass(frozen=True)
class Row:
    """One measured value. goal: it should be at most that; None: told without a goal."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else self.value <= self.goal


def once_us(call: Call, inputs: Sequence[Any]) -> float:
    """CPU microseconds an input, all of them one after the other."""
    started = time.thread_time_ns()
    for given in inputs:
        call(given)
    return (time.thread_time_ns() - started) / 1e3 / len(inputs)


def in_turns_us(calls: Sequence[Call], inputs: Sequence[Any], rounds: int) -> list[float]:
    """The median CPU microseconds an input of each call, interleaved."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(WARM_ROUNDS + rounds):
        for call, own in zip(calls, times, strict=True):
            took = once_us(call, inputs)
            if turn >= WARM_ROUNDS:
                own.append(took)
    return [median(own) for own in times]
