"""What a list and its receipt claim, recomputed one claim at a time, in plain Python.

Each claim holds, is a lie, or could not be checked with the evidence at hand. Nothing
of the server's fair stage is used; see `bench.verify.bounds` for the bounds.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bench.verify.bounds import Document, Known, bounds, user_shares, worth
from bench.verify.evidence import Candidate, Evidence
from bench.verify.optimum import largest_dcg
from equipoise.v1 import recommendation_pb2 as pb

TOLERANCE = 1e-4
"""Scores travel as 32-bit floats."""

Rows = Sequence[Sequence[str]]
Table = Mapping[str, Sequence[tuple[int, int]]]

_UP = {pb.REASON_CODE_RAISED_FOR_FLOOR, pb.REASON_CODE_RAISED_FOR_CEILING,
       pb.REASON_CODE_RAISED_FOR_EXPOSURE, pb.REASON_CODE_RAISED_FOR_DIVERSITY}  # fmt: skip
_DOWN = {pb.REASON_CODE_LOWERED_FOR_FLOOR, pb.REASON_CODE_LOWERED_FOR_CEILING,
         pb.REASON_CODE_LOWERED_FOR_EXPOSURE, pb.REASON_CODE_LOWERED_FOR_DIVERSITY}  # fmt: skip


class Verdict(StrEnum):
    """What became of a claim."""

    HOLDS = "holds"
    LIE = "lie"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, what became of it, and why or with what numbers."""

    name: str
    verdict: Verdict
    told: str


def _claim(name: str, broken: str, holds: str = "") -> Claim:
    return Claim(name, Verdict.LIE if broken else Verdict.HOLDS, broken or holds)


def _unchecked(name: str, why: str) -> Claim:
    return Claim(name, Verdict.NOT_CHECKED, why)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def verify(evidence: Evidence, text: str, document: Document, known: Known | None) -> list[Claim]:
    """Every claim of a list and its receipt.

    text: the policy document. known: the catalogue's groups, None where no bundle is at hand.
    """
    claims = [_policy(evidence, text, document), _places(evidence)]
    claims += _against_candidates(evidence, document)
    if known is not None and not evidence.receipt.groups_from_caller:
        claims.append(_groups_are_the_bundles(evidence, document, known))
    if not document.tables or evidence.receipt.status == pb.RECEIPT_STATUS_SKIPPED:
        return [*claims, *_skipped(evidence, document)]
    claims.append(_exposure(evidence))
    return [*claims, *_bounds(evidence, document, known)]


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
    return _claim("the receipt is of this policy", "; ".join(wrong), receipt.policy_digest[:12])


def _places(evidence: Evidence) -> Claim:
    items = evidence.items
    ids = [item.item_id for item in items]
    start = items[0].rank if items else 1
    broken = ""
    if [item.rank for item in items] != list(range(start, start + len(items))):
        broken = "the ranks are not 1, 2, 3, ..."
    elif len(set(ids)) < len(ids):
        broken = f"item {Counter(ids).most_common(1)[0][0]!r} comes twice"
    elif set(ids) & evidence.excluded:
        broken = f"item {min(set(ids) & evidence.excluded)!r} was excluded"
    elif len(ids) > evidence.count:
        broken = f"{len(ids)} items, {evidence.count} were asked for"
    elif not evidence.receipts_agree:
        broken = "the pages' receipts differ"
    return _claim("places are in order, no item comes twice", broken, f"{len(ids)} items")


def _rows(evidence: Evidence) -> Rows:
    return [list(item.groups) or ([item.group] if item.group else []) for item in evidence.items]


def _groups_are_the_bundles(evidence: Evidence, document: Document, known: Known) -> Claim:
    name = "groups are those of the bundle"
    several = len(document.tables) > 1
    for item, own in zip(evidence.items, _rows(evidence), strict=True):
        wanted = [
            f"{table}:{known.group_of[table][item.item_id]}" if several
            else known.group_of[table][item.item_id]
            for table in document.tables
            if item.item_id in known.group_of[table]
        ]  # fmt: skip
        if list(own) != wanted:
            return _claim(name, f"item {item.item_id!r} is told as {own}, the bundle has {wanted}")
    return _claim(name, "", "all looked up again")


def _against_candidates(evidence: Evidence, document: Document) -> Iterator[Claim]:
    candidates = evidence.candidates
    names = ("items are candidates, with their scores and groups", "ranks by score are right",
             "each group's best come first", "utility kept is right")  # fmt: skip
    if candidates is None:
        for name in names:
            yield _unchecked(name, "the response has no candidates: ask with_candidates")
        return
    items = evidence.items
    strange = [
        item.item_id
        for item, own in zip(items, _rows(evidence), strict=True)
        if item.item_id not in candidates
        or not _close(item.score, candidates[item.item_id].score)
        or (document.tables and tuple(own) != candidates[item.item_id].groups)
    ]
    yield _claim(
        names[0], f"item {strange[0]!r} is not, or has another score or group" if strange else "",
        f"{len(candidates)} candidates",
    )  # fmt: skip
    if strange:
        return
    yield _claim(names[1], _wrong_rank(items, candidates))
    if evidence.whole:
        yield _claim(names[2], _passed_over(evidence, document, candidates))
        yield _utility(evidence, document, candidates, names[3])
    else:
        for name in names[2:]:
            yield _unchecked(name, "not all pages are here")


def _wrong_rank(items: Sequence[pb.RankedItem], candidates: Mapping[str, Candidate]) -> str:
    scores = [candidate.score for candidate in candidates.values()]
    for item in items:
        higher = sum(score > item.score for score in scores)
        equal = sum(score == item.score for score in scores)
        if not higher < item.rank_by_score <= higher + equal:
            return (
                f"item {item.item_id!r} says {item.rank_by_score}, counted {higher + 1} to "
                f"{higher + equal}"
            )
        moved = item.rank_by_score - item.rank
        allowed = _UP if moved > 0 else _DOWN if moved < 0 else {pb.REASON_CODE_SCORE}
        if item.reason not in allowed | {pb.REASON_CODE_SHOWN_BEFORE}:
            reason = pb.ReasonCode.Name(item.reason)
            return f"item {item.item_id!r} moved by {moved} places and gives {reason}"
    return ""


def _passed_over(
    evidence: Evidence, document: Document, candidates: Mapping[str, Candidate]
) -> str:
    """In the order that the list was made of, no item stands before a better one of its groups."""
    if "diverse" in document.shaped_by:
        return ""
    # Added as the server adds them: in 32 bits.
    order = {item: own.score + own.boost for item, own in candidates.items()}
    left: dict[tuple[str, ...], list[float]] = {}
    for item, own in candidates.items():
        left.setdefault(own.groups if document.tables else (), []).append(order[item])
    for scores in left.values():
        scores.sort()
    for listed in evidence.items:
        groups = candidates[listed.item_id].groups if document.tables else ()
        if order[listed.item_id] not in left[groups]:
            return f"item {listed.item_id!r} comes twice"
        best = left[groups][-1]
        if order[listed.item_id] < best - TOLERANCE * max(1.0, abs(best)):
            return f"item {listed.item_id!r} stands before a better one of {', '.join(groups)}"
        left[groups].remove(order[listed.item_id])
    return ""


def _gains(scores: Sequence[float], lowest: float, discount: str) -> float:
    return sum(
        (score - lowest) * worth(discount, rank) for rank, score in enumerate(scores, start=1)
    )


def _utility(
    evidence: Evidence, document: Document, candidates: Mapping[str, Candidate], name: str
) -> Claim:
    receipt = evidence.receipt
    scores = sorted((own.score for own in candidates.values()), reverse=True)
    lowest = min(0.0, *scores)
    got = _gains([item.score for item in evidence.items], lowest, document.discount)
    ideal = _gains(scores[: len(evidence.items)], lowest, document.discount)
    kept = got / ideal if ideal > 0 else 1.0
    moved = sum(item.rank != item.rank_by_score for item in evidence.items)
    broken = ""
    if not _close(kept, receipt.utility_kept):
        broken = f"the receipt says {receipt.utility_kept:.6f}, recomputed {kept:.6f}"
    elif moved != receipt.places_moved:
        broken = f"the receipt says {receipt.places_moved} places moved, counted {moved}"
    return _claim(name, broken, f"{kept:.6f}, {moved} places moved")


def _skipped(evidence: Evidence, document: Document) -> Iterator[Claim]:
    receipt = evidence.receipt
    if receipt.status == pb.RECEIPT_STATUS_SKIPPED:
        wanted = document.kind == "none" or not evidence.items
        yield _claim("the fair stage had nothing to do", "" if wanted else "the policy has rules")
    else:
        wanted = receipt.status == pb.RECEIPT_STATUS_MET
        yield _claim("the status is right", "" if wanted else "nothing is bounded: it must be met")


def _exposure(evidence: Evidence) -> Claim:
    name = "exposure of each group is right"
    if not evidence.whole:
        return _unchecked(name, "not all pages are here")
    receipt = evidence.receipt
    counts: Counter[str] = Counter()
    shares: Counter[str] = Counter()
    whole = sum(worth(receipt.discount, item.rank) for item in evidence.items)
    for item, rows in zip(evidence.items, _rows(evidence), strict=True):
        for row in rows:
            counts[row] += 1
            shares[row] += worth(receipt.discount, item.rank) / whole  # type: ignore[assignment]
    told = {part.group: part for part in receipt.exposure}
    wrong = [
        row
        for row in told.keys() | counts.keys()
        if row not in told
        or told[row].items != counts[row]
        or not _close(told[row].exposure_share, shares[row])
    ]
    broken = f"group {min(wrong)!r} is told wrong" if wrong else ""
    return _claim(name, broken, f"{len(counts)} groups")


def _bounds(evidence: Evidence, document: Document, known: Known | None) -> Iterator[Claim]:
    receipt = evidence.receipt
    if known is None:
        known = _known_from(evidence, document)
    if known is None:
        why = "calibrated with smoothing, and the catalogue is not at hand: give --bundle"
        yield _unchecked("every prefix keeps its bounds", why)
        return
    size = len(evidence.items)
    table = bounds(document, known, max(size, evidence.count))
    start = evidence.items[0].rank if evidence.items else 1
    broken = _first_broken(_rows(evidence), table) if start == 1 else None
    told = ""
    name = "every prefix keeps its bounds, or the receipt says where not"
    if receipt.status == pb.RECEIPT_STATUS_MET:
        if broken:
            told = f"the receipt says met, but {broken}"
    elif receipt.status == pb.RECEIPT_STATUS_INFEASIBLE:
        told = _no_proof(evidence, document, table)
    elif receipt.status == pb.RECEIPT_STATUS_NOT_FOUND and not broken and evidence.whole:
        told = "the receipt says that no list was found, but this one keeps every bound"
    status = pb.ReceiptStatus.Name(receipt.status).removeprefix("RECEIPT_STATUS_").lower()
    yield _claim(name, told, f"{status}; {size} prefixes of {len(table)} groups")
    yield from _best(evidence, document, table)
    yield from _calibration(evidence, document, known)


def _known_from(evidence: Evidence, document: Document) -> Known | None:
    """The groups that the evidence itself names, where the catalogue's sizes do not matter."""
    smoothed = any(
        kind == "calibrated" and section.get("smoothing", 10) for kind, _, section in document.rules
    )
    if smoothed or evidence.candidates is None:
        return None
    labels: dict[str, dict[str, int]] = {table: {} for table in document.tables}
    named = [own.groups for own in evidence.candidates.values()] + [
        tuple(rows) for rows in _rows(evidence)
    ]
    for groups in named:
        for table, row in zip(document.tables, groups, strict=False):
            labels[table][row.partition(":")[2] if len(document.tables) > 1 else row] = 1
    for kind, table, section in document.rules:
        shares = section["shares"] if kind == "fa_ir" else section
        names = shares if kind in ("floors", "window", "fa_ir") else section.get("groups", ())
        if table in labels:
            labels[table] |= dict.fromkeys(names, 1)
    for table, bought in evidence.bought.items():
        labels[table] |= dict.fromkeys(bought, 1)
    return Known(labels, evidence.bought)


def _first_broken(rows: Rows, table: Table) -> str:
    have: Counter[str] = Counter()
    for prefix, own in enumerate(rows, start=1):
        have.update(own)
        for row, limits in table.items():
            low, high = limits[prefix]
            if not low <= have[row] <= high:
                return (
                    f"the first {prefix} places hold {have[row]} of group {row!r}, allowed: "
                    f"{low} to {high}"
                )
    return ""


def _no_proof(evidence: Evidence, document: Document, table: Table) -> str:
    """Why the first bad prefix does not prove that no list keeps the policy; empty if it does."""
    if not evidence.receipt.HasField("first_bad_prefix"):
        return "the receipt says infeasible and not where"
    bad = evidence.receipt.first_bad_prefix
    if bad.group not in table or not 1 <= bad.prefix <= evidence.count:
        return f"there is no group {bad.group!r} or no prefix {bad.prefix}"
    if evidence.candidates is None or len(document.tables) > 1:
        return ""
    supply = Counter(row for own in evidence.candidates.values() for row in own.groups)
    low, high = table[bad.group][bad.prefix]
    if low > supply[bad.group]:
        wanted = (low, supply[bad.group])
        return "" if (bad.needed, bad.available) == wanted else f"it should say {wanted}"
    room = sum(min(limits[bad.prefix][1], supply[row]) for row, limits in table.items())
    if room < bad.prefix and bad.needed == high and bad.available == high + 1:
        return ""
    return (
        f"the first {bad.prefix} places need {low} to {high} of group {bad.group!r}, and "
        f"{supply[bad.group]} candidates are of it: a list can keep that"
    )


def _best(evidence: Evidence, document: Document, table: Table) -> Iterator[Claim]:
    name = "utility of the best list is right"
    receipt = evidence.receipt
    if receipt.status != pb.RECEIPT_STATUS_MET:
        broken = "is told though the policy was not met" if receipt.utility_of_best else ""
        yield _claim(name, broken, "not told")
        return
    if evidence.candidates is None or not evidence.whole:
        yield _unchecked(name, "needs all candidates and all pages")
        return
    scores = {item: own.score for item, own in evidence.candidates.items()}
    lowest = min(0.0, *scores.values())
    own = _gains([item.score for item in evidence.items], lowest, document.discount)
    best = largest_dcg(
        [(scores[item] - lowest, own.groups) for item, own in evidence.candidates.items()],
        table,
        [worth(document.discount, rank) for rank in range(1, len(evidence.items) + 1)],
    )
    if best is None:
        yield _unchecked(name, "several group tables, and the solver came to no end")
        return
    share = own / best if best > 0 else 1.0
    # What is told may be less than the truth, never more.
    broken = (
        f"the receipt says {receipt.utility_of_best:.6f}, recomputed {share:.6f}"
        if receipt.utility_of_best > share + TOLERANCE
        else ""
    )
    yield _claim(
        name, broken, f"{share:.6f} of the exact optimum, told {receipt.utility_of_best:.6f}"
    )


def _calibration(evidence: Evidence, document: Document, known: Known) -> Iterator[Claim]:
    name = "distance to the user's own shares is right"
    told = {gap.group_table: gap for gap in evidence.receipt.calibration}
    several = len(document.tables) > 1
    for kind, table, section in document.rules:
        if kind != "calibrated":
            continue
        if evidence.candidates is None or not evidence.whole:
            yield _unchecked(name, "needs all candidates and all pages")
            continue
        target = user_shares(known, table, section.get("smoothing", 10))
        if not any(target.values()):
            continue
        place = document.tables.index(table)

        def distance(listed: Sequence[Sequence[str]], place: int = place) -> float:
            whole = sum(worth(document.discount, rank) for rank in range(1, len(listed) + 1))
            shares: Counter[str] = Counter()
            for rank, rows in enumerate(listed, start=1):
                label = rows[place].partition(":")[2] if several else rows[place]
                shares[label] += worth(document.discount, rank) / whole  # type: ignore[assignment]
            return sum(
                float(q) * math.log(float(q) / (0.99 * shares[g] + 0.01 * float(q)))
                for g, q in target.items()  # noqa: B023
                if q
            )

        by_score = sorted(evidence.candidates.values(), key=lambda own: -own.score)
        before = distance([own.groups for own in by_score[: len(evidence.items)]])
        after = distance(_rows(evidence))
        gap = told.get(table)
        wrong = gap is None or not _close(gap.after, after)
        if not wrong and len({own.score for own in by_score}) == len(by_score):
            wrong = gap is None or not _close(gap.before, before)
        yield _claim(name, f"recomputed {before:.4f} before, {after:.4f} after" if wrong else "",
                     f"{before:.4f} before, {after:.4f} after")  # fmt: skip
