"""Policies and candidates for property tests: built, not filtered."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.fairness import CompiledPolicy, compile_policy, parse_policy

LABELS = ("a", "b", "c", "d")
MANY = tuple(f"g{number:02}" for number in range(64))
KINDS = ("floors", "fa_ir", "window", "cap")

Scores = NDArray[np.float32]
Groups = NDArray[np.int32]
Case = tuple[Scores, Groups, int, CompiledPolicy]
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
def policies(
    draw: st.DrawFn, kinds: Sequence[str] = KINDS, max_count: int = 12, wide: bool = False
) -> CompiledPolicy:
    """A compiled policy over 1 to 4 groups, or 5 to 64 if wide, of which it may leave some unnamed."""
    kind = draw(st.sampled_from(kinds))
    if wide:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        parts = rng.integers(1, 10, draw(st.just(64) | st.integers(5, 64))).tolist()
    else:
        parts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    labels = (MANY if wide else LABELS)[: len(parts)]
    if kind == "cap":
        within = draw(st.integers(1, max_count))
        body = f"[cap]\nat_most = {draw(st.integers(1, within))}\nwithin_first = {within}\n"
        return compiled(kind, body, labels, max_count)
    named = draw(st.integers(1, len(parts)))
    rest = draw(st.integers(0, 5)) if kind != "window" or named < len(parts) else 0
    body = f"[{kind}]\n"
    if kind == "fa_ir":
        # At most 1/2, where the medians of several groups always fit into a prefix.
        body += (
            f'alpha = "{draw(st.integers(1, 50))}/100"\nwithin_first = {draw(st.integers(1, 14))}\n'
        )
        body += f"adjusted = {str(draw(st.booleans())).lower()}\n[fa_ir.shares]\n"
    body += shares(parts[:named], sum(parts[:named]) + rest, labels)
    return compiled(kind, body, labels, max_count)


# Their float32 is exact, a denormal or near the largest; of each a few, so that ties are common.
HUGE = (3e38, 2.5e38, 1e30, -1e30, -3e38)
DENORMAL = (1e-45, 3e-45, 1e-40, 1e-38, -1e-45, -1e-40)
EXTREME: dict[str, tuple[float, ...]] = {
    "huge": HUGE,
    "denormal": DENORMAL,
    "mixed": (*HUGE, *DENORMAL, 0.0, -0.0, 1.0, -0.25, float(np.finfo(np.float32).max)),
}


@st.composite
def columns(draw: st.DrawFn, n: int, n_groups: int) -> tuple[Scores, Groups]:
    """Scores and groups of n items. Scores are from few values, so that ties are common; of one draw
    in four they are all equal, huge, denormal or all of that at once, of both signs."""
    kind = draw(st.sampled_from(["steps"] * 12 + ["equal", "huge", "denormal", "mixed"]))
    if kind == "steps":
        values = np.arange(-3, 9, dtype=np.float32) / np.float32(4)
    else:
        of = EXTREME["mixed" if kind == "equal" else kind]
        most = 1 if kind == "equal" else 5
        pool = draw(st.lists(st.sampled_from(of), min_size=1, max_size=most))
        values = np.array(pool, np.float32)
    if n > 24:
        # More than Hypothesis should choose one by one.
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        picks, groups = rng.integers(0, len(values), n), rng.integers(0, n_groups, n)
    else:
        several = {"min_size": n, "max_size": n}
        picks = np.array(draw(st.lists(st.integers(0, len(values) - 1), **several)), np.int64)
        groups = np.array(draw(st.lists(st.integers(0, n_groups - 1), **several)), np.int64)
    return values[picks], groups.astype(np.int32)


@st.composite
def cases(
    draw: st.DrawFn,
    kinds: Sequence[str] = KINDS,
    max_n: int = 24,
    max_count: int = 12,
    min_n: int = 0,
) -> Case:
    """A case. One in eight has up to 64 groups, many of them empty; and, but where the test tries all
    lists (a small `max_n`), up to 150 items and places, since floors of so many groups begin late."""
    wide = draw(st.integers(0, 7)) == 7
    if wide and max_n >= 24:
        max_n = max_count = 150
    policy = draw(policies(kinds, max_count, wide))
    n = draw(st.integers(min_n, max_n))
    scores, groups = draw(columns(n, len(policy.labels)))
    return scores, groups, draw(st.integers(1, max_count)), policy
