"""Claims about a list in pages: in what its receipts agree, and what each of them can be held to.

Every page's receipt speaks of the whole list as it stood when the page was sent, of which only the
places shown so far are known.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

from bench.verify.bounds import Document, worth
from bench.verify.claims import TOLERANCE, Claim, claim, rows_of, same_score, unchecked
from bench.verify.evidence import Evidence
from equipoise.v1 import recommendation_pb2 as pb

# What a receipt measures of its list. It may differ from page to page only where what the list was
# made of moved in between: boosts, as other lists got exposure, and what the event store learnt.
MEASURED = ("status", "first_bad_prefix", "utility_kept", "places_moved", "exposure",
            "utility_of_best", "calibration")  # fmt: skip
STATED = tuple(
    field.name for field in pb.FairnessReceipt.DESCRIPTOR.fields if field.name not in MEASURED
)


def pages_agree(evidence: Evidence, document: Document) -> Iterator[Claim]:
    """Receipts of neighbouring pages differ only as far as what they were made of did."""
    if not evidence.earlier:
        return
    name = "the pages' receipts agree in all that nothing moved"
    pages = [*evidence.earlier, evidence]
    moved = hidden = 0
    for number, (before, after) in enumerate(itertools.pairwise(pages), start=1):
        broken = _stated_otherwise(before, after)
        same = before.receipt == after.receipt
        if not broken and (before.candidates is None or after.candidates is None):
            may_move = "amortised" in document.shaped_by or _stored(evidence)
            broken = "" if same or may_move else "the receipts differ, and nothing can have moved"
            hidden += not same
        elif not broken and before.candidates == after.candidates and before.bought == after.bought:
            # Only a search over several tables may go on otherwise from where it was left.
            free = moved and len(document.tables) > 1
            broken = "" if same or free else "the receipts differ, and nothing has moved"
        elif not broken:
            moved += 1
            broken = _moved_wrongly(before, after, document)
        if broken:
            yield claim(name, f"pages {number} and {number + 1}: {broken}")
            return
    if hidden:
        yield unchecked(name, "they differ, and the responses have no candidates that explain it")
    else:
        told = f"; candidates moved {moved} times in between" if moved else ""
        yield claim(name, "", f"{len(pages)} pages{told}")


def _stored(evidence: Evidence) -> bool:
    return evidence.history is not None and bool(evidence.history.user)


def _stated_otherwise(before: Evidence, after: Evidence) -> str:
    one, other = before.receipt, after.receipt
    for field in STATED:
        if getattr(one, field) != getattr(other, field):
            return f"{field} is {getattr(one, field)!r}, then {getattr(other, field)!r}"
    skipped = pb.RECEIPT_STATUS_SKIPPED
    if (one.status == skipped) != (other.status == skipped):
        return "one was skipped and the other not"
    if before.bundle_id != after.bundle_id:
        return f"bundle {before.bundle_id!r}, then {after.bundle_id!r}"
    return ""


def _moved_wrongly(before: Evidence, after: Evidence, document: Document) -> str:
    one, other = before.candidates or {}, after.candidates or {}
    both = one.keys() & other.keys()
    if any(one[item].groups != other[item].groups for item in both):
        return "an item has another group"
    if "amortised" not in document.shaped_by and any(
        one[item].boost != other[item].boost for item in both
    ):
        return "boosts differ, and the policy gives none"
    learnt = one.keys() != other.keys() or before.bought != after.bought
    learnt |= any(not same_score(one[item].score, other[item].score) for item in both)
    if learnt and not _stored(after):
        return "candidates, scores or purchases differ, and the history is not from an event store"
    return ""


def possible(page: Evidence) -> Iterator[Claim]:
    """What a page's receipt says of its whole list is possible after the places shown so far."""
    if page.candidates is None or not page.items or page.offset:
        return
    size = min(page.count, len(page.candidates))
    if not len(page.items) <= size or any(
        item.item_id not in page.candidates for item in page.items
    ):
        return  # found by other claims
    yield claim("exposure is possible", _exposure(page, size))
    yield claim("utility is possible", _utility(page, size))


def _exposure(page: Evidence, size: int) -> str:
    receipt = page.receipt
    if not rows_of(page.items)[0] or receipt.status == pb.RECEIPT_STATUS_SKIPPED:
        return "" if not receipt.exposure else "exposure is told of no groups"
    places = [worth(receipt.discount, rank) for rank in range(1, size + 1)]
    items: Counter[str] = Counter()
    gained: Counter[str] = Counter()
    for place, rows in zip(places, rows_of(page.items), strict=False):
        items.update(rows)
        for row in rows:
            gained[row] += place  # type: ignore[assignment]
    told = {part.group: part for part in receipt.exposure}
    tables = len(rows_of(page.items)[0])
    open_places = places[len(page.items) :]
    if sum(part.items for part in told.values()) != size * tables:
        return f"the groups' items do not add up to a list of {size}"
    if not abs(sum(part.exposure_share for part in told.values()) - tables) <= TOLERANCE * size:
        return "the groups' shares do not add up"
    for row in sorted(told.keys() | items.keys()):
        more = told[row].items - items[row] if row in told else -1
        if not 0 <= more <= len(open_places):
            return f"group {row!r} cannot have the items that it is told to have"
        low = gained[row] + sum(open_places[len(open_places) - more :])
        high = gained[row] + sum(open_places[:more])
        share = told[row].exposure_share * sum(places)
        if not low - TOLERANCE <= share <= high + TOLERANCE:
            return f"group {row!r} cannot have the share that it is told to have"
    return ""


def _utility(page: Evidence, size: int) -> str:
    candidates, discount = page.candidates or {}, page.receipt.discount
    scores = sorted((own.score for own in candidates.values()), reverse=True)
    lowest = min(0.0, *scores)
    places = [worth(discount, rank) for rank in range(1, size + 1)]
    shown = {item.item_id for item in page.items}
    left = sorted(
        (own.score for item, own in candidates.items() if item not in shown), reverse=True
    )

    def gain(order: list[float], first: int) -> float:
        return sum(
            (score - lowest) * place for score, place in zip(order, places[first:], strict=False)
        )

    so_far = gain([candidates[item.item_id].score for item in page.items], 0)
    ideal = gain(scores, 0)
    least, most = (so_far + gain(rest, len(shown)) for rest in (left[::-1], left))
    if ideal > 0 and not (
        least / ideal - TOLERANCE <= page.receipt.utility_kept <= most / ideal + TOLERANCE
    ):
        return (
            f"it says {page.receipt.utility_kept:.6f}, and lists that begin so keep "
            f"{least / ideal:.6f} to {most / ideal:.6f}"
        )
    if page.receipt.places_moved > size:
        return f"it says {page.receipt.places_moved} of {size} places moved"
    return ""
