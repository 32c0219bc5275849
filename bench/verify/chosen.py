"""Claims about the candidates: that they are those that were asked for, in the bundle's groups.

A list that cannot be fair is proven so by counting its candidates. That proves nothing if some
were withheld or relabelled. Which candidates a server chose by itself, and their scores, are
taken as told.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

from bench.verify.bounds import Document, Known
from bench.verify.claims import Claim, Verdict, claim, rows_of, unchecked
from bench.verify.evidence import Evidence

_NO_BUNDLE = "give --bundle"


def candidates_are_right(
    evidence: Evidence, document: Document, known: Known | None
) -> Iterator[Claim]:
    """Every page's candidates: which they are, their groups, and the model that scored them."""
    pages = (*evidence.earlier, evidence)
    if evidence.history is not None:  # Those of a Rerank are the request's own.
        found = [_asked_for(page, _may_be_gone(page, evidence, known), known) for page in pages]
        yield max(found, key=lambda own: (own.verdict is not Verdict.HOLDS, own.verdict is Verdict.LIE))  # fmt: skip
    else:
        yield claim("candidates are those of the request", evidence.told_otherwise)
    if known is not None and evidence.history is not None:
        others = [page.model_digest for page in pages if page.model_digest != known.model_digest]
        yield claim(
            "the model is the bundle's",
            f"the answer says {others[0]!r}, the bundle has {known.model_digest!r}"
            if others
            else "",
            known.model_digest[:12],
        )
    yield from _groups(evidence, document, known)


def _may_be_gone(page: Evidence, last: Evidence, known: Known | None) -> Set[str] | None:
    """Named items that a server may leave out because the user bought them; None: not at hand."""
    if not page.drops_seen or page.history is None or last.history is None:
        return frozenset()
    # An event store is read once, for the last page.
    history = page.history if page.history.events is not None else last.history
    if history.events is None or (history.unread and not page.history.unread):
        return None
    return {
        event.item
        for event in history.events
        if (known is None or event.kind in known.positive)
        and (not history.as_of_ms or event.time_ms <= history.as_of_ms)
    }


def _asked_for(page: Evidence, gone: Set[str] | None, known: Known | None) -> Claim:
    name = "candidates are those that were asked for"
    # An empty list has none: any candidate would be in it.
    candidates = {} if page.candidates is None and not page.items else page.candidates
    told = () if candidates is None else candidates.keys()
    excluded = sorted(page.excluded.intersection(told))
    if excluded:
        return claim(name, f"item {excluded[0]!r} was excluded")
    if known is not None and (strange := sorted(set(told) - known.ids)):
        return claim(name, f"the bundle has no item {strange[0]!r}")
    named = len(page.allowed or ())
    if page.skipped > named:
        return claim(name, f"{page.skipped} are told as unknown, and the request names {named}")
    if page.allowed is None:
        return claim(name, "", "chosen by the server: which, is taken as told")
    if strange := sorted(set(told) - page.allowed):
        return claim(name, f"item {strange[0]!r} was not among those to choose from")
    if known is not None and page.skipped != len(page.allowed - known.ids):
        unknown = len(page.allowed - known.ids)
        return claim(name, f"{page.skipped} are told as unknown, the bundle lacks {unknown}")
    if candidates is None:
        return unchecked(name, "the response has no candidates: ask with_candidates")
    left_out = page.allowed - page.excluded - candidates.keys()
    if known is not None:
        left_out &= known.ids
    missing = sorted(left_out - (gone or frozenset()))
    if known is None and page.skipped > len(page.allowed - candidates.keys()):
        return claim(name, f"{page.skipped} are told as unknown, and fewer are missing")
    if missing and gone is None:
        return unchecked(name, "what the user bought before may be left out: give --events")
    if len(missing) > (page.skipped if known is None else 0):
        return claim(name, f"item {missing[0]!r} was to be one, and nothing excludes it")
    if missing:
        return unchecked(name, f"those left out may be unknown to the bundle: {_NO_BUNDLE}")
    return claim(name, "", f"{len(page.allowed)} named, {len(candidates)} candidates")


def _groups(evidence: Evidence, document: Document, known: Known | None) -> Iterator[Claim]:
    name = "groups are those of the bundle"
    pages = (*evidence.earlier, evidence)
    rows = [
        (item, own.groups) for page in pages for item, own in (page.candidates or {}).items()
    ] + [
        (item.item_id, tuple(own))
        for item, own in zip(evidence.items, rows_of(evidence.items), strict=True)
    ]
    looked_up = [(item, own) for item, own in rows if item not in evidence.told_groups]
    if not document.tables or (rows and not looked_up):
        return
    if known is None:
        yield unchecked(name, f"nothing else tells them: {_NO_BUNDLE}")
        return
    # A Rerank may have them looked up in another table than the policy's.
    tables = (evidence.group_table,) if evidence.group_table else document.tables
    several = len(document.tables) > 1
    for item, own in looked_up:
        wanted = tuple(
            f"{table}:{known.group_of[table][item]}" if several else known.group_of[table][item]
            for table in tables
            if item in known.group_of[table]
        )
        if own != wanted:
            told, right = ", ".join(own) or "none", ", ".join(wanted) or "none"
            yield claim(name, f"item {item!r} is told to be of {told}, the bundle has {right}")
            return
    candidates = len({item for page in pages for item in page.candidates or ()})
    yield claim(name, "", f"{candidates} candidates, {len(evidence.items)} items")
