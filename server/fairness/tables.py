"""One rule -> its floors and ceilings for each group and prefix; several rules together.

What each kind means in integers is here, and nowhere else in the server.

>>> clash(np.array([[0, 1, 2]]), np.array([[0, 1, 1]]), ["a"])
"the first 2 places need 2 of group 'a' and may have 1"
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from server.errors import PolicyRefused, listed
from server.fairness.fair_ir import fair_ir_floors
from server.fairness.policy import Rule
from server.fairness.policy_sections import Cap, FairIr
from server.fairness.types import Int32

Bounds = tuple[Int32, Int32]
"""(floors, ceilings), each `[G, K + 1] int32`."""


def rule_bounds(policy: str, rule: Rule, labels: Sequence[str], max_count: int) -> Bounds:
    """The bounds of one rule on the groups of its table.

    Kind floors: floor(p k), no ceiling.
    Kind fa_ir: FA*IR's floors for the first w places, and no more floors after them. Of G groups each
    gets alpha / G, so that by the union bound a fair list fails anywhere with at most alpha.
    Kind window: floor(p k) and ceil(p k). Groups that the rule does not name share what is left
    over 1 without bounds of their own; where nothing is left over, their ceiling is 0 and they are
    listed only where nothing else is left.
    Kind cap: at most c of each group (or of the named ones) among the first w; after place w there
    is no ceiling.
    Kinds calibrated, amortised, diverse: none; the first gets them with each user.

    Raises:
        PolicyRefused: the rule names a group that the table does not have, or its window leaves
            something over and there is no other group to take it, or its floors together ask for
            more than a prefix holds.
    """
    rows = {label: row for row, label in enumerate(labels)}
    prefix = np.arange(max_count + 1, dtype=np.int64)
    floors = np.zeros((len(labels), max_count + 1), np.int32)
    ceilings = np.tile(prefix.astype(np.int32), (len(labels), 1))
    capped = rule.section.groups if isinstance(rule.section, Cap) else ()
    for group in [*(group for group, _ in rule.shares), *capped]:
        if group not in rows:
            near = difflib.get_close_matches(group, rows, n=1)
            raise PolicyRefused(
                policy,
                f"{rule.path}.{group}",
                f"group table {rule.group_table!r} has no such group"
                f"{f'; did you mean {near[0]!r}?' if near else ''}; it has: {listed(labels)}",
            )
    match rule.kind:
        case "floors":
            for group, share in rule.shares:
                floors[rows[group]] = prefix * share.numerator // share.denominator
        case "fa_ir":
            assert isinstance(rule.section, FairIr)
            _fair_ir(rule, rule.section, rows, floors)
        case "window":
            left_over = 1 - sum(share for _, share in rule.shares)
            if left_over == 0:
                ceilings[:] = 0
            elif len(rule.shares) == len(labels):
                raise PolicyRefused(
                    policy,
                    rule.path,
                    f"the proportions leave {left_over} over, and group table "
                    f"{rule.group_table!r} has no other group to take it; make them add up to 1",
                )
            for group, share in rule.shares:
                floors[rows[group]] = prefix * share.numerator // share.denominator
                ceilings[rows[group]] = -(-prefix * share.numerator // share.denominator)
        case "cap":
            assert isinstance(rule.section, Cap)
            chosen = [rows[group] for group in capped] or slice(None)
            ceilings[chosen] = np.where(
                prefix <= rule.section.within_first,
                np.minimum(prefix, rule.section.at_most),
                prefix,
            )
        case _:
            pass
    return floors, ceilings


def _fair_ir(rule: Rule, section: FairIr, rows: dict[str, int], floors: Int32) -> None:
    """Write FA*IR's floors into `floors`.

    Each group fails its floors with at most its part of alpha, so a multinomial list fails none with
    at least 1 - alpha > 0: there is one, and the floors of a prefix add up to no more than its places.
    """
    max_count = floors.shape[1] - 1
    first = min(section.within_first, max_count)
    for group, share in rule.shares:
        own = fair_ir_floors(
            section.within_first,
            share,
            Fraction(section.alpha) / len(rule.shares),
            adjusted=section.adjusted,
        )
        floors[rows[group], : first + 1] = own[: first + 1]
        floors[rows[group], first + 1 :] = own[first]


def combined(parts: Sequence[Bounds], n_groups: int, max_count: int) -> Bounds:
    """All bounds at once: the highest floor and the lowest ceiling; none where there are no parts."""
    if not parts:
        prefix = np.arange(max_count + 1, dtype=np.int32)
        return np.zeros((n_groups, max_count + 1), np.int32), np.tile(prefix, (n_groups, 1))
    floors: Int32 = np.max([floors for floors, _ in parts], axis=0)
    ceilings: Int32 = np.min([ceilings for _, ceilings in parts], axis=0)
    return floors, ceilings


def clash(floors: NDArray[np.int32], ceilings: NDArray[np.int32], labels: Sequence[str]) -> str:
    """Why no list of any supply keeps these bounds, in words; empty where one does.

    Hall's condition: the items that must stand after place a and until b, which is what the floors
    ask for until b beyond what the ceilings allow until a, fit into b - a places.
    """
    asking = np.flatnonzero(floors.any(axis=1))
    low, high = floors[asking].astype(np.int64), ceilings[asking].astype(np.int64)
    size = floors.shape[1]
    for end in range(size):
        asked = np.maximum(low[:, end, np.newaxis] - high[:, : end + 1], 0)
        late = np.flatnonzero(asked.sum(axis=0) > end - np.arange(end + 1))
        if not len(late):
            continue
        start = int(late[-1])
        if start == end:
            row = int(np.flatnonzero(low[:, end] > high[:, end])[0])
            return (
                f"the first {end} places need {low[row, end]} of group {labels[asking[row]]!r} "
                f"and may have {high[row, end]}"
            )
        groups = [labels[asking[row]] for row in np.flatnonzero(asked[:, start])]
        return (
            f"the bounds of {listed(groups)} leave {asked[:, start].sum()} items for the "
            f"{end - start} places after {start} and until {end}"
        )
    return ""
