"""What is planted, and which line of the budgets has to see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """name: as `python -m training.damage --fault` knows it. flags: how it is planted; how much slower is
    for `bench.gate_trial.measured.slowed` to find. seen_by: the metric of the line that must fail. told:
    for people."""

    name: str
    flags: tuple[str, ...]
    seen_by: str
    told: str


def faults(attribute: str, label: str, policy: str, group: str) -> list[Fault]:
    """Those of the selftest. attribute, label: of users. policy, group: whose floor is lowered."""
    of_group = ("--attribute", attribute)
    return [
        Fault("shuffled", (), "quality.ndcg_at_20", "scores are noise"),
        Fault("worse", ("--by", "0.01"), "quality.ndcg_at_20", "NDCG 1 % lower"),
        Fault(
            "zeroed", (*of_group, "--label", label), f"quality.groups.{attribute}.ndcg_at_20.worst",
            f"features of '{label}' are 0",
        ),
        Fault(
            "floor", ("--policy", policy, "--group", group), f"policies.{policy}",
            f"floor of '{group}' lower by a place",
        ),
        Fault("slower", (), "load.latency_ms.p50", "a list takes 20 % longer"),
        Fault(
            "leak", of_group, f"quality.inferred_{attribute}_minus_purchases",
            f"lists depend on {attribute}",
        ),
    ]  # fmt: skip
