"""What a list and its receipt claim, recomputed one claim at a time, in plain Python.

Each claim holds, is a lie, or could not be checked with the evidence at hand. Nothing
of the server's fair stage is used; see `bench.verify.bounds` for the bounds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench.verify.bought import bought_is_right
from bench.verify.bounds import Document, Known, worth
from bench.verify.chosen import candidates_are_right
from bench.verify.claims import (
    Claim,
    Verdict,
    claim,
    close,
    discounted,
    rows_of,
    same_score,
    unchecked,
)
from bench.verify.evidence import Evidence
from bench.verify.lacking import nothing_of_other_rules
from bench.verify.ordered import (
    COME_FIRST,
    boosts_are_right,
    order_is_right,
    reasons_are_right,
)
from bench.verify.paging import pages_agree, possible
from bench.verify.placed import Shown
from bench.verify.prefixes import bounds_hold
from equipoise.v1 import recommendation_pb2 as pb


def verify(evidence: Evidence, text: str, document: Document, known: Known | None) -> list[Claim]:
    """Every claim of a list and its receipt.

    text: the policy document. known: the catalogue's groups, None where no bundle is at hand.
    """
    looked_up = [
        own.groups
        for item, own in (evidence.candidates or {}).items()
        if item not in evidence.told_groups
    ]
    if evidence.history is None and document.tables and looked_up and not any(looked_up):
        # A Rerank whose groups were looked up, and that was not asked to tell them.
        evidence = replace(evidence, candidates=None)
    if evidence.receipt.policy not in ("", document.name):
        return [_policy(evidence, text, document)]  # what another policy asks is beside the point
    claims = [_policy(evidence, text, document), _places(evidence)]
    grouped = _each_has_groups(evidence, document)
    claims.append(grouped)
    if grouped.verdict is Verdict.LIE:
        return claims  # nothing that is counted by group means anything
    claims += [reasons_are_right(evidence, document), nothing_of_other_rules(evidence, document)]
    claims += _against_candidates(evidence, document, known)
    claims += candidates_are_right(evidence, document, known)
    claims += bought_is_right(evidence, document, known)
    claims += pages_agree(evidence, document)
    claims += _earlier_receipts(evidence, document, known)
    return [*claims, *_receipt(evidence, document, known)]


def _each_has_groups(evidence: Evidence, document: Document) -> Claim:
    """Every item and candidate of every page tells one group of each of the policy's tables."""
    name = "each item tells its group"
    tables = document.tables
    if not tables:
        return claim(name, "", "the policy has none")
    for page in (*evidence.earlier, evidence):
        told = [
            (own.item_id, rows) for own, rows in zip(page.items, rows_of(page.items), strict=True)
        ]
        told += [(item, list(own.groups)) for item, own in (page.candidates or {}).items()]
        for item, rows in told:
            pairs = zip(rows, tables, strict=False)
            strange = len(tables) > 1 and any(not row.startswith(f"{of}:") for row, of in pairs)
            if strange or len(rows) != len(tables):
                why = f"item {item!r} tells {', '.join(map(repr, rows)) or 'none'}, needed: one group of "
                return claim(name, why + ", ".join(map(repr, tables)))
    return claim(name, "", "of " + " and ".join(map(repr, tables)))


def _receipt(evidence: Evidence, document: Document, known: Known | None) -> Iterator[Claim]:
    if not document.tables or evidence.receipt.status == pb.RECEIPT_STATUS_SKIPPED:
        yield from _skipped(evidence, document)
        return
    yield _exposure(evidence)
    yield from bounds_hold(evidence, document, known)


def _earlier_receipts(
    evidence: Evidence, document: Document, known: Known | None
) -> Iterator[Claim]:
    """What the receipts of earlier pages say, as far as the places shown by then decide it."""
    name = "the earlier pages' receipts suit what they show"
    for number, page in enumerate(evidence.earlier, start=1):
        for found in (*_receipt(page, document, known), *possible(page)):
            if found.verdict is Verdict.LIE:
                yield claim(name, f"page {number}: {found.name}: {found.told}")
                return
    if any(page.candidates is None for page in evidence.earlier):
        yield unchecked(name, "the responses have no candidates: ask with_candidates")
    elif evidence.earlier:
        yield claim(name, "", f"{len(evidence.earlier)} of them")


def _policy(evidence: Evidence, text: str, document: Document) -> Claim:
    receipt = evidence.receipt
    wanted = {
        "policy": document.name,
        "policy_version": document.version,
        "policy_digest": hashlib.sha256(text.encode()).hexdigest(),
        "discount": document.discount,
        "group_table": ",".join(document.tables),
    }
    wrong = [
        f"{field} is {getattr(receipt, field)!r}, the document says {value!r}"
        for field, value in wanted.items()
        if getattr(receipt, field) != value
    ]
    if evidence.policy not in ("", document.name):
        wrong.append(f"policy {evidence.policy!r} was asked for")
    if receipt.groups_from_caller != (bool(evidence.told_groups and document.tables)):
        wrong.append(f"groups_from_caller is {receipt.groups_from_caller}")
    if receipt.fallback and not document.falls_back:
        wrong.append("it is a fallback list, and the document has none")
    if not evidence.same_request:
        wrong.append("the answer is to another request id")
    return claim("the receipt is of this policy", "; ".join(wrong), receipt.policy_digest[:12])


def _places(evidence: Evidence) -> Claim:
    items = evidence.items
    ids = [item.item_id for item in items]
    start = evidence.offset + 1
    before = [evidence.offset + len(page.items) for page in evidence.earlier]
    broken = ""
    if [item.rank for item in items] != list(range(start, start + len(items))):
        broken = f"the ranks are not {start}, {start + 1}, {start + 2}, ..."
    elif list(evidence.offsets[1:]) != before:
        broken = (
            f"the pages say to begin after {evidence.offsets[1:]} places, after {before} they do"
        )
    elif len(set(ids)) < len(ids):
        broken = f"item {Counter(ids).most_common(1)[0][0]!r} comes twice"
    elif set(ids) & evidence.excluded:
        broken = f"item {min(set(ids) & evidence.excluded)!r} was excluded"
    elif len(ids) > evidence.count:
        broken = f"{len(ids)} items, {evidence.count} were asked for"
    elif evidence.whole and len(ids) < min(evidence.count, len(evidence.candidates or ids)):
        broken = f"{len(ids)} items, {evidence.count} were asked for and there are enough"
    elif evidence.allowed is not None and set(ids) - evidence.allowed:
        broken = f"item {min(set(ids) - evidence.allowed)!r} was not among those to choose from"
    return claim("places are in order, no item comes twice", broken, f"{len(ids)} items")


def _against_candidates(
    evidence: Evidence, document: Document, known: Known | None
) -> Iterator[Claim]:
    """Each page by the candidates that it tells: scores and boosts may have moved since."""
    names = ("items are candidates, with their scores and groups", "ranks by score are right",
             COME_FIRST, "utility kept is right")  # fmt: skip
    pages: list[Shown] = []
    for page in (*evidence.earlier, evidence):
        if page.candidates is None:
            for name in names:
                yield unchecked(name, "the response has no candidates: ask with_candidates")
            return
        first = len(pages[-1].before) + len(pages[-1].items) if pages else 0
        pages.append(
            Shown(
                page.items[:first],
                page.items[first:],
                page.candidates,
                page.paged,
                page.receipt,
                page.count,
            )
        )
    last = pages[-1].candidates
    strange = [item for page in pages for item in _strange(page, document)]
    strange += [item.item_id for item in evidence.items if item.item_id not in last]
    yield claim(
        names[0], f"item {strange[0]!r} is not, or has another score or group" if strange else "",
        f"{len(last)} candidates",
    )  # fmt: skip
    if strange:
        return
    yield claim(names[1], next(filter(None, map(_wrong_rank, pages)), ""))
    yield from boosts_are_right(evidence, pages, document, known)
    if evidence.whole:
        if len({item.item_id for item in evidence.items}) == len(evidence.items) <= pages[-1].size:
            yield from order_is_right(evidence, pages, document, known)
        yield _utility(evidence, document, pages, names[3])
    else:
        for name in names[2:]:
            yield unchecked(name, "not all pages are here")


def _strange(page: Shown, document: Document) -> list[str]:
    candidates = page.candidates
    return [
        item.item_id
        for item, own in zip(page.items, rows_of(page.items), strict=True)
        if item.item_id not in candidates
        or not same_score(item.score, candidates[item.item_id].score)
        or (document.tables and tuple(own) != candidates[item.item_id].groups)
    ]


def _wrong_rank(page: Shown) -> str:
    scores = [candidate.score for candidate in page.candidates.values()]
    for item in page.items:
        higher = sum(score > item.score for score in scores)
        equal = sum(score == item.score for score in scores)
        if not higher < item.rank_by_score <= higher + equal:
            return (
                f"item {item.item_id!r} says {item.rank_by_score}, counted {higher + 1} to "
                f"{higher + equal}"
            )
    return ""


def _utility(evidence: Evidence, document: Document, pages: Sequence[Shown], name: str) -> Claim:
    receipt, candidates = evidence.receipt, pages[-1].candidates
    scores = sorted((own.score for own in candidates.values()), reverse=True)
    lowest = min(0.0, *scores)
    listed = [candidates[item.item_id].score for item in evidence.items]
    got = discounted(listed, lowest, document.discount)
    ideal = discounted(scores[: len(evidence.items)], lowest, document.discount)
    kept = got / ideal if ideal > 0 else 1.0
    moved, at_most = _moved(evidence.items, pages)
    broken = ""
    if not close(kept, receipt.utility_kept):
        broken = f"the receipt says {receipt.utility_kept:.6f}, recomputed {kept:.6f}"
    elif not moved <= receipt.places_moved <= at_most:
        counted = f"{moved}" if moved == at_most else f"{moved} to {at_most}"
        broken = f"the receipt says {receipt.places_moved} places moved, counted {counted}"
    return claim(name, broken, f"{kept:.6f}, {receipt.places_moved} places moved")


def _moved(items: Sequence[pb.RankedItem], pages: Sequence[Shown]) -> tuple[int, int]:
    """The least and the most places not at their rank by score: one number, unless scores changed
    between pages, for then the ranks that were told are old, and ties may go either way."""
    now = {item: own.score for item, own in pages[-1].candidates.items()}
    if all({i: own.score for i, own in page.candidates.items()} == now for page in pages[:-1]):
        moved = sum(item.rank != item.rank_by_score for item in items)
        return moved, moved
    least = most = 0
    for item in items:
        higher = sum(score > now[item.item_id] for score in now.values())
        equal = sum(score == now[item.item_id] for score in now.values())
        here = higher < item.rank <= higher + equal
        least += not here
        most += not here or equal > 1
    return least, most


def _skipped(evidence: Evidence, document: Document) -> Iterator[Claim]:
    receipt = evidence.receipt
    if receipt.status == pb.RECEIPT_STATUS_SKIPPED:
        wanted = document.kind == "none" or not (evidence.items or evidence.candidates)
        yield claim("the fair stage had nothing to do", "" if wanted else "the policy has rules")
    else:
        wanted = receipt.status == pb.RECEIPT_STATUS_MET
        yield claim("the status is right", "" if wanted else "nothing is bounded: it must be met")


def _exposure(evidence: Evidence) -> Claim:
    name = "exposure of each group is right"
    if not evidence.whole:
        return unchecked(name, "not all pages are here")
    receipt = evidence.receipt
    counts: Counter[str] = Counter()
    shares: Counter[str] = Counter()
    whole = sum(worth(receipt.discount, item.rank) for item in evidence.items)
    for item, rows in zip(evidence.items, rows_of(evidence.items), strict=True):
        for row in rows:
            counts[row] += 1
            shares[row] += worth(receipt.discount, item.rank) / whole  # type: ignore[assignment]
    told = {part.group: part for part in receipt.exposure}
    wrong = [
        row
        for row in told.keys() | counts.keys()
        if row not in told
        or not counts[row]
        or told[row].items != counts[row]
        or not close(told[row].exposure_share, shares[row])
    ]
    broken = f"group {min(wrong)!r} is told wrong" if wrong else ""
    if len(told) < len(receipt.exposure):
        broken = "a group is told twice"
    return claim(name, broken, f"{len(counts)} groups")
