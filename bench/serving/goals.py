"""What was measured against what is wanted: a row a goal, met or by how much it is missed.

Only arithmetic. A goal that lacks a figure, because a peer could not be measured, is neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Sense = Literal["at most", "at least"]

WAYS = {"unary": "Recommend", "stream": "RecommendStream", "batch": "BatchRecommend"}
TIMES_LESS = (
    ("mlserver", 3.0),
    ("pytriton", 3.0),
    ("litserve", 5.0),
    ("bentoml", 5.0),
    ("ray", 15.0),
    ("ray-direct", 15.0),
)
"""Peer, and how many times less CPU a list may cost here at most."""

OF_TRITON: tuple[tuple[str, float], ...] = (("unary", 1.0), ("stream", 0.65), ("batch", 0.5))
IDLE = 2.0
SLOPE = 1.1
WORKERS = 1.8


@dataclass(frozen=True)
class GoalRow:
    """value: a ratio. None: not measured, and `note` says why."""

    name: str
    value: float | None
    goal: float
    sense: Sense
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.goal if self.sense == "at most" else self.value >= self.goal

    @property
    def verdict(self) -> str:
        """PASS, or by how much of the goal it is missed."""
        if self.value is None:
            return "not measured"
        if self.met:
            return "PASS"
        by = self.value / self.goal if self.sense == "at most" else self.goal / self.value
        return f"missed by {by - 1:.0%}"


def rows(told: Mapping[str, Any]) -> list[GoalRow]:
    """The rows of a result document (see `bench.serving.report.document`): of the peers that were
    asked for. A peer that was measured with several settings counts with whichever is best in the
    figure at hand; those that had more to do than others count nowhere."""
    own = {
        (one["load"]["way"], one["load"]["in_flight"]): one
        for one in told["loads"]
        if not one["load"].get("text")
    }
    peers: dict[str, list[Mapping[str, Any]]] = {}
    for one in told["peers"]:
        peers.setdefault(one["goal"], []).append(one)
    found = [*_of_triton(own, peers), *_times_less(own, peers)]
    alone = own["unary", 1]
    floor_us = told["model_us"] + told["empty_call_us"]
    found.append(
        GoalRow(
            "Recommend, 1 in flight: p50 / (model alone + an empty unary call)",
            alone["p50_us"] / floor_us,
            IDLE,
            "at most",
            f"{alone['p50_us'] / 1e3:.2f} / ({told['model_us'] / 1e3:.2f} + "
            f"{told['empty_call_us'] / 1e3:.2f}) ms",
        )
    )
    return found + _growth(told.get("growth", {}))


def _best(peers: Sequence[Mapping[str, Any]], in_flight: int, key: str) -> tuple[float | None, str]:
    """The least that any of a peer's settings took, or None and why there is none."""
    found = [one[key] for peer in peers for one in peer["costs"] if one["in_flight"] == in_flight]
    if found:
        return min(found), ""
    return None, next((peer["reason"] for peer in peers if peer["reason"]), "not measured")


def _of_triton(
    own: Mapping[Any, Any], peers: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[GoalRow]:
    found = []
    for way, goal in OF_TRITON if "triton" in peers else ():
        for in_flight in (1, 16, 64):
            mine = own.get((way, in_flight))
            if mine is None:
                continue
            for key, what in (("cpu_us", "CPU"), ("p99_us", "p99")):
                theirs, why = _best(peers["triton"], in_flight, key)
                if key == "p99_us" and way != "unary":
                    continue
                name = f"{WAYS[way]}, {in_flight} in flight: {what} / Triton's"
                if theirs is None:
                    found.append(GoalRow(name, None, goal, "at most", why))
                    continue
                unit, scale = ("us", 1.0) if key == "cpu_us" else ("ms", 1e3)
                note = f"{mine[key] / scale:.4g} / {theirs / scale:.4g} {unit}"
                found.append(GoalRow(name, mine[key] / theirs, goal, "at most", note))
    return found


def _times_less(
    own: Mapping[Any, Any], peers: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[GoalRow]:
    found = []
    for peer, goal in TIMES_LESS:
        if peer not in peers:
            continue
        for in_flight in (1, 16, 64):
            theirs, why = _best(peers[peer], in_flight, "cpu_us")
            title = peers[peer][0]["title"]
            name = f"CPU of {title} / of Recommend, {in_flight} in flight"
            if theirs is None:
                found.append(GoalRow(name, None, goal, "at least", why))
                continue
            mine = own["unary", in_flight]
            note = f"{theirs:.0f} / {mine['cpu_us']:.0f} us"
            found.append(GoalRow(name, theirs / mine["cpu_us"], goal, "at least", note))
    return found


def _growth(growth: Mapping[str, Any]) -> list[GoalRow]:
    found = []
    if candidates := growth.get("candidates"):
        sizes = [one["size"] for one in candidates["steps"]]
        found.append(
            GoalRow(
                f"candidates {sizes[0]:,} -> {sizes[-1]:,}: CPU grows like n to the power of",
                candidates["power"],
                SLOPE,
                "at most",
                f"linear fit: {candidates['fixed_us']:.0f} us + {candidates['each_us']:.3f} us a "
                f"candidate, R2 {candidates['r2']:.3f}",
            )
        )
    if catalogue := growth.get("catalogue"):
        sizes = [one["size"] for one in catalogue["steps"]]
        found.append(
            GoalRow(
                f"catalogue {sizes[0]:,} -> {sizes[-1]:,} items: CPU grows like n to the power of",
                catalogue["power"],
                1.0,
                "at most",
                "candidates from the bundle's neighbour lists, an index; the model scores those",
            )
        )
    if workers := growth.get("workers"):
        found.append(
            GoalRow(
                "workers 1 -> 2: lists per second of the cores that the caller left",
                workers["ratio"],
                WORKERS,
                "at least",
                workers["note"],
            )
        )
    return found
