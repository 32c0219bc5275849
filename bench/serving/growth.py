"""How cost and throughput grow: with candidates, with the catalogue, with workers.

Cost is server CPU per list, of interleaved rounds, as everywhere here. Workers are judged by
throughput, and the caller works on the same cores: see `workers_ratio`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.served import serving, synthetic_bundle
from bench.serving.calls import Shape
from bench.serving.measure import Load, check_port, flags_of, take
from bench.serving.processes import Tree
from bench.serving.work import ListMaker

IDS_DRAWN = 100_000
"""Item ids in all messages of a step: with many candidates each, fewer differ."""
FULL = 0.9
"""Of the cores, how much two workers and the caller must have had for their throughput to tell."""


@dataclass(frozen=True)
class GrowthExtent:
    """What is tried. lists: the most of each load."""

    candidates: tuple[int, ...]
    catalogue: tuple[int, ...]
    rounds: int
    seconds: float
    lists: int


@dataclass(frozen=True)
class Step:
    """size: candidates, or items of the catalogue."""

    size: int
    cpu_us: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True)
class Throughput:
    """Of one number of workers. cores: what server and caller used of them, in cores."""

    workers: int
    lists_per_s: float
    server_cores: float
    caller_cores: float


def growth(
    folder: Path,
    bundle: Path,
    work: Path,
    logs: Path,
    extent: GrowthExtent,
    seed: int,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """All of it, as a document."""
    candidates = by_candidates(folder, bundle, work, logs, extent, seed)
    progress(0.4)
    told: dict[str, Any] = {"candidates": fitted(candidates)}
    told["workers"] = by_workers(folder, bundle, work, logs, extent, seed)
    progress(0.6)
    if extent.catalogue:
        told["catalogue"] = fitted(by_catalogue(folder, logs, extent, seed))
    progress(1.0)
    return told


def by_candidates(
    folder: Path, bundle: Path, work: Path, logs: Path, extent: GrowthExtent, seed: int
) -> list[Step]:
    """The cost of lists out of more and more candidates, 16 in flight."""
    maker = ListMaker(work)
    calls = {}
    for size in extent.candidates:
        calls[size] = folder / f"candidates-{size}.npz"
        drawn = max(16, min(512, IDS_DRAWN // size))
        maker.draw(Shape(candidates=size), drawn, seed).save(calls[size])
    load = Load("unary", 16, lists=extent.lists, seconds=extent.seconds)
    flags = flags_of(bundle, folder / "candidates.db")
    with serving(logs / "candidates.log", *flags) as live:
        tree = Tree(live.pid)
        check_port(live, tree)
        taken: dict[int, list[dict[str, Any]]] = {size: [] for size in extent.candidates}
        for turn in range(-1, extent.rounds):
            for size in extent.candidates:
                found = take(live, tree, bundle, replace(load, candidates=size), seed, calls[size])
                if turn >= 0:  # the one before warms up
                    taken[size].append(found)
    return [_step(size, rounds) for size, rounds in taken.items()]


def by_catalogue(folder: Path, logs: Path, extent: GrowthExtent, seed: int) -> list[Step]:
    """The cost of lists whose candidates the server chooses itself, by items of the catalogue."""
    load = Load("unary", 16, lists=extent.lists, candidates=0, seconds=extent.seconds)
    steps = []
    for size in extent.catalogue:
        bundle = synthetic_bundle(folder / f"bundle-{size}", items=size)
        # One of a million items takes gigabytes: not beside the others.
        flags = flags_of(bundle, folder / f"catalogue-{size}.db")
        with serving(logs / "catalogue.log", *flags) as live:
            tree = Tree(live.pid)
            check_port(live, tree)
            rounds = [
                take(live, tree, bundle, load, seed + turn) for turn in range(extent.rounds + 1)
            ]
        steps.append(_step(size, rounds[1:]))
    return steps


def by_workers(
    folder: Path, bundle: Path, work: Path, logs: Path, extent: GrowthExtent, seed: int
) -> dict[str, Any]:
    """Throughput of one worker and of two, in turns; connections enough for both to have some."""
    calls = folder / "workers.npz"
    ListMaker(work).draw(Shape(), 512, seed).save(calls)
    load = Load("unary", 64, lists=extent.lists, seconds=extent.seconds, channels=32)
    taken: dict[int, list[Throughput]] = {1: [], 2: []}
    for _ in range(extent.rounds):
        for workers, own in taken.items():
            flags = (*flags_of(bundle, folder / "workers.db"), "--workers", str(workers))
            with serving(logs / "workers.log", *flags) as live:
                tree = Tree(live.pid)
                check_port(live, tree)
                take(live, tree, bundle, replace(load, seconds=min(1.0, load.seconds)), seed, calls)
                found = take(live, tree, bundle, load, seed, calls)
            rate = found["lists"] / found["seconds"]
            own.append(
                Throughput(
                    workers,
                    rate,
                    found["cpu_us"] * rate / 1e6,
                    found["caller_cpu_us"] * rate / 1e6,
                )
            )
    one, two = (_middle(own) for own in taken.values())
    cores = len(os.sched_getaffinity(0))
    note = "; ".join(
        f"{own.workers}: {own.lists_per_s:,.0f} lists/s, server {own.server_cores:.2f} cores, "
        f"caller {own.caller_cores:.2f}"
        for own in (one, two)
    )
    return {
        "ratio": workers_ratio(one, two, cores),
        "raw_ratio": two.lists_per_s / one.lists_per_s,
        "cores": cores,
        "note": f"{note}; raw {two.lists_per_s / one.lists_per_s:.2f}; of {cores} cores one "
        f"worker's {one.server_cores:.2f} leave room for {cores / one.server_cores:.2f} times its lists",
        "steps": [asdict(one), asdict(two)],
    }


def workers_ratio(one: Throughput, two: Throughput, cores: int) -> float | None:
    """How many times more lists two workers make, were the caller elsewhere.

    Where there are no more cores than workers the caller takes time from them: the server had
    cores - caller of them, and its lists are counted per that share of the machine. One worker and
    the caller have a core each, so that its figure stands as it is. None where the cores were not
    all busy: something else used them, or the caller did not keep up, and nothing follows.

    >>> one = Throughput(1, 4000.0, 1.0, 0.5)
    >>> round(workers_ratio(one, Throughput(2, 6000.0, 1.5, 0.5), cores=2), 2)
    2.0
    >>> workers_ratio(one, Throughput(2, 6000.0, 1.5, 0.5), cores=4)
    1.5
    >>> workers_ratio(one, Throughput(2, 5000.0, 1.3, 0.4), cores=2)
    """
    if cores > two.workers:
        return two.lists_per_s / one.lists_per_s
    if two.server_cores + two.caller_cores < FULL * cores:
        return None
    return two.lists_per_s / (1 - two.caller_cores / cores) / one.lists_per_s


def _middle(own: Sequence[Throughput]) -> Throughput:
    return Throughput(
        own[0].workers,
        median(one.lists_per_s for one in own),
        median(one.server_cores for one in own),
        median(one.caller_cores for one in own),
    )


def _step(size: int, rounds: Sequence[dict[str, Any]]) -> Step:
    return Step(
        size,
        median(one["cpu_us"] for one in rounds),
        median(one["latency_us"][0] for one in rounds),
        median(one["latency_us"][1] for one in rounds),
    )


def fitted(steps: Sequence[Step]) -> dict[str, Any]:
    """The steps; the line through them, weighted so that each counts by its relative error; and the
    power of the size that the last half of them grows with (1: linear).

    The power is taken where the fixed part of a list no longer hides it: between the largest step
    and the one nearest to a tenth of it.

    >>> told = fitted([Step(n, 100 + 2.0 * n, 0, 0) for n in (100, 1_000, 10_000)])
    >>> round(told["fixed_us"]), round(told["each_us"], 3), round(told["r2"], 3)
    (100, 2.0, 1.0)
    >>> round(told["power"], 2)
    0.98
    """
    sizes = np.array([one.size for one in steps], np.float64)
    costs = np.array([one.cpu_us for one in steps], np.float64)
    each, fixed = np.polyfit(sizes, costs, 1, w=1 / costs) if len(steps) > 1 else (0.0, costs[0])
    off = costs - (fixed + each * sizes)
    spread = float(((costs - costs.mean()) ** 2).sum())
    late = int(np.abs(np.log(sizes[:-1] / (sizes[-1] / 10))).argmin()) if len(steps) > 1 else 0
    power = (
        float(np.log(costs[-1] / costs[late]) / np.log(sizes[-1] / sizes[late]))
        if len(steps) > 1
        else 0.0
    )
    return {
        "steps": [asdict(one) for one in steps],
        "fixed_us": float(fixed),
        "each_us": float(each),
        "r2": 1 - float((off**2).sum()) / spread if spread else 1.0,
        "power": power,
    }
