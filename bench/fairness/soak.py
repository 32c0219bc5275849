"""`soak`: very many lists of the fair stage, none of which may leave its bounds where it can keep them.

Most are made by `bench.fairness.soak_loop`, a compiled loop over the kernels that the server calls for
a policy of one table. With each chunk of them some go through the whole fair stage, under every kind of
policy. Owns the count: it is kept in a file after each chunk, belongs to one seed and one state of the
sources, and goes on where it was interrupted.
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

from bench.fairness.compiled import SOURCES, in_threads
from bench.fairness.draw import KINDS, draw_pool
from bench.fairness.soak_loop import Found, soak_chunk
from bench.fairness.soak_stage import Drew, Tally, stage_chunk
from bench.whole import write_whole
from server.fairness.discount import discounts

CHUNK = 100_000
POLICIES = 128
MAX_GROUPS, MAX_COUNT = 64, 50
SOAKED = (*KINDS, "calibrated")
# Lists of each kind through the whole stage with a chunk: one to three milliseconds of Python each,
# six minutes of it in 10^8 lists.
STAGED = 28
# Two threads of Python hinder each other at every kernel that lets go of the interpreter: one at a
# time, and kernels beside it.
_PYTHON = threading.Lock()


@dataclass
class Count:
    """What has been soaked. chunks: how many from the first; ahead: numbers of later ones done.

    lists, infeasible, partly, retried, drew: of the compiled loop, as in its `Found`. stage: by kind,
    of the whole stage. violations: of both.
    """

    seed: int
    sources: str = SOURCES
    lists: int = 0
    infeasible: int = 0
    violations: int = 0
    partly: int = 0
    retried: int = 0
    drew: Drew = field(default_factory=Drew)
    example: str = ""
    seconds: float = 0.0
    chunks: int = 0
    ahead: list[int] = field(default_factory=list)
    stage: dict[str, Tally] = field(default_factory=dict)

    @property
    def loop(self) -> Tally:
        """The lists of the compiled loop."""
        staged = sum(tally.violations for tally in self.stage.values())
        return Tally(self.lists, self.infeasible, 0, self.violations - staged, drew=self.drew)

    def add(
        self,
        number: int,
        lists: int,
        found: Found,
        staged: Mapping[str, Tally],
        seed: int,
    ) -> None:
        """Count a chunk."""
        self.lists += lists
        self.infeasible += found.infeasible
        self.violations += found.wrong
        self.partly += found.partly
        self.retried += found.retried
        self.drew = self.drew.most(Drew(found.groups, found.candidates, found.places))
        if found.wrong and not self.example:
            self.example = f"seed {seed}, list {found.example}"
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
        stage = {
            kind: Tally(**{**own, "drew": Drew(**own["drew"])})
            for kind, own in read.pop("stage", {}).items()
        }
        drew = Drew(**read.pop("drew", {}))
        kept = Count(**read, drew=drew, stage=stage)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
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
    """Go on until so many lists of the loop are done, and `staged` of each kind through the whole
    stage with each chunk; keeps the count in `path` after every chunk.

    KeyboardInterrupt passes through, at most a chunk later, and loses nothing that is counted.
    """
    started, before_s = time.monotonic(), count.seconds

    worth = discounts(MAX_COUNT)

    def one(number: int) -> tuple[int, int, Found, dict[str, Tally]]:
        own = int(np.random.SeedSequence([count.seed, number]).generate_state(1)[0])
        with _PYTHON:
            pool = draw_pool(random.Random(own), POLICIES, SOAKED, MAX_GROUPS, MAX_COUNT)
            stage = stage_chunk(own, staged)
        found = soak_chunk(own, chunk, pool.floors, pool.ceilings, pool.sizes, worth)
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
