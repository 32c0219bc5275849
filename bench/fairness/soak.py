"""`soak`: very many lists of the fair stage, none of which may leave its bounds where it can keep them.

Most go through the kernel as the server calls it: floors, FA*IR, windows and caps as the server
compiles them, and drawn bounds, over up to 64 groups. With each chunk of them some go through the whole
fair stage, under every kind of policy. Owns the count: it is kept in a file after each chunk, belongs
to one seed and one state of the sources, and goes on where it was interrupted.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from bench.fairness.compiled import SOURCES, compiled, in_threads
from bench.fairness.draw import KINDS, draw_bounds, draw_candidates, draw_pool
from bench.fairness.kernel import fair_places
from bench.fairness.oracles import can_be_kept, outside_bounds
from bench.fairness.soak_stage import Tally, stage_chunk
from bench.whole import write_whole
from server.fairness.types import Int32, Int64

CHUNK = 100_000
POLICIES = 128
MAX_GROUPS, MAX_COUNT = 64, 50
# Lists under one table: drawing a table costs more than a list.
LISTS_PER_TABLE = 8
# Lists of each kind through the whole stage with a chunk: a millisecond of Python each, five minutes
# of it in 10^8 lists.
STAGED = 35
# Two threads of Python hinder each other at every kernel that lets go of the interpreter: one at a
# time, and kernels beside it.
_PYTHON = threading.Lock()


@compiled
def soak_chunk(
    seed: int, lists: int, floors: Int32, ceilings: Int32, sizes: Int64
) -> tuple[int, int, int]:
    """(lists that no bounds could be kept for, wrong lists, the first wrong one or -1)."""
    np.random.seed(seed)
    infeasible, wrong, example = 0, 0, -1
    n_groups, longest = 0, 0
    low, high = np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int32)
    for number in range(lists):
        if number % LISTS_PER_TABLE == 0:
            if number // LISTS_PER_TABLE % 2:
                policy = np.random.randint(0, sizes.shape[0])
                n_groups, longest = sizes[policy], floors.shape[2] - 1
                low, high = floors[policy, :n_groups].copy(), ceilings[policy, :n_groups].copy()
            else:
                n_groups = np.random.randint(1, floors.shape[1] + 1)
                longest = np.random.randint(1, floors.shape[2])
                low, high, _ = draw_bounds(np.random.randint(0, 3), n_groups, longest)
        n = np.random.randint(1, 4 * longest + 1)
        size = min(np.random.randint(1, longest + 1), n)
        _, scores, groups = draw_candidates(n, n_groups)
        places, bad = fair_places(scores, groups, low, high, size)
        supply = np.bincount(groups, minlength=n_groups)
        if can_be_kept(low, high, supply, size):
            broken = bad != 0 or outside_bounds(groups, places, low, high, supply) > 0
        else:
            # Floors hold as far as the supply goes; ceilings may yield.
            infeasible += 1
            free = np.full(low.shape, n, np.int32)
            broken = bad == 0 or outside_bounds(groups, places, low, free, supply) > 0
        wrong += broken
        if broken and example < 0:
            example = number
    return infeasible, wrong, example


@dataclass
class Count:
    """What has been soaked. chunks: how many from the first; ahead: numbers of later ones done.

    lists, infeasible: of the kernel. stage: by kind, of the whole stage. violations: of both.
    """

    seed: int
    sources: str = SOURCES
    lists: int = 0
    infeasible: int = 0
    violations: int = 0
    example: str = ""
    seconds: float = 0.0
    chunks: int = 0
    ahead: list[int] = field(default_factory=list)
    stage: dict[str, Tally] = field(default_factory=dict)

    @property
    def kernel(self) -> Tally:
        """The lists that went through the kernel alone."""
        staged = sum(tally.violations for tally in self.stage.values())
        return Tally(self.lists, self.infeasible, 0, self.violations - staged)

    def add(
        self,
        number: int,
        lists: int,
        found: tuple[int, int, int],
        staged: Mapping[str, Tally],
        seed: int,
    ) -> None:
        """Count a chunk."""
        infeasible, wrong, place = found
        self.lists += lists
        self.infeasible += infeasible
        self.violations += wrong
        if wrong and not self.example:
            self.example = f"seed {seed}, list {place}"
        for kind, tally in staged.items():
            self.stage[kind] = self.stage.get(kind, Tally()).plus(tally)
            self.violations += tally.violations
            self.example = self.example or tally.example
        self.ahead.append(number)
        while self.chunks in self.ahead:
            self.ahead.remove(self.chunks)
            self.chunks += 1


def resumed(path: Path, seed: int) -> Count:
    """The count so far; a new one where there is none of this seed and these sources."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        stage = {kind: Tally(**own) for kind, own in read.pop("stage", {}).items()}
        kept = Count(**read, stage=stage)
    except (OSError, ValueError, TypeError, AttributeError):
        return Count(seed)
    return kept if (kept.seed, kept.sources) == (seed, SOURCES) else Count(seed)


def soak(
    count: Count,
    path: Path,
    lists: int,
    progress: Callable[[float], None],
    chunk: int = CHUNK,
    staged: int = STAGED,
) -> Count:
    """Go on until so many lists of the kernel are done, and `staged` of each kind through the whole
    stage with each chunk; keeps the count in `path` after every chunk.

    KeyboardInterrupt passes through, at most a chunk later, and loses nothing that is counted.
    """
    started, before_s = time.monotonic(), count.seconds

    def one(number: int) -> tuple[int, int, tuple[int, int, int], dict[str, Tally]]:
        own = int(np.random.SeedSequence([count.seed, number]).generate_state(1)[0])
        with _PYTHON:
            pool = draw_pool(random.Random(own), POLICIES, KINDS, MAX_GROUPS, MAX_COUNT)
            stage = stage_chunk(own, staged)
        found = soak_chunk(own, chunk, pool.floors, pool.ceilings, pool.sizes)
        return number, own, found, stage

    every = range(count.chunks, -(-lists // chunk))
    jobs = [(number,) for number in every if number not in count.ahead]
    progress(count.lists)
    for number, own, found, stage in in_threads(one, jobs):
        count.add(number, chunk, found, stage, own)
        count.seconds = round(before_s + time.monotonic() - started, 1)
        write_whole(path, json.dumps(asdict(count), indent=1) + "\n")
        progress(count.lists)
    return count
