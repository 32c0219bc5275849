"""The search for the knee: the highest offered rate at which most repeats keep the budget.

Doubles from a rate that is surely kept until one is not, then halves what is between them, as ratios.
Pure but for the probe, which offers a rate to a server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Offer = Callable[[float, int], "Repeat"]
"""(requests a second, number of the repeat) -> what became of it."""
BEYOND = (1.25, 1.5, 2.0)
"""Of the knee: what is offered besides, to show what a server does that is asked for too much."""


@dataclass(frozen=True)
class Repeat:
    """One load. p50_ms, p99_ms: None where a failure decides. void: why it is no load, or ""."""

    offered_rps: float
    throughput_rps: float
    goodput_rps: float
    p50_ms: float | None
    p99_ms: float | None
    refused_share: float
    failed_share: float
    void: str = ""

    def keeps(self, budget_ms: float) -> bool:
        """Whether its p99 is within the budget; a void one shows nothing."""
        return not self.void and self.p99_ms is not None and self.p99_ms <= budget_ms


@dataclass(frozen=True)
class Probe:
    """The repeats at one rate."""

    rate_rps: float
    repeats: tuple[Repeat, ...]

    def kept(self, budget_ms: float) -> bool:
        """Whether most repeats keep the budget."""
        return 2 * sum(one.keeps(budget_ms) for one in self.repeats) > len(self.repeats)

    @property
    def voids(self) -> int:
        """How many repeats were no load."""
        return sum(bool(one.void) for one in self.repeats)


@dataclass(frozen=True)
class Knee:
    """rate_rps: the highest rate that was kept, 0 where none was; above_rps: the lowest that was not, None
    where all were. probes: all, by rate. by_generator: whether the load gave out, not the server."""

    rate_rps: float
    above_rps: float | None
    probes: tuple[Probe, ...]
    by_generator: bool


def knee(
    offer: Offer,
    *,
    budget_ms: float,
    start_rps: float,
    most_rps: float,
    precision: float,
    repeats: int,
    beyond: Sequence[float] = BEYOND,
    on_probe: Callable[[Probe], None] = lambda probe: None,
) -> Knee:
    """Find it between `start_rps` and `most_rps`, to a ratio of 1 + `precision`.

    repeats: odd, so that most of them are one side.
    """
    probes: dict[float, Probe] = {}

    def kept(rate_rps: float) -> bool:
        if rate_rps not in probes:
            made = tuple(offer(rate_rps, number) for number in range(repeats))
            probes[rate_rps] = Probe(rate_rps, made)
            on_probe(probes[rate_rps])
        return probes[rate_rps].kept(budget_ms)

    low, high = 0.0, None
    rate = start_rps
    while rate <= most_rps:
        if not kept(rate):
            high = rate
            break
        low, rate = rate, rate * 2
    while low and high is not None and high / low > 1 + precision:
        middle = (low * high) ** 0.5
        if kept(middle):
            low = middle
        else:
            high = middle
    if low:
        for factor in beyond:
            if low * factor <= most_rps:
                kept(low * factor)
    first_not = probes.get(high) if high is not None else None
    return Knee(
        low,
        high,
        tuple(probes[rate] for rate in sorted(probes)),
        first_not is not None and 2 * first_not.voids > len(first_not.repeats),
    )
