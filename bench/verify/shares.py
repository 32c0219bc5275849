"""The claim about how far a list is from its user's own shares, by score alone and as it is."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from bench.verify.bounds import Document, Known, user_shares, worth
from bench.verify.claims import TOLERANCE, Claim, claim, close, rows_of, unchecked
from bench.verify.evidence import Evidence

Rows = Sequence[Sequence[str]]


def distances_are_right(evidence: Evidence, document: Document, known: Known) -> Iterator[Claim]:
    """Of each calibrated table: the divergence from the user's own shares, by score and in the list."""
    name = "distance to the user's own shares is right"
    told = {gap.group_table: gap for gap in evidence.receipt.calibration}
    several = len(document.tables) > 1
    for kind, table, section in document.rules:
        if kind != "calibrated":
            continue
        if evidence.candidates is None or not evidence.whole:
            yield unchecked(name, "needs all candidates and all pages")
            continue
        target = user_shares(known, table, section.get("smoothing", 10))
        if not any(target.values()):
            if table in told:
                yield claim(name, "it is told, and nothing is known of what the user buys")
            continue
        place = document.tables.index(table)
        prefix = f"{table}:" if several else ""

        def labels_of(listed: Rows, place: int = place, prefix: str = prefix) -> list[str]:
            return [rows[place].removeprefix(prefix) for rows in listed]

        size = len(evidence.items)
        by_score = sorted(evidence.candidates.values(), key=lambda own: -own.score)
        least, most = shares_by_score(
            [own.score for own in by_score],
            labels_of([own.groups for own in by_score]),
            [worth(document.discount, rank) for rank in range(1, size + 1)],
        )
        # The more a group has of the list, the nearer it is.
        nearest, farthest = _distance(target, most), _distance(target, least)
        after = _distance(target, _shares(labels_of(rows_of(evidence.items)), document.discount))
        gap = told.get(table)
        wrong = gap is None or not close(gap.after, after)
        if gap is not None and not wrong:
            # Written so that what is no number is wrong.
            wrong = not nearest - TOLERANCE <= gap.before <= farthest + TOLERANCE
        before = f"{nearest:.4f}"
        if not close(nearest, farthest):
            before += f" to {farthest:.4f}, since scores are equal,"
        said = (
            f"{gap.before:.4f} before and {gap.after:.4f} after" if gap is not None else "nothing"
        )
        why = f"the receipt says {said}, recomputed {before} before and {after:.4f} after"
        yield claim(name, why if wrong else "", f"{before} before and {after:.4f} after")


def _distance(target: Mapping[str, Fraction], shares: Mapping[str, float]) -> float:
    return sum(
        float(q) * math.log(float(q) / (0.99 * shares.get(g, 0.0) + 0.01 * float(q)))
        for g, q in target.items()
        if q
    )


def _shares(labels: Sequence[str], discount: str) -> dict[str, float]:
    """What part of the worth of a list's places each label has."""
    places = [worth(discount, rank) for rank in range(1, len(labels) + 1)]
    shares = dict.fromkeys(labels, 0.0)
    for label, own in zip(labels, places, strict=True):
        shares[label] += own / sum(places)
    return shares


def shares_by_score(
    scores: Sequence[float], labels: Sequence[str], places: Sequence[float]
) -> tuple[dict[str, float], dict[str, float]]:
    """The least and the most that each label can have of the list by score: items of one score can
    stand in any order, so that of those on the cut any may be in it.

    scores: highest first. places: what each place of the list is worth, so falling.
    """
    least, most = (dict.fromkeys(labels, 0.0) for _ in range(2))
    whole, start = sum(places) or 1.0, 0
    for _, run in itertools.groupby(scores):
        end = start + len(list(run))
        open_places = places[start:end]
        for label, own in Counter(labels[start:end]).items():
            others = end - start - own
            most[label] += sum(open_places[:own]) / whole
            least[label] += sum(open_places[others:]) / whole
        start = end
    return least, most
