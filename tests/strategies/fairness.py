"""Policies and candidates for property tests: built, not filtered."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.fairness import CompiledPolicy, compile_policy, parse_policy

LABELS = ("a", "b", "c", "d")
KINDS = ("floors", "fa_ir", "window", "cap")

Case = tuple[NDArray[np.float32], NDArray[np.int32], int, CompiledPolicy]
"""(scores, groups, count, policy)"""


def document(kind: str, body: str, on_infeasible: str = "serve") -> str:
    table = "" if kind == "none" else 'group_table = "t"\n'
    return (
        f'name = "p"\nversion = "1"\nkind = "{kind}"\nreason = "made for a test"\n'
        f'on_infeasible = "{on_infeasible}"\n{table}{body}'
    )


def shares(parts: Sequence[int], total: int, labels: Sequence[str] = LABELS) -> str:
    """Lines such as `a = "1/3"`, for the first groups of a table."""
    fractions = [Fraction(part, total) for part in parts]
    return "".join(
        f'{label} = "{share.numerator}/{share.denominator}"\n'
        for label, share in zip(labels, fractions, strict=False)
    )


def compiled(
    kind: str,
    body: str,
    labels: Sequence[str] = LABELS,
    max_count: int = 12,
    on_infeasible: str = "serve",
) -> CompiledPolicy:
    """A policy for a group table of these labels."""
    return compile_policy(
        parse_policy(document(kind, body, on_infeasible), "test"), labels, max_count
    )


@st.composite
def policies(draw: st.DrawFn, kinds: Sequence[str] = KINDS, max_count: int = 12) -> CompiledPolicy:
    """A compiled policy over 1 to 4 groups, of which it may leave some unnamed."""
    kind = draw(st.sampled_from(kinds))
    parts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    if kind == "cap":
        within = draw(st.integers(1, max_count))
        body = f"[cap]\nat_most = {draw(st.integers(1, within))}\nwithin_first = {within}\n"
        return compiled(kind, body, LABELS[: len(parts)], max_count)
    named = draw(st.integers(1, len(parts)))
    rest = draw(st.integers(0, 5)) if kind != "window" or named < len(parts) else 0
    body = f"[{kind}]\n"
    if kind == "fa_ir":
        # At most 1/2, where the medians of several groups always fit into a prefix.
        body += (
            f'alpha = "{draw(st.integers(1, 50))}/100"\nwithin_first = {draw(st.integers(1, 14))}\n'
        )
        body += f"adjusted = {str(draw(st.booleans())).lower()}\n[fa_ir.shares]\n"
    body += shares(parts[:named], sum(parts[:named]) + rest)
    return compiled(kind, body, LABELS[: len(parts)], max_count)


@st.composite
def cases(
    draw: st.DrawFn,
    kinds: Sequence[str] = KINDS,
    max_n: int = 24,
    max_count: int = 12,
    min_n: int = 0,
) -> Case:
    """A case; scores from few values, so that ties are common."""
    policy = draw(policies(kinds, max_count))
    n = draw(st.integers(min_n, max_n))
    scores = draw(st.lists(st.integers(-3, 8), min_size=n, max_size=n))
    groups = draw(st.lists(st.integers(0, len(policy.labels) - 1), min_size=n, max_size=n))
    count = draw(st.integers(1, max_count))
    return (
        np.array(scores, np.float32) / np.float32(4),
        np.array(groups, np.int32),
        count,
        policy,
    )
