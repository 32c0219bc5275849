"""A line and the results -> what was measured, or why it cannot be used.

Owns the dispatch by kind and the invariants' few rules; paths of quality stand in
`bench.gate.quality`, those of loads in `bench.gate.load`.

invariants.violations   how many
invariants.PATH         any other number of the document
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.gate.asked import Asked, Evidence
from bench.gate.load import measure_load
from bench.gate.measured import Broken, Measured, Unusable, Void, Withheld, count, look_up, number
from bench.gate.quality import measure_quality

MAKERS = {"quality": "evaluate"}


def _invariants(document: Mapping[str, Any], path: str) -> Measured:
    checked = document.get("checked")
    if not isinstance(checked, Mapping):
        raise Broken("the invariants result does not say what was checked")
    if document.get("only"):
        raise Broken(f"the run checked only {document['only']!r}, not every property")
    if document.get("tables_known") is not True:
        raise Broken("the run did not know the bundle, so bounds were not checked; give --bundle")
    never = [name for name, times in checked.items() if not count(times, f"checked.{name}")]
    if never:
        raise Broken(
            f"{len(never)} theorems were never checked, such as {never[0]!r}; raise --examples"
        )
    n = sum(checked.values())
    if path in ("violations", "violation_count"):
        told, listed = document.get("violation_count"), document.get("violations")
        found = count(told, "violation_count")
        if not isinstance(listed, Sequence) or len(listed) != found:
            raise Broken(f"violation_count is {found}, but the list of violations disagrees")
        if not found and document.get("valid") is False:
            raise Void(f"the run is void: {document.get('void_because') or 'no reason is told'}")
        return Measured(found, n, "checks", violations=True)
    return Measured(number(look_up(document, "invariants", path), path), n, "checks")


def measure(evidence: Evidence, asked: Asked) -> Measured | Unusable:
    """What the results say about a line's metric."""
    kind = asked.kind
    results = evidence.of(kind)
    if not results:
        return Unusable(
            f"no {kind} result was given; 'equipoise {MAKERS.get(kind, kind)}' makes one"
        )
    try:
        if kind == "quality":
            return measure_quality(evidence, asked)
        if asked.budget.leave_out and not asked.path.startswith(("groups.", "exposure.")):
            return Unusable(
                "leave_out belongs to the worst of quality.groups, load.groups and load.exposure"
            )
        if kind == "load":
            return measure_load(evidence, asked)
        if asked.against == "baseline":
            return Unusable("invariants take no margin: they are theorems")
        return _invariants(results[0].document, asked.path)
    except Broken as broken:
        return Unusable(str(broken), withheld=isinstance(broken, Withheld))
