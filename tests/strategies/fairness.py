"""Policies and candidates for property tests: built, not filtered."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from server.fairness import CompiledPolicy, compile_policy, parse_policy

LABELS = ("a", "b", "c", "d")


def document(kind: str, body: str, on_infeasible: str = "serve") -> str:
    table = "" if kind == "none" else 'group_table = "t"\n'
    return (
        f'name = "p"\nversion = "1"\nkind = "{kind}"\nreason = "made for a test"\n'
        f'on_infeasible = "{on_infeasible}"\n{table}{body}'
    )


def _shares(parts: list[int], total: int) -> str:
    fractions = [Fraction(part, total) for part in parts]
    return "".join(
        f'{label} = "{share.numerator}/{share.denominator}"\n'
        for label, share in zip(LABELS, fractions, strict=False)
    )


@st.composite
def policies(
    draw: st.DrawFn, kinds: tuple[str, ...] = ("floors", "window", "cap")
) -> CompiledPolicy:
    """A compiled policy over 1 to 4 groups, for lists of up to 12."""
    kind = draw(st.sampled_from(kinds))
    parts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    if kind == "cap":
        within = draw(st.integers(1, 12))
        body = f"[cap]\nat_most = {draw(st.integers(1, within))}\nwithin_first = {within}\n"
    else:
        spare = draw(st.integers(0, 5)) if kind == "floors" else 0
        body = f"[{kind}]\n" + _shares(parts, sum(parts) + spare)
    return compile_policy(parse_policy(document(kind, body), "test"), LABELS[: len(parts)], 12)


@st.composite
def cases(
    draw: st.DrawFn, kinds: tuple[str, ...] = ("floors", "window", "cap"), max_n: int = 24
) -> tuple[np.ndarray, np.ndarray, int, CompiledPolicy]:
    """(scores, groups, count, policy); scores from few values, so that ties are common."""
    policy = draw(policies(kinds))
    n = draw(st.integers(0, max_n))
    scores = draw(st.lists(st.integers(-3, 8), min_size=n, max_size=n))
    groups = draw(st.lists(st.integers(0, len(policy.labels) - 1), min_size=n, max_size=n))
    count = draw(st.integers(1, 12))
    return (
        np.array(scores, np.float32) / 4,
        np.array(groups, np.int32),
        count,
        policy,
    )
