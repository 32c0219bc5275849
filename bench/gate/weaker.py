"""Which lines are weaker than in the last release's budgets.

Owns what "weaker" means: a lower at_least, a higher at_most, a wider margin, a
bound, margin or line that is no more, less evidence, a value where an interval
decided, more groups left out, the other direction, a later end. Each needs its `weaker_because`; a dropped line an
entry in `dropped`. Bounds get lower one release at a time, and nobody decides it.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.gate.budgets import Budget, Budgets
from bench.gate.lines import Line, Status


def weaker_parts(now: Budget, before: Budget) -> list[str]:
    """In what a line is weaker than before; empty if in nothing."""
    return list(_parts(now, before))


def _parts(now: Budget, before: Budget) -> Iterator[str]:
    for name, lower_is_weaker in (("at_least", True), ("at_most", False), ("margin", False)):
        new, old = getattr(now, name), getattr(before, name)
        if old is None:
            continue
        if new is None:
            yield f"{name} {old:g} is no more"
        elif (new < old) if lower_is_weaker else (new > old):
            yield f"{name} {old:g} -> {new:g}"
    if before.margin_is is not None and now.margin_is not in (None, before.margin_is):
        yield f"margin_is {before.margin_is} -> {now.margin_is}: not comparable"
    for name in ("min_n", "min_positives", "min_pairs"):
        new, old = getattr(now, name), getattr(before, name)
        if new < old:
            yield f"{name} {old} -> {new}"
    if now.min_blocks is not None and (
        before.min_blocks is None or now.min_blocks < before.min_blocks
    ):
        yield f"min_blocks {before.min_blocks or 'default'} -> {now.min_blocks}"
    elif now.min_blocks is None and before.min_blocks is not None:
        yield f"min_blocks {before.min_blocks} -> default"
    if before.direction is not None and now.direction != before.direction:
        yield f"direction {before.direction} -> {now.direction}"
    if before.expires is not None and (now.expires is None or now.expires > before.expires):
        yield f"expires {before.expires} -> {now.expires or 'never'}"
    if now.block_s < before.block_s:
        yield f"block_s {before.block_s:g} -> {now.block_s:g}"
    if before.decide_on == "interval" and now.decide_on == "value":
        yield "decide_on interval -> value"
    if more := sorted(set(now.leave_out) - set(before.leave_out)):
        yield f"leave_out now has {', '.join(more)} too"


def _closest(budgets: Budgets, old: Budget) -> tuple[Budget, list[str]] | None:
    """The line of the same metric that is weaker in the least; None if there is no such line."""
    same = [line for line in budgets.budget if line.metric == old.metric]
    told = [(line, weaker_parts(line, old)) for line in same]
    return min(told, key=lambda pair: len(pair[1]), default=None)


def weaker_lines(now: Budgets, before: Budgets) -> list[Line]:
    """A failing line for all that is weaker without a reason, a passing one with the reason."""
    lines: list[Line] = []
    dropped = {entry.metric: entry.weaker_because for entry in now.dropped}
    for old in before.budget:
        found = _closest(now, old)
        if found is None:
            because = dropped.get(old.metric, "")
            lines.append(_line(old.metric, "the line is no more", because, old.owner))
        elif found[1]:
            line, parts = found
            lines.append(_line(old.metric, "; ".join(parts), line.weaker_because, old.owner))
    file_parts = list(_file_parts(now, before))
    if file_parts:
        lines.append(_line("budgets", "; ".join(file_parts), now.weaker_because, ""))
    return lines


def _file_parts(now: Budgets, before: Budgets) -> Iterator[str]:
    if now.confidence < before.confidence:
        yield f"confidence {before.confidence:g} -> {now.confidence:g}"
    if now.baseline_may_be_candidate and not before.baseline_may_be_candidate:
        yield "the baseline may now be the candidate"
    for name, digest in before.policies.items():
        if name not in now.policies:
            yield f"policy {name} is no more named"
        elif now.policies[name] != digest:
            yield f"policy {name} is another one"
    for metric in before.coverage.metrics:
        if metric not in now.coverage.metrics:
            yield f"coverage of {metric} is no more"
    for attribute, labels in before.coverage.groups.items():
        kept = now.coverage.groups.get(attribute)
        if kept is None:
            yield f"coverage of groups of {attribute} is no more"
        elif lost := sorted(set(labels) - set(kept)):
            yield f"coverage of {attribute} leaves out {', '.join(lost)}"


def _line(metric: str, what: str, because: str, owner: str) -> Line:
    return Line(
        metric,
        Status.PASS if because else Status.FAIL,
        bound="as strict as in the last release",
        why=f"weaker: {what}; {f'because: {because}' if because else 'no weaker_because says why'}",
        reason="A bound that gives way a little at each release is no bound.",
        owner=owner,
        kind="weaker",
        weaker_because=because,
    )
