"""The claim about what the user bought, which a calibrated policy's bounds rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from bench.verify.bounds import Document, Known
from bench.verify.claims import Claim, Verdict, claim, unchecked
from bench.verify.evidence import Evidence
from bench.verify.history import History

Counts = Mapping[str, Mapping[str, int]]


def bought_is_right(evidence: Evidence, document: Document, known: Known | None) -> Iterator[Claim]:
    """Counts that a Recommend tells are counted again; of a Rerank the request's own are used."""
    name = "what the user bought is counted right"
    tables = [table for kind, table, _ in document.rules if kind == "calibrated"]
    told = {table: own for table, own in evidence.bought.items() if any(own.values())}
    strange = sorted(told.keys() - set(tables))
    if strange:
        yield claim(name, f"table {strange[0]!r} is counted, and the policy does not calibrate it")
    elif tables and evidence.history is None:
        yield claim(name, "", "by the request itself: bounds and distances are computed from it")
    elif tables and evidence.candidates is None:
        yield unchecked(name, "the response does not tell it: ask with_candidates")
    elif tables and evidence.history is not None:
        found = _recounted(name, told, tables, evidence.history, known)
        still = all(page.bought == evidence.bought for page in evidence.earlier)
        if still or found.verdict is Verdict.LIE:
            yield found
        elif evidence.history.user:
            yield unchecked(
                name, "it changed between the pages, and the store has only what is now"
            )
        else:
            yield claim(name, "the pages differ in it, and the history does not come from a store")


def _recounted(
    name: str, told: Counts, tables: Sequence[str], history: History, known: Known | None
) -> Claim:
    if history.events is None:
        return unchecked(
            name, f"the history of user {history.user!r} lies in an event store: give --events"
        )
    if not history.events:
        why = "the event store did not answer" if history.unread else "there is no history"
        return claim(name, f"{why}, and purchases are counted" if told else "", why)
    if known is None:
        return unchecked(name, "the groups of what was bought are not at hand: give --bundle")
    # Lines of one item at one instant are one purchase, so a set; oldest first.
    group_of = [known.group_of[table] for table in tables]
    sales = sorted(
        {
            (event.time_ms, event.item)
            for event in history.events
            if event.kind in known.positive
            and event.item in group_of[0]
            and (not history.as_of_ms or event.time_ms <= history.as_of_ms)
        }
    )

    def counted(first: int) -> Counts:
        return {
            table: Counter(own[item] for _, item in sales[:first])
            for table, own in zip(tables, group_of, strict=True)
            if first
        }

    plain = {table: {g: n for g, n in own.items() if n} for table, own in told.items()}
    if plain == counted(len(sales)):
        return claim(name, "", f"{len(sales)} purchases")
    # Without as_of the server's clock decides, which no answer tells: it may have stood anywhere
    # after the bundle's data, so the oldest so many purchases may be all that counted then.
    first = sum(plain.get(tables[0], {}).values())
    if not history.as_of_ms and first < len(sales):
        before = sales[first - 1][0] if first else 0
        if sales[first][0] > max(before, known.until_ms) and plain == counted(first):
            return unchecked(
                name,
                f"it is right if the list was made before {sales[first][0]} (Unix ms), and the "
                "request has no as_of_unix_ms",
            )
    if history.cut:
        return unchecked(name, "the store holds more events of the user than a server reads")
    return claim(name, _difference(plain, counted(len(sales)), history))


def _difference(told: Counts, found: Counts, history: History) -> str:
    for table in sorted(told.keys() | found.keys()):
        own, right = told.get(table, {}), found.get(table, {})
        for group in sorted(own.keys() | right.keys()):
            if own.get(group, 0) != right.get(group, 0):
                where = "event store" if history.user else "request's history"
                return (
                    f"group {group!r} of {table!r} is told {own.get(group, 0)} times, the {where} "
                    f"has {right.get(group, 0)}"
                )
    return ""
