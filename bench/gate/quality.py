"""Quality metrics: from the per-user arrays where they lie there, else from the document.

quality.NAME                                an estimate of `metrics`
quality.groups.ATTRIBUTE.GROUP.METRIC       an estimate of one group
quality.groups.ATTRIBUTE.METRIC.worst       the worst group's value
quality.groups.ATTRIBUTE.METRIC.worst_ratio the worst group's value over the best group's
quality.groups.ATTRIBUTE.METRIC.worst_gap   the best group's value minus the worst group's
ATTRIBUTE may be two, crossed: income+age.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.gate.asked import Asked, Evidence
from bench.gate.cells import Ends, compared, exact_share_limits, is_binary
from bench.gate.documents import DocumentReader, GroupPath, checked_protocol, group_path
from bench.gate.means import Values, mean_limits, mean_of, paired_ratio, ratio_limits
from bench.gate.measured import Broken, Cell, Measured, Withheld, number
from bench.gate.paired import both_known, paired, paired_cells
from bench.gate.results import Result
from bench.gate.same import incomparable
from bench.gate.user_arrays import UserArrays, joined

_LEAD = re.compile(r"(?P<metric>.+_at_\d+|inferred_.+)_minus_(?P<baseline>.+)")
_POLICY = re.compile(r"(?P<what>ndcg_kept|price_of_fairness)_(?P<policy>.+)")
_AGREE = 1e-6


def measure_quality(evidence: Evidence, asked: Asked) -> Measured:
    """What the evaluation says. Raises Broken."""
    (result,) = evidence.of("quality")
    checked_protocol(result.document)
    if asked.against == "baseline":
        return _against(evidence, result, asked)
    reader = DocumentReader(result.document, asked)
    groups = group_path(result, asked.path)
    if groups is not None and result.users is not None and groups.label is None:
        return _cells(result, result.users, groups, asked, reader)
    seen = reader.measure()
    if result.users is None:
        return seen
    if groups is not None:
        values = _one_group(result.users, groups)
        return seen if values is None else _mean(values, seen, asked)
    return _recomputed(result.users, asked, seen)


def per_user(users: UserArrays, path: str) -> Values | None:
    """A metric's value for every user; None where it is no mean over users."""
    if path in users.values:
        return users.column(path)
    if lead := _LEAD.fullmatch(path):
        theirs = f"{lead['baseline']}/{lead['metric']}"
        if lead["metric"] in users.values and theirs in users.values:
            return users.column(lead["metric"]) - users.column(theirs)
    return None


def _agrees(value: float, n: int, seen: Measured) -> None:
    if n != seen.n or abs(value - seen.value) > _AGREE:
        raise Broken(
            f"the per-user arrays give {value:g} over {n:,} users, the result says {seen.value:g} "
            f"over {seen.n:,}: they are of different runs"
        )


def _mean(values: Values, seen: Measured, asked: Asked) -> Measured:
    known = values[np.isfinite(values)]
    if not len(known):
        raise Broken("rests on no user at all: an empty group")
    mean = mean_of(known)
    _agrees(mean.value, mean.n, seen)
    alphas = asked.alphas
    binary = is_binary({"all": known})
    limits = (
        exact_share_limits(int(known.sum()), mean.n, *alphas)
        if binary
        else mean_limits(mean, *alphas)
    )
    return Measured(mean.value, mean.n, "users", *limits, resampled=not binary, note=seen.note)


def _recomputed(users: UserArrays, asked: Asked, seen: Measured) -> Measured:
    values = per_user(users, asked.path)
    if values is not None:
        return _mean(values, seen, asked)
    policy = _POLICY.fullmatch(asked.path)
    whole = next((m for m in users.values if re.fullmatch(r"ndcg_at_\d+", m)), "")
    part = f"{policy['policy']}/{whole}" if policy else ""
    if policy is None or part not in users.values:
        return seen
    with_policy, without = both_known(users.column(part), users.column(whole))
    top, bottom, together = paired_ratio(with_policy, without)
    low_alpha, high_alpha = asked.alphas
    if policy["what"] == "ndcg_kept":
        low, high = ratio_limits(top, bottom, together, low_alpha, high_alpha)
        value = top.value / bottom.value if bottom.value > 0 else float("nan")
    else:
        above, below = ratio_limits(top, bottom, together, high_alpha, low_alpha)
        value, low, high = 1 - top.value / bottom.value, 1 - below, 1 - above
    _agrees(value, len(without), seen)
    return Measured(value, len(without), "users", low, high, resampled=True)


def _one_group(users: UserArrays, groups: GroupPath) -> Values | None:
    labels = users.labels(groups.attribute)
    if labels is None or groups.metric not in users.values:
        return None
    found: Values = users.column(groups.metric)[labels == groups.label]
    return found


def group_values(
    result: Result, users: UserArrays, groups: GroupPath, leave_out: tuple[str, ...]
) -> dict[str, NDArray[np.bool_]]:
    """label -> `[users] bool`, whom of all users the group has. Raises Broken, Withheld."""
    labels = users.labels(groups.attribute)
    if labels is None:
        raise Broken(f"the per-user arrays have no groups of {groups.attribute!r}")
    known = sorted(set(labels.tolist()))
    for label in leave_out:
        if label not in known:
            raise Broken(f"leave_out names {label!r}; the groups are: {known}")
    told = result.document.get("groups", {})
    listed = told.get(groups.attribute) if isinstance(told, Mapping) else None
    for label in listed if isinstance(listed, Mapping) else ():
        if label not in known:
            raise Broken(f"group {label!r} of {groups.attribute} has no user: an empty group")
    protocol = result.document.get("protocol")
    least = protocol.get("min_users", 0) if isinstance(protocol, Mapping) else 0
    found = {}
    for label in known:
        if label in leave_out:
            continue
        members = labels == label
        if members.sum() < number(least, "protocol.min_users"):
            raise Withheld(
                f"{groups.metric} of group {label!r} is withheld: {members.sum()} users, fewer "
                f"than {least}; leave_out can name such a group"
            )
        found[label] = members
    if len(found) < 2:
        raise Broken(f"{groups.attribute} has {len(found)} groups to compare, allowed: 2 or more")
    return found


def _cells(
    result: Result, users: UserArrays, groups: GroupPath, asked: Asked, reader: DocumentReader
) -> Measured:
    assert groups.how is not None
    members = group_values(result, users, groups, asked.budget.leave_out)
    column = users.column(groups.metric)
    cells = {label: column[of] for label, of in members.items()}
    cells = {label: values[np.isfinite(values)] for label, values in cells.items()}
    empty = [label for label, values in cells.items() if not len(values)]
    if empty:
        raise Broken(f"{groups.metric} of group {empty[0]!r} rests on no user: an empty group")
    for label, seen in reader.told_cells(groups).items():
        _agrees(float(cells[label].mean()), len(cells[label]), seen)
    bound = asked.high_bound if groups.how == "worst_gap" else asked.low_bound
    (value, low, high), found = compared(cells, groups.how, bound, *asked.alphas)
    least = min(found, key=lambda cell: cell.positives or 0)
    best = max((cell.positives or 0) / cell.n for cell in found)
    expected = {cell.label: cell.n * best for cell in found}
    scarce = min(expected, key=lambda label: expected[label])
    floor = asked.budget.min_positives
    lacks = no_pass = ""
    if expected[scarce] < floor:
        lacks = (
            f"group {scarce!r} would have {expected[scarce]:.1f} users with a value above 0 at the "
            f"best group's rate, needed: {floor}"
        )
    if (least.positives or 0) < floor:
        no_pass = f"group {least.label!r} has {least.positives} users with a value above 0, needed: {floor}"
    pick: Callable[..., Any] = max if groups.how == "worst_gap" else min
    worst = pick(found, key=lambda cell: cell.value)
    return Measured(
        value, min(cell.n for cell in found), "users", low, high, lacks=lacks, no_pass=no_pass,
        note=_group_note(worst, found), cells=found,
    )  # fmt: skip


def _group_note(worst: Cell, cells: Sequence[Cell]) -> str:
    """The group that decides, and whose users the line counts."""
    least = min(cells, key=lambda cell: cell.n)
    if worst.n == least.n:
        return f"group {worst.label!r}"
    return f"group {worst.label!r}; {least.n:,} users has the smallest, {least.label!r}"


def _against(evidence: Evidence, result: Result, asked: Asked) -> Measured:
    before = evidence.before("quality")
    if not before:
        raise Broken("no quality result of a baseline was given; --baseline names its files")
    if told := incomparable(result.document, before[0].document):
        raise Broken(f"the baseline is not comparable: {told}")
    checked_protocol(before[0].document)
    ours, theirs = result.users, before[0].users
    if ours is None or theirs is None:
        side = result if ours is None else before[0]
        raise Broken(
            f"{side.source or 'the result'} has no per-user arrays beside it, so users cannot be "
            "paired; 'equipoise evaluate' writes them"
        )
    here, there = joined(ours, theirs)
    groups = group_path(result, asked.path)
    metric = groups.metric if groups is not None else asked.path
    candidate, baseline = per_user(ours, metric), per_user(theirs, metric)
    if candidate is None or baseline is None:
        DocumentReader(result.document, asked).measure()
        raise Broken(f"{metric} is no mean over users, so it has no paired difference")
    low, high = asked.alphas
    if groups is None:
        pair = both_known(candidate[here], baseline[there])
        ends = paired(*pair, relative=asked.relative, alpha_low=low, alpha_high=high)
        return _paired_line(pair, ends)
    labels, labels_before = ours.labels(groups.attribute), theirs.labels(groups.attribute)
    if labels is None or labels_before is None:
        raise Broken(f"the per-user arrays have no groups of {groups.attribute!r}")
    moved = int(np.count_nonzero(labels[here] != labels_before[there]))
    if moved:
        raise Broken(f"{moved} users are in another group of {groups.attribute} than before")
    if groups.how not in (None, "worst"):
        raise Broken(f"{groups.how} takes no margin; use .worst, or an absolute bound")
    if groups.how is None:
        chosen = labels[here] == groups.label
        if not chosen.any():
            raise Broken(f"group {groups.label!r} of {groups.attribute} has no user")
        pair = both_known(candidate[here][chosen], baseline[there][chosen])
        ends = paired(*pair, relative=asked.relative, alpha_low=low, alpha_high=high)
        return _paired_line(pair, ends)
    members = group_values(result, ours, groups, asked.budget.leave_out)
    assert asked.budget.margin is not None
    pairs = {
        label: both_known(candidate[here][of[here]], baseline[there][of[here]])
        for label, of in members.items()
    }
    (value, low_end, high_end), cells = paired_cells(
        pairs, relative=asked.relative, margin=asked.budget.margin, alpha_low=low, alpha_high=high,
    )  # fmt: skip
    worst = min(cells, key=lambda cell: cell.value)
    least = min(cells, key=lambda cell: cell.positives or 0)
    floor = asked.budget.min_positives
    lacks = "" if (least.positives or 0) >= floor else (
        f"group {least.label!r} has {least.positives} users with a value above 0 in the baseline, "
        f"needed: {floor}"
    )  # fmt: skip
    return Measured(
        value, min(cell.n for cell in cells), "users", low_end, high_end, resampled=True,
        lacks=lacks, note=f"{_group_note(worst, cells)}, paired by user", cells=cells,
        identical=not any((one != other).any() for one, other in pairs.values()),
    )  # fmt: skip


def _paired_line(pair: tuple[Values, Values], ends: Ends) -> Measured:
    alike = not (pair[0] != pair[1]).any()
    note = "no user's value differs" if alike else "paired by user"
    return Measured(
        ends[0], len(pair[0]), "users", ends[1], ends[2], resampled=True, identical=alike, note=note
    )
