"""Whether a list of the fair stage is right, from the policy's text and the candidates alone.

Bounds come from `bench.verify.bounds`, counts, boosts and greedy picks from their definitions:
nothing here is computed by the stage that is judged, and its receipt is believed in nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from bench.fairness.oracles import can_be_kept
from bench.verify.bounds import Document, Known, bounds, worth
from server.fairness import Status
from server.fairness.types import Float32, Float64, Int32

GRID = 2**20
"""The ledger counts exposure in parts of so many."""

LIST_PLACES = 20
"""Places of what an amortised policy counts as a list."""

# What the same sum in another order may differ by, as a share.
_ROUNDING = 1e-5
# Below it an item counts as one in the span of those above it; near it, rounding decides.
_IN_SPAN = 1e-6


@dataclass(frozen=True)
class Asked:
    """What a list is made of.

    members: `[A, n]`, rows of `bounds_of`, table by table; widths: how many rows each table has.
    boosts: `[n]`, what an amortised policy should add to the scores, where that is to be judged.
    planted: positions of a list that was there before its bounds, best place first, if there was.
    """

    document: Document
    scores: Float32
    members: Int32
    widths: tuple[int, ...]
    count: int
    boosts: Float64 | None = None
    vectors: Float32 | None = None
    planted: Int32 | None = None

    @property
    def size(self) -> int:
        """How long the list is to be."""
        return min(self.count, len(self.scores))


def bounds_of(document: Document, known: Known, size: int) -> tuple[Int32, Int32]:
    """(floors, ceilings), `[R, size + 1]` each, by the definitions of the kinds."""
    rows = list(bounds(document, known, size).values())
    table = np.array(rows, np.int32).reshape(len(rows), size + 1, 2)
    return table[..., 0].copy(), table[..., 1].copy()


def fault(asked: Asked, floors: Int32, ceilings: Int32, order: Int32, status: Status) -> str:
    """What is wrong with a list, in words; empty where nothing is."""
    size, n = asked.size, len(asked.scores)
    if len(order) != size or not all(0 <= place < n for place in order.tolist()):
        return f"{len(order)} places, not {size} of {n} candidates"
    if len(set(order.tolist())) != size:
        return "an item stands twice"
    broken = _first_broken(asked.members[:, order], floors, ceilings)
    exists = _can_be_kept(asked, floors, ceilings)
    if status is Status.MET:
        return f"met, but {broken}" if broken else _unlike_its_order(asked, order)
    if status not in (Status.INFEASIBLE, Status.NOT_FOUND):
        return f"{status.name}, though there was something to do"
    if not broken:
        return f"{status.name}, and the list keeps every bound"
    if status is Status.NOT_FOUND:
        return "" if len(asked.widths) > 1 else "not found, where it is always known"
    if exists:
        return "infeasible, and a list keeps every bound"
    if len(asked.widths) > 1:
        return ""
    # Floors hold as far as the supply goes; ceilings may yield.
    supply = np.bincount(asked.members[0], minlength=len(floors)).astype(np.int32)
    low, free = np.minimum(floors, supply[:, np.newaxis]), np.full(floors.shape, n, np.int32)
    short = _first_broken(asked.members[:, order], low, free)
    return f"infeasible, and of what there is {short}" if short else ""


def _first_broken(rows: Int32, floors: Int32, ceilings: Int32) -> str:
    """rows `[A, k]`: the groups of a list in order."""
    counts = np.zeros((len(floors), rows.shape[1] + 1), np.int32)
    for own in rows if len(floors) else ():
        counts[:, 1:] += np.cumsum(np.arange(len(floors))[:, np.newaxis] == own, axis=1)
    size = counts.shape[1]
    outside = (counts < floors[:, :size]) | (counts > ceilings[:, :size])
    if not outside.any():
        return ""
    prefix = int(outside.any(axis=0).argmax())
    row = int(outside[:, prefix].argmax())
    return (
        f"the first {prefix} places hold {counts[row, prefix]} of row {row}, allowed: "
        f"{floors[row, prefix]} to {ceilings[row, prefix]}"
    )


def _can_be_kept(asked: Asked, floors: Int32, ceilings: Int32) -> bool:
    """Whether a list surely keeps the bounds. Of several tables that is known of a planted one."""
    if len(asked.widths) > 1:
        planted = asked.planted
        return planted is not None and not _first_broken(
            asked.members[:, planted[: asked.size]], floors, ceilings
        )
    supply = np.bincount(asked.members[:1].ravel(), minlength=len(floors))
    return not len(floors) or can_be_kept(floors, ceilings, supply, asked.size)


def _unlike_its_order(asked: Asked, order: Int32) -> str:
    """Where nothing but the order of a shaped list decides: is it that order?"""
    kinds = [kind for kind, _, _ in asked.document.rules]
    if kinds == ["amortised"] and asked.boosts is not None:
        return _unsorted(asked.scores + asked.boosts, order)
    if kinds == ["diverse"] and asked.vectors is not None:
        section = asked.document.rules[0][2]
        trade_off = float(Fraction(section["trade_off"]))
        return _not_greedy(section["method"], trade_off, asked.scores, asked.vectors, order)
    return ""


def _unsorted(values: Float64, order: Int32) -> str:
    slack = _ROUNDING * max(1.0, float(np.abs(values).max()))
    left = np.delete(values, order)
    listed = np.append(values[order], left.max(initial=-np.inf))
    late = np.flatnonzero(listed[1:] > listed[:-1] + slack)
    return f"after place {late[0] + 1} comes an item that was raised above it" if len(late) else ""


def _not_greedy(
    method: str, trade_off: float, scores: Float32, vectors: Float32, order: Int32
) -> str:
    """Whether each place has the item that MMR, or the greedy pick of a DPP, wants there."""
    lowest, highest = float(scores.min()), float(scores.max())
    relevance = (scores.astype(np.float64) - lowest) / max(highest - lowest, 1e-300)
    rest = vectors.astype(np.float64)  # of each what is not in the span of the picked
    unknown = ~rest.any(axis=1)
    likeness = np.full(len(scores), -np.inf)
    left = np.ones(len(scores), np.bool_)
    for place, item in enumerate(order.tolist()):
        wanted = relevance
        if trade_off > 0 and method == "mmr":
            seen = likeness if place else np.zeros(len(scores))
            wanted = (1 - trade_off) * relevance - trade_off * seen
            likeness = np.maximum(likeness, vectors.astype(np.float64) @ vectors[item])
        elif trade_off > 0:
            apart = np.where(unknown, 1.0, (rest**2).sum(axis=1))
            near = left & (apart > _IN_SPAN / 2) & (apart < 2 * _IN_SPAN)
            if near.any():
                return ""
            open_to = left & (apart >= _IN_SPAN)
            if open_to.any():
                gain = (1 - trade_off) / trade_off * relevance
                wanted = np.where(open_to, gain + np.log(np.maximum(apart, 1e-300)), -np.inf)
                own = rest[item] / max(float(np.linalg.norm(rest[item])), 1e-300)
                rest = rest - np.outer(rest @ own, own)
        if wanted[item] < wanted[left].max() - _ROUNDING:
            return f"{method} wants another item at place {place + 1}"
        left[item] = False
    return ""


def boosts_of(
    section: Mapping[str, Any],
    discount: str,
    items: Sequence[int],
    shown: Sequence[int],
    groups: Int32,
) -> Float64:
    """What an amortised policy adds to each candidate's score, from its papers' definitions.

    items: of the catalogue in each group; shown: exposure of each in parts of `GRID`; groups `[n]`.
    """
    here = sorted(set(groups.tolist()))
    if not any(shown):
        return np.zeros(len(groups))
    weights = [items[g] if section.get("targets", "equal") == "catalogue" else 1 for g in here]
    targets = [weight / sum(weights) for weight in weights]
    ratios = [shown[g] / GRID / target for g, target in zip(here, targets, strict=True)]
    strength = float(Fraction(section["strength"]))
    lists = section.get("lists", 100)
    step = strength / (lists * sum(worth(discount, rank) for rank in range(1, LIST_PLACES + 1)))
    if section["method"] == "fair_co":
        gained = [step * (max(ratios) - ratio) for ratio in ratios]
    else:
        level = _level(sorted(ratios), strength / step if step else 0.0)
        level = min(level, sum(shown[g] for g in here) / GRID)
        most, step = strength / len(here), step / len(here)
        gained = [
            min(step * max(0.0, level - ratio), most) / target
            for ratio, target in zip(ratios, targets, strict=True)
        ]
    by_group = dict(zip(here, gained, strict=True))
    return np.array([by_group[g] for g in groups.tolist()])


def _level(heights: Sequence[float], water: float) -> float:
    """How high so much water stands over these heights, lowest first."""
    for wet in range(1, len(heights)):
        level = (water + sum(heights[:wet])) / wet
        if level <= heights[wet]:
            return level
    return (water + sum(heights)) / len(heights)
