"""Claims about bounds: every prefix, the certificate where a policy cannot be met, the distance to
the best list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from bench.verify.bounds import SHAPING, Document, Known, bounds, worth
from bench.verify.claims import (
    TOLERANCE,
    Claim,
    Verdict,
    claim,
    discounted,
    rows_of,
    unchecked,
)
from bench.verify.evidence import Evidence
from bench.verify.existence import SOLVER_S, list_exists
from bench.verify.optimum import largest_dcg
from bench.verify.shares import distances_are_right
from equipoise.v1 import recommendation_pb2 as pb

Rows = Sequence[Sequence[str]]
Table = Mapping[str, Sequence[tuple[int, int]]]


MOST = 10_000
"""Places that are looked at where the candidates are not told: what a server answers at most is less."""


def bounds_hold(evidence: Evidence, document: Document, known: Known | None) -> Iterator[Claim]:
    receipt = evidence.receipt
    if evidence.candidates is None and any(kind == "calibrated" for kind, _, _ in document.rules):
        why = "calibrated to what the user bought, which is not told: ask with_candidates"
        yield unchecked("every prefix keeps its bounds", why)
        return
    known = groups_at_hand(evidence, document, known)
    if known is None:
        why = "calibrated with smoothing, and the catalogue is not at hand: give --bundle"
        yield unchecked("every prefix keeps its bounds", why)
        return
    size = len(evidence.items)
    # No list is longer than its candidates, whatever was asked for.
    longest = MOST if evidence.candidates is None else len(evidence.candidates)
    table = bounds(document, known, max(size, min(evidence.count, longest)))
    # By their order here, whatever ranks they say: those are a claim of their own.
    broken = "" if evidence.offset else _first_broken(rows_of(evidence.items), table)
    told = ""
    name = "every prefix keeps its bounds, or the receipt says where not"
    if receipt.status == pb.RECEIPT_STATUS_MET:
        if broken:
            told = f"the receipt says met, but {broken}"
        elif receipt.HasField("first_bad_prefix") or receipt.skip_reason:
            told = "the receipt says met, and why not"
    elif receipt.status == pb.RECEIPT_STATUS_INFEASIBLE:
        if evidence.candidates is None:
            yield unchecked(name, "infeasible cannot be proven without the candidates")
            return
        told = _no_proof(evidence, document, table) or _lower(evidence, document, table)
        if not told and len(document.tables) > 1:
            exists = _exists(evidence, table)
            if exists is None:
                yield unchecked(name, "whether any list keeps them: the solver came to no end")
                return
            told = "a list of the candidates keeps every bound" if exists else ""
    elif receipt.status == pb.RECEIPT_STATUS_NOT_FOUND and not (
        len(document.tables) > 1 or evidence.paged
    ):
        told = "of one group table it is always known whether a list keeps the policy"
    elif receipt.status == pb.RECEIPT_STATUS_NOT_FOUND and not broken and evidence.whole:
        told = "the receipt says that no list was found, but this one keeps every bound"
    elif receipt.status == pb.RECEIPT_STATUS_NOT_FOUND:
        told = _told_elsewhere(evidence, table)
    elif receipt.status not in pb.ReceiptStatus.values() or not receipt.status:
        told = f"status {receipt.status} is none"
    if evidence.offset and not told:
        yield unchecked(name, f"the {evidence.offset} places before are not here: give every page")
        return
    status = next((n for n, value in pb.ReceiptStatus.items() if value == receipt.status), "none")
    status = status.removeprefix("RECEIPT_STATUS_").lower()
    yield claim(name, told, f"{status}; {size} prefixes of {len(table)} groups")
    if receipt.status == pb.RECEIPT_STATUS_NOT_FOUND and not told:
        yield _not_found(evidence, table)
    yield from _best(evidence, document, table)
    yield from distances_are_right(evidence, document, known)


def groups_at_hand(evidence: Evidence, document: Document, known: Known | None) -> Known | None:
    """What the bounds of a page rest on: what was bought is told by each anew."""
    if known is not None:
        return replace(known, bought=evidence.bought)
    return _known_from(evidence, document)


def _known_from(evidence: Evidence, document: Document) -> Known | None:
    """The groups that the evidence itself names, where the catalogue's sizes do not matter."""
    smoothed = any(
        kind == "calibrated" and section.get("smoothing", 10) for kind, _, section in document.rules
    )
    if smoothed or evidence.candidates is None:
        return None
    labels: dict[str, dict[str, int]] = {table: {} for table in document.tables}
    named = [own.groups for own in evidence.candidates.values()] + [
        tuple(rows) for rows in rows_of(evidence.items)
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
        if table in labels:
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
    if bad.group not in table or not 1 <= bad.prefix < len(table[bad.group]):
        return f"there is no group {bad.group!r} or no prefix {bad.prefix}"
    if evidence.candidates is None:
        return ""
    if len(document.tables) > 1:
        return _told_elsewhere(evidence, table)
    supply = _supply(evidence)
    for prefix in range(1, bad.prefix):
        short = any(limits[prefix][0] > supply[row] for row, limits in table.items())
        if short or _room(table, supply, prefix) < prefix:
            return f"prefix {bad.prefix} is told as the first bad one, but {prefix} is bad before"
    low, high = table[bad.group][bad.prefix]
    if low > supply[bad.group]:
        wanted = (low, supply[bad.group])
        return "" if (bad.needed, bad.available) == wanted else f"it should say {wanted}"
    # Of a group that has no more than its ceiling allows, the ceiling leaves no place empty.
    if (
        _room(table, supply, bad.prefix) < bad.prefix
        and supply[bad.group] > high
        and bad.needed == high
        and bad.available == high + 1
    ):
        return ""
    return (
        f"the first {bad.prefix} places need {low} to {high} of group {bad.group!r}, and "
        f"{supply[bad.group]} candidates are of it: a list can keep that"
    )


def _told_elsewhere(evidence: Evidence, table: Table) -> str:
    """Whether the bad prefix is not the first that the list breaks; of several tables it is."""
    bad = evidence.receipt.first_bad_prefix
    if not evidence.receipt.HasField("first_bad_prefix"):
        return "the receipt does not say where the list breaks its bounds"
    if evidence.offset:
        return ""
    have: Counter[str] = Counter()
    for prefix, own in enumerate(rows_of(evidence.items), start=1):
        have.update(own)
        broken = {}
        for row, limits in table.items():
            low, high = limits[prefix]
            if not low <= have[row] <= high:
                broken[row] = (low if have[row] < low else high, have[row])
        if broken:
            told = (bad.needed, bad.available)
            if prefix == bad.prefix and broken.get(bad.group) == told:
                return ""
            row = next(iter(broken))
            return (
                f"it says prefix {bad.prefix}, group {bad.group!r}, {told}; the list breaks prefix "
                f"{prefix}, group {row!r}, {broken[row]}"
            )
    return "" if bad.prefix > len(evidence.items) else "the list keeps the prefix that is told bad"


def _exists(evidence: Evidence, table: Table, begins: int = 0) -> bool | None:
    """Whether a list of the candidates keeps every bound; begins: so many places stand already."""
    candidates = evidence.candidates or {}
    return list_exists(
        [own.groups for own in candidates.values()],
        table,
        min(evidence.count, len(candidates)),
        [tuple(rows) for rows in rows_of(evidence.items[:begins])],
    )


def _not_found(evidence: Evidence, table: Table) -> Claim:
    """NOT_FOUND proves nothing, so it cannot lie about what exists; an auditor wants to know still."""
    name = "no list that keeps the policy is there to be found"
    if evidence.candidates is None or not evidence.whole:
        return unchecked(name, "needs all candidates and all pages")
    shown = len(evidence.earlier[-1].items) if evidence.earlier else 0
    found = _exists(evidence, table, shown)
    if found is None:
        return unchecked(name, f"the solver came to no end in {SOLVER_S:g} s")
    if found:
        after = f" that goes on from the {shown} places shown before" if shown else ""
        return Claim(name, Verdict.MISSED, f"NOT_FOUND, yet a list{after} exists")
    return claim(name, "", "proven: INFEASIBLE would have been true")


def _supply(evidence: Evidence) -> Counter[str]:
    return Counter(row for own in (evidence.candidates or {}).values() for row in own.groups)


def _room(table: Table, supply: Counter[str], prefix: int) -> int:
    """Places of a prefix that the ceilings let the supply fill."""
    return sum(min(limits[prefix][1], supply[row]) for row, limits in table.items())


def _lower(evidence: Evidence, document: Document, table: Table) -> str:
    """Where a list of one table that cannot keep its policy has less of a group than supply allows."""
    if len(document.tables) > 1 or evidence.paged or evidence.candidates is None:
        return ""
    # Before the prefix that no list can keep, every bound can be kept, and is.
    first = evidence.receipt.first_bad_prefix.prefix
    if early := _first_broken(rows_of(evidence.items)[: first - 1], table):
        return f"prefix {first} is told as the first bad one, and before it {early}"
    supply, longest = _supply(evidence), len(evidence.items)
    lowered = {
        row: [(min(low, supply[row]), longest) for low, _ in limits]
        for row, limits in table.items()
    }
    short = _first_broken(rows_of(evidence.items), lowered)
    return f"of what there is, {short}" if short else ""


def _best(evidence: Evidence, document: Document, table: Table) -> Iterator[Claim]:
    name = "utility of the best list is right"
    receipt = evidence.receipt
    if receipt.status != pb.RECEIPT_STATUS_MET:
        broken = "is told though the policy was not met" if receipt.utility_of_best else ""
        yield claim(name, broken, "not told")
        return
    if evidence.candidates is None or not evidence.whole:
        yield unchecked(name, "needs all candidates and all pages")
        return
    scores = {item: own.score for item, own in evidence.candidates.items()}
    lowest = min(0.0, *scores.values())
    # As scored for the last page: those of earlier ones may have other scores by now.
    listed = [scores.get(item.item_id, item.score) for item in evidence.items]
    own = discounted(listed, lowest, document.discount)
    best = largest_dcg(
        [(scores[item] - lowest, own.groups) for item, own in evidence.candidates.items()],
        table,
        [worth(document.discount, rank) for rank in range(1, len(evidence.items) + 1)],
    )
    if best is None:
        yield unchecked(name, "several group tables, and the solver came to no end")
        return
    if best < 0:
        yield claim(name, "no list keeps the bounds, and the receipt says met")
        return
    share = own / best if best > 0 else 1.0
    # What is told may be less than the truth, never more; of kinds that are exact it is the truth,
    # and the list is the best one unless something else orders it.
    kinds = {kind for kind, _, _ in document.rules} - set(SHAPING)
    exact = len(document.tables) == 1 and (kinds <= {"floors", "fa_ir"} or kinds <= {"cap"})
    # Written so that what is no number is wrong.
    wrong = not 0 <= receipt.utility_of_best <= share + TOLERANCE
    if exact:
        wrong |= receipt.utility_of_best < share - TOLERANCE
        wrong |= share < 1 - TOLERANCE and not (evidence.paged or document.shaped_by)
    elif receipt.utility_of_best == 0 < share:
        yield unchecked(name, f"told 0, which bounds nothing; {share:.6f} of the exact optimum")
        return
    if share > 1 + TOLERANCE:
        yield claim(
            name, f"{share:.6f} of the exact optimum: no list that keeps the bounds has that"
        )
        return
    broken = (
        f"the receipt says {receipt.utility_of_best:.6f}, recomputed {share:.6f}" if wrong else ""
    )
    yield claim(
        name, broken, f"{share:.6f} of the exact optimum, told {receipt.utility_of_best:.6f}"
    )
