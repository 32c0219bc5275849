"""Candidates and policies for timings: varied, so that nothing is learned by heart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.fairness.draw import document, labels_of
from server.fairness import CompiledPolicy, compile_policy, parse_policy
from server.fairness.types import Float32, Int32

# As many as a stream of requests brings before any comes back.
VARIED = 32


@dataclass(frozen=True)
class Given:
    """One call of the fair stage."""

    scores: Float32
    groups: Int32
    count: int
    policy: CompiledPolicy


def shares(n_groups: int, over: int = 0) -> str:
    """Lines such as `g1 = "2/10"`: proportions that rise from group to group, 1 / over left over."""
    whole = n_groups * (n_groups + 1) // 2 + over
    return "".join(f'g{g} = "{g + 1}/{whole}"\n' for g in range(n_groups))


def body(kind: str, n_groups: int, count: int) -> str:
    """The section of a policy of a kind that names every group."""
    if kind == "cap":
        return f"[cap]\nat_most = {max(2, 2 * count // n_groups)}\nwithin_first = {count}\n"
    if kind == "fa_ir":
        head = f'[fa_ir]\nalpha = "1/10"\nwithin_first = {count}\n[fa_ir.shares]\n'
        return head + shares(n_groups)
    return f"[{kind}]\n" + shares(n_groups, 0 if kind == "window" else n_groups)


def given(kind: str, n: int, count: int, n_groups: int, seed: int = 1) -> list[Given]:
    """So many different inputs: scores like a model's, groups of which the first are frequent."""
    text = document(kind, body(kind, n_groups, count))
    policy = compile_policy(parse_policy(text, "timing"), labels_of(n_groups), count)
    rng = np.random.default_rng(seed)
    return [
        Given(
            rng.normal(size=n).astype(np.float32),
            (n_groups * rng.random(n) ** 2).astype(np.int32),
            count,
            policy,
        )
        for _ in range(VARIED)
    ]
