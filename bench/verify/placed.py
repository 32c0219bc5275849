"""Whether each place has the item that the policy's order wants there.

The order is that of the scores, of scores and boosts, or of greedy picks. Of kinds that are exact the
best list is made place by place: the best item left with which every bound can still be kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from bench.verify.bounds import Document, Known
from bench.verify.claims import same_score
from bench.verify.evidence import Candidate
from bench.verify.greedy import replayed
from bench.verify.vectors import vectors_of
from equipoise.v1 import recommendation_pb2 as pb

Table = Mapping[str, Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Shown:
    """One page: the items of the pages before, its own, and what its receipt speaks of."""

    before: Sequence[pb.RankedItem]
    items: Sequence[pb.RankedItem]
    candidates: Mapping[str, Candidate]
    paged: bool
    receipt: pb.FairnessReceipt
    count: int

    @property
    def size(self) -> int:
        """How long the whole list is to be."""
        return min(self.count, len(self.candidates))


@dataclass(frozen=True)
class Order:
    """What the list is made by: each candidate's worth. unsure: why a lie may be none, "" where it
    surely is one."""

    values: Mapping[str, float]
    unsure: str = ""


def order_of(page: Shown, document: Document, known: Known | None) -> Order | str:
    """The order of a page's candidates, or why it is not known."""
    amortised, diverse = document.section("amortised"), document.section("diverse")
    # Added as the server adds them: in 32 bits.
    values = {
        item: float(np.float32(own.score) + np.float32(own.boost if amortised else 0.0))
        for item, own in page.candidates.items()
    }
    if diverse is None or not values:
        return Order(values)
    if known is None or known.weights is None:
        return "it is by what goes with what: give --bundle"
    if not np.isfinite(list(values.values())).all():
        return "scores and boosts do not add up to a number"
    ids = sorted(values)
    column = np.array([values[item] for item in ids])
    place = {item.item_id: at for at, item in enumerate([*page.before, *page.items])}
    found = replayed(
        diverse[1]["method"],
        float(Fraction(diverse[1]["trade_off"])),
        column,
        vectors_of(ids, known.weights),
        sorted(range(len(ids)), key=lambda at: (-column[at], ids[at])),
        {at: place[item] for at, item in enumerate(ids) if item in place},
        page.size,
    )
    unsure = ""
    if found.lost:
        unsure = "an item is all but like those above it, and rounding decides whether it is"
    elif found.loose and (document.bounding or page.before):
        # The replay follows the list where it may, which bounds and earlier pages hide.
        unsure = "two items are as good at one place, and rounding decides"
    ranks = {ids[item]: float(len(ids) - at) for at, item in enumerate(found.order)}
    return Order(ranks, unsure)


def passed_over(page: Shown, document: Document, order: Order) -> str:
    """No item stands before a better one of its groups."""
    values = order.values
    left: dict[tuple[str, ...], list[float]] = {}
    shown = {item.item_id for item in page.before}
    for item, own in page.candidates.items():
        if item not in shown:
            left.setdefault(own.groups if document.bounding else (), []).append(values[item])
    for scores in left.values():
        scores.sort()
    for listed in page.items:
        groups = page.candidates[listed.item_id].groups if document.bounding else ()
        value = values[listed.item_id]
        if listed.item_id in shown or value not in left[groups]:
            return f"item {listed.item_id!r} comes twice"
        best = left[groups][-1]
        if value < best and not same_score(value, best):
            of = f" of {', '.join(groups)}" if groups else ""
            return f"item {listed.item_id!r} stands before a better one{of}"
        left[groups].remove(value)
    return ""


def misplaced(page: Shown, table: Table, order: Order) -> str:
    """Of an exact kind: where another item should stand.

    Floors that the supply cannot reach are lowered to it; a ceiling yields only where every group
    that is left is full.
    """
    values, size = order.values, page.size
    for item, own in page.candidates.items():
        if len(own.groups) != 1 or own.groups[0] not in table:
            return f"candidate {item!r} is of no group of the policy's table"
    supply = Counter(own.groups[0] for own in page.candidates.values())
    floors = {g: [min(low, supply[g]) for low, _ in limits] for g, limits in table.items()}
    owed = [sum(own[k] for own in floors.values()) for k in range(size + 1)]
    have: Counter[str] = Counter()
    left: dict[str, list[str]] = {}
    for item in sorted(page.candidates, key=lambda item: values[item]):
        left.setdefault(page.candidates[item].groups[0], []).append(item)

    def place(item: str) -> None:
        group = page.candidates[item].groups[0]
        for k in range(size + 1):
            owed[k] -= floors[group][k] > have[group]
        have[group] += 1
        left[group].remove(item)

    for listed in page.before:
        if listed.item_id in page.candidates:
            place(listed.item_id)
    for at, listed in enumerate(page.items, start=len(page.before) + 1):
        # The first prefix all of whose open places are owed to floors.
        tight = next((k for k in range(at, size + 1) if owed[k] > k - at), None)
        waiting = {g: own[-1] for g, own in left.items() if own}
        free = {
            g: item
            for g, item in waiting.items()
            if (tight is None or floors[g][tight] > have[g]) and have[g] < table[g][at][1]
        }
        best = max((values[item] for item in (free or waiting).values()), default=-np.inf)
        group, value = page.candidates[listed.item_id].groups[0], values[listed.item_id]
        if group not in (free or waiting):
            return (
                f"item {listed.item_id!r} stands where bounds want one of {', '.join(sorted(free))}"
            )
        if value < best and not same_score(value, best):
            return f"item {listed.item_id!r} stands where the bounds allow a better one"
        place(listed.item_id)
    return ""
