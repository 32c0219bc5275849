"""Equipoise and its peers, one after the other in each round, given the same lists to make.

One server lives at a time. A round starts each, warms it up, loads it and stops it, in an order that
turns from round to round; a figure is the median of its rounds. A peer that cannot be installed,
does not start or answers wrongly is told with its reason, and the others go on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.served import serving
from bench.serving.calls import Shape
from bench.serving.drive import DRAWN
from bench.serving.measure import LOADS, Cost, Load, check_port, cost, flags_of, take
from bench.serving.peers.environment import Unavailable, environment
from bench.serving.peers.peer import Peer, running
from bench.serving.processes import Tree
from bench.serving.work import ListMaker

Progress = Callable[[float], None]
IN_FLIGHT = (1, 16, 64)
WARM_IN_FLIGHT = 8
WARM_LISTS = 400
MODEL_RUNS = 300


@dataclass(frozen=True)
class Extent:
    """How much is measured. seconds: of each load in each round; lists: at most, of each of
    Equipoise's loads."""

    rounds: int
    seconds: float
    lists: int


@dataclass(frozen=True)
class PeerCost:
    """What a peer was measured to cost, the medians of its rounds. Microseconds a list."""

    in_flight: int
    lists: int
    cpu_us: float
    p50_us: float
    p99_us: float
    lists_per_s: float
    caller_cpu_us: float


@dataclass(frozen=True)
class PeerResult:
    """A peer's rows; none, or of fewer rounds, where `reason` says what went wrong."""

    peer: Peer
    rounds: int
    costs: tuple[PeerCost, ...]
    reason: str = ""


@dataclass(frozen=True)
class Compared:
    """costs: Equipoise's. model_us: the median time of the model alone on one list; empty_call_us:
    that of a unary call that does nothing, one in flight, by the same caller as the lists."""

    costs: tuple[Cost, ...]
    peers: tuple[PeerResult, ...]
    model_us: float
    empty_call_us: float


@dataclass(frozen=True)
class Place:
    """Where the servers find what they serve. calls: a file of each round's requests."""

    folder: Path
    bundle: Path
    work: Path
    logs: Path
    calls: tuple[Path, ...]


def prepare(folder: Path, bundle: Path, work: Path, logs: Path, rounds: int, seed: int) -> Place:
    """Draw each round's requests and make the lists that they must get."""
    maker = ListMaker(work)
    calls = []
    for turn in range(rounds):
        path = folder / f"calls-{turn}.npz"
        maker.draw(Shape(), DRAWN, seed + turn).save(path)
        calls.append(path)
    return Place(folder, bundle, work, logs, tuple(calls))


def environments(
    peers: Sequence[Peer], root: Path, say: Callable[[str], None]
) -> dict[str, Path | Unavailable]:
    """Each peer's Python, or why it has none."""
    made: dict[str, Path | Unavailable] = {}
    for peer in peers:
        if peer.home in made:
            continue
        started = time.monotonic()
        try:
            made[peer.home] = environment(root, peer.home, peer.requirements)
        except Unavailable as why:
            say(f"{peer.title}: {why}")
            made[peer.home] = why
        if time.monotonic() - started > 2:
            say(f"{peer.title}: environment made in {time.monotonic() - started:.0f} s")
    return {peer.name: made[peer.home] for peer in peers}


def compare(
    place: Place,
    peers: Sequence[Peer],
    pythons: dict[str, Path | Unavailable],
    extent: Extent,
    seed: int,
    progress: Progress,
) -> Compared:
    """Measure all of them in turn."""
    loads = tuple(replace(one, lists=extent.lists, seconds=extent.seconds) for one in LOADS)
    own: list[list[dict[str, Any]]] = [[] for _ in loads]
    empty_us: list[float] = []
    model_us: list[float] = []
    theirs: dict[str, list[list[dict[str, Any]]]] = {peer.name: [] for peer in peers}
    reasons = {name: str(why) for name, why in pythons.items() if isinstance(why, Unavailable)}
    systems: list[Peer | None] = [None, *peers]
    done = 0
    for turn in range(extent.rounds):
        # Whoever comes after a server that heats the caches up is not always the same.
        first = turn % len(systems)
        for system in systems[first:] + systems[:first]:
            calls = place.calls[turn]
            if system is None:
                model_us.append(model_alone_us(place.work, calls))
                found, empty = _own_round(place, loads, seed + turn, calls)
                empty_us.append(empty)
                for taken, one in zip(own, found, strict=True):
                    taken.append(one)
            else:
                python = pythons[system.name]
                try:
                    if isinstance(python, Path):
                        found = _peer_round(system, python, place, calls, extent.seconds)
                        theirs[system.name].append(found)
                except Unavailable as why:
                    reasons[system.name] = f"round {turn + 1}: {why}"
            done += 1
            progress(done / (extent.rounds * len(systems)))
    return Compared(
        costs=tuple(cost(load, taken) for load, taken in zip(loads, own, strict=True)),
        peers=tuple(
            PeerResult(
                peer,
                len(theirs[peer.name]),
                peer_costs(theirs[peer.name]),
                reasons.get(peer.name, ""),
            )
            for peer in peers
        ),
        model_us=median(model_us),
        empty_call_us=median(empty_us),
    )


def peer_costs(rounds: Sequence[Sequence[dict[str, Any]]]) -> tuple[PeerCost, ...]:
    """The medians, for each number in flight; of each round one result for each number."""

    def of(place: int, in_flight: int) -> PeerCost:
        taken = [one[place] for one in rounds]
        return PeerCost(
            in_flight=in_flight,
            lists=sum(one["lists"] for one in taken),
            cpu_us=median(one["cpu_us"] for one in taken),
            p50_us=median(one["latency_us"][0] for one in taken),
            p99_us=median(one["latency_us"][1] for one in taken),
            lists_per_s=median(one["lists"] / one["seconds"] for one in taken),
            caller_cpu_us=median(one["caller_cpu_us"] for one in taken),
        )

    return tuple(of(*one) for one in enumerate(IN_FLIGHT)) if rounds else ()


def model_alone_us(work: Path, calls: Path) -> float:
    """The median time of the model on one list, in this process."""
    from bench.serving.calls import Calls

    maker, drawn = ListMaker(work), Calls.load(str(calls))
    taken = []
    for number in range(MODEL_RUNS):
        row = slice(number % DRAWN, number % DRAWN + 1)
        started_ns = time.perf_counter_ns()
        maker.scores(drawn.history[row], drawn.candidates[row])
        taken.append(time.perf_counter_ns() - started_ns)
    return float(np.median(taken[MODEL_RUNS // 10 :])) / 1e3


def _own_round(
    place: Place, loads: Sequence[Load], seed: int, calls: Path
) -> tuple[list[dict[str, Any]], float]:
    store = place.folder / "events.db"
    store.unlink(missing_ok=True)
    with serving(place.logs / "equipoise.log", *flags_of(place.bundle, store)) as live:
        tree = Tree(live.pid)
        check_port(live, tree)
        warm = Load("unary", WARM_IN_FLIGHT, WARM_LISTS)
        take(live, tree, place.bundle, warm, seed, calls)
        found = [take(live, tree, place.bundle, load, seed, calls) for load in loads]
        empty = Load("empty", 1, lists=loads[0].lists, seconds=loads[0].seconds)
        nothing = take(live, tree, place.bundle, empty, seed)
    return found, nothing["latency_us"][0]


def _peer_round(
    peer: Peer, python: Path, place: Place, calls: Path, seconds: float
) -> list[dict[str, Any]]:
    logs = place.logs / peer.name
    shutil.rmtree(logs, ignore_errors=True)
    with running(peer, python, place.work, calls, logs) as live:
        live.drive(WARM_IN_FLIGHT, min(1.0, seconds))
        return [live.drive(in_flight, seconds) for in_flight in IN_FLIGHT]
