"""Candidates and policies for timings: varied, so that nothing is learned by heart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bench.fairness.draw import document, labels_of
from server.fairness import (
    CompiledPolicy,
    TableGroups,
    compile_policy,
    compile_tables,
    parse_policy,
)
from server.fairness.types import Float32, Float64, Int32

# As many as a stream of requests brings before any comes back.
VARIED = 32

# Of the server's item vectors.
DIMENSIONS = 64


@dataclass(frozen=True)
class Given:
    """One call of the fair stage.

    bought: what the user's own bounds are made of. exposure: `[G]`, what all lists so far gave to
    each group. vectors: `[n, d]`, of length 1.
    """

    scores: Float32
    groups: Int32
    count: int
    policy: CompiledPolicy
    bought: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    exposure: Float64 | None = None
    vectors: Float32 | None = None


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
    if kind == "calibrated":
        return '[calibrated]\nat_least = "1/2"\nat_most = "3/2"\n'
    if kind == "amortised":
        return '[amortised]\nmethod = "p_mmf"\nstrength = "1/10"\n'
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


def calibrated(n: int, count: int, n_groups: int, seed: int = 1) -> list[Given]:
    """Users who bought ten to two hundred times, mostly of the frequent groups."""
    rng = np.random.default_rng(seed)
    return [
        replace(case, bought={"t": np.bincount(bought, minlength=n_groups)})
        for case in given("calibrated", n, count, n_groups, seed)
        for bought in [(n_groups * rng.random(rng.integers(10, 200)) ** 2).astype(np.int64)]
    ]


def amortised(n: int, count: int, n_groups: int, seed: int = 1) -> list[Given]:
    """Exposure of a thousand lists, mostly of the frequent groups."""
    rng = np.random.default_rng(seed)
    return [
        replace(case, exposure=1e4 * rng.dirichlet(np.linspace(3, 1, n_groups)))
        for case in given("amortised", n, count, n_groups, seed)
    ]


def diverse(method: str, n: int, count: int, seed: int = 1) -> list[Given]:
    """Items of 20 kinds, alike within a kind."""
    text = document("diverse", f'[diverse]\nmethod = "{method}"\ntrade_off = "3/10"\n')
    policy = compile_tables(
        parse_policy(text.replace('group_table = "t"\n', ""), "timing"), {}, count
    )
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(20, DIMENSIONS))
    made = []
    for case in given("floors", n, count, 4, seed):
        vectors = kinds[rng.integers(0, 20, n)] + rng.normal(size=(n, DIMENSIONS))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        made.append(replace(case, policy=policy, vectors=vectors.astype(np.float32)))
    return made


def intersection(
    n: int, count: int, tables: tuple[int, ...], seed: int = 1, *, full: bool = False
) -> list[Given]:
    """Floors on the groups of several tables at once: half of the places are left over; or they ask
    for all of them, full."""
    text = document("intersection", "").replace('group_table = "t"\n', "")
    labels = {f"t{a}": TableGroups.of(labels_of(number)) for a, number in enumerate(tables)}
    for a, number in enumerate(tables):
        text += f"[intersection.t{a}]\n" + shares(number, 0 if full else number * (number + 1) // 2)
    policy = compile_tables(parse_policy(text, "timing"), labels, count)
    rng = np.random.default_rng(seed)
    return [
        Given(
            rng.normal(size=n).astype(np.float32),
            np.stack(
                [
                    start + (number * rng.random(n) ** 2).astype(np.int32)
                    for start, number in zip(policy.starts, tables, strict=True)
                ]
            ).astype(np.int32),
            count,
            policy,
        )
        for _ in range(VARIED)
    ]
