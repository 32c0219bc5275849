"""Claims about the order of a list: boosts, the order that they or greedy picks make, and reasons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from bench.verify.bounds import Document, Known, bounds
from bench.verify.claims import Claim, Verdict, claim, unchecked
from bench.verify.evidence import Evidence
from bench.verify.placed import Order, Shown, misplaced, order_of, passed_over
from bench.verify.prefixes import groups_at_hand
from equipoise.v1 import recommendation_pb2 as pb

COME_FIRST = "each group's best come first"
ALLOWED = "every place has the best item that its bounds allow"
BOOSTS = "boosts are what the policy can give"

_FLOORS = {"floors", "window", "fa_ir", "calibrated"}
_CEILINGS = {"window", "cap", "calibrated"}
_NAMED = ((_FLOORS, pb.REASON_CODE_RAISED_FOR_FLOOR, pb.REASON_CODE_LOWERED_FOR_FLOOR),
          (_CEILINGS, pb.REASON_CODE_RAISED_FOR_CEILING, pb.REASON_CODE_LOWERED_FOR_CEILING),
          ({"amortised"}, pb.REASON_CODE_RAISED_FOR_EXPOSURE, pb.REASON_CODE_LOWERED_FOR_EXPOSURE),
          ({"diverse"}, pb.REASON_CODE_RAISED_FOR_DIVERSITY, pb.REASON_CODE_LOWERED_FOR_DIVERSITY),
          )  # fmt: skip


def reasons_are_right(evidence: Evidence, document: Document) -> Claim:
    """Each reason points the way that the item moved, and names a rule that the policy has."""
    name = "reasons are those of the policy's rules"
    kinds = {kind for kind, _, _ in document.rules}
    raised = {up for of, up, _ in _NAMED if of & kinds}
    lowered = {down for of, _, down in _NAMED if of & kinds}
    for item in evidence.items:
        moved = item.rank_by_score - item.rank
        allowed = raised if moved > 0 else lowered if moved < 0 else {pb.REASON_CODE_SCORE}
        if evidence.paged:
            allowed = allowed | {pb.REASON_CODE_SHOWN_BEFORE}
        if item.reason not in allowed:
            told = next(
                (name for name, value in pb.ReasonCode.items() if value == item.reason),
                f"reason {item.reason}",
            )
            return claim(name, f"item {item.item_id!r} moved by {moved} places and gives {told}")
    return claim(name, "", f"{len(evidence.items)} items")


def boosts_are_right(
    evidence: Evidence, pages: Sequence[Shown], document: Document, known: Known | None
) -> Iterator[Claim]:
    """What was added to scores for the order, as far as the policy bounds it."""
    amortised = document.section("amortised")
    if amortised is None:
        boosted = [item for page in pages for item, own in page.candidates.items() if own.boost]
        if boosted:
            yield claim(BOOSTS, f"item {boosted[0]!r} has a boost, and the policy gives none")
        return
    if not evidence.boosts_told:
        yield unchecked(BOOSTS, "the response does not tell them: ask with_candidates")
        return
    table, section = amortised
    if known is None and (
        table not in document.tables or section.get("targets", "equal") == "catalogue"
    ):
        yield unchecked(BOOSTS, f"they are by the bundle's table {table!r}: give --bundle")
        return
    for page in pages:
        if broken := _beyond(page, document, known):
            yield claim(BOOSTS, broken)
            return
    if section["method"] == "fair_co" and Fraction(section["strength"]):
        yield unchecked(BOOSTS, "FairCo has no bound: how large they are is taken as told")
    else:
        yield claim(BOOSTS, "", "within the bounds; how far each group is behind is taken as told")


def _beyond(page: Shown, document: Document, known: Known | None) -> str:
    """Where boosts are such as no exposure could lead to.

    Every item of a group gets the same, none less than 0, a group of target 0 and at least one of the
    others nothing. Of P-MMF, with n groups here and targets that sum to 1 over them, no group gets
    more than strength / n / target, and neither do all of them: the sum of target x boost is at most
    strength / n.
    """
    amortised = document.section("amortised")
    assert amortised is not None
    table, section = amortised
    boosts: dict[str, float] = {}
    for item, own in page.candidates.items():
        group = _group_of(item, own.groups, table, document, known)
        boost = boosts.setdefault(group, own.boost)
        if own.boost < 0 or (own.boost and not group):
            return f"item {item!r} has a boost of {own.boost:g}"
        if own.boost != boost:
            return f"items of group {group!r} have boosts of {boost:g} and {own.boost:g}"
    boosts.pop("", None)
    counts = known.items[table] if known is not None else dict.fromkeys(boosts, 1)
    by_items = section.get("targets", "equal") == "catalogue"
    shares = {
        group: float(counts.get(group, 0) if by_items else counts.get(group, 0) > 0)
        for group in boosts
    }
    whole, here = sum(shares.values()), sum(share > 0 for share in shares.values())
    strength = float(Fraction(section["strength"]))
    slack = 1e-5 * max([strength, *boosts.values()])
    outside = [group for group, share in shares.items() if not share and boosts[group]]
    if outside:
        return f"group {outside[0]!r} has a boost, and no part in the policy"
    if here and min(boosts[group] for group, share in shares.items() if share) > slack:
        return "every group has a boost, and the one that is shown most gets none"
    if not strength and any(boosts.values()):
        return "there are boosts, and the policy's strength is 0"
    if section["method"] == "fair_co" or not here:
        return ""
    for group, share in shares.items():
        most = strength / here * whole / share if share else 0.0
        if boosts[group] > most + slack:
            return f"group {group!r} has a boost of {boosts[group]:g}, at most {most:g} is given"
    paid = sum(share / whole * boosts[group] for group, share in shares.items())
    if paid > strength / here + slack:
        return f"boosts by target come to {paid:g}, at most {strength / here:g} is given"
    return ""


def _group_of(
    item: str, groups: Sequence[str], table: str, document: Document, known: Known | None
) -> str:
    """The item's group whose exposure is evened out; "" where it has none."""
    if table not in document.tables:
        return known.group_of[table].get(item, "") if known is not None else ""
    if len(groups) != len(document.tables):
        return ""
    own = groups[document.tables.index(table)]
    return own.partition(":")[2] if len(document.tables) > 1 else own


def order_is_right(
    evidence: Evidence, pages: Sequence[Shown], document: Document, known: Known | None
) -> Iterator[Claim]:
    """The list is that of its order: of the scores, of scores and boosts, or of greedy picks."""
    if document.section("amortised") and not evidence.boosts_told:
        yield from _not_checked(document, "the response does not tell boosts: ask with_candidates")
        return
    judged: list[tuple[Shown, Order]] = []
    for page in pages:
        order = order_of(page, document, known)
        if isinstance(order, str):
            yield from _not_checked(document, order)
            return
        judged.append((page, order))
    first = _judged(COME_FIRST, [(passed_over(page, document, of), of) for page, of in judged])
    yield first
    if document.bounding and first.verdict is not Verdict.LIE:
        yield from _places(evidence, judged, document, known)


def _not_checked(document: Document, why: str) -> Iterator[Claim]:
    yield unchecked(COME_FIRST, why)
    if document.bounding:
        yield unchecked(ALLOWED, why)


def _places(
    evidence: Evidence,
    judged: Sequence[tuple[Shown, Order]],
    document: Document,
    known: Known | None,
) -> Iterator[Claim]:
    statuses = {page.receipt.status for page, _ in judged}
    if not document.exact:
        # By score alone the receipt bounds the distance, which is a claim of its own.
        if document.shaped_by:
            why = f"it is near the best by what is {document.shaped_by}, and nothing says how near"
            yield unchecked(ALLOWED, why)
        elif statuses - {pb.RECEIPT_STATUS_MET}:
            yield unchecked(ALLOWED, "it breaks its bounds, and nothing says how good it must be")
        return
    if pb.RECEIPT_STATUS_NOT_FOUND in statuses:
        yield unchecked(ALLOWED, "after the places shown before, the bounds can no longer be kept")
        return
    known = groups_at_hand(evidence, document, known)
    assert known is not None  # only what is calibrated may need more
    found = [
        (misplaced(page, bounds(document, known, page.size), order), order)
        for page, order in judged
    ]
    yield _judged(ALLOWED, found)


def _judged(name: str, found: Sequence[tuple[str, Order]]) -> Claim:
    broken = next((pair for pair in found if pair[0]), None)
    if broken is not None and broken[1].unsure:
        return unchecked(name, broken[1].unsure)
    return claim(name, broken[0] if broken is not None else "")
