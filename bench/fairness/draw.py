"""Random instances: policies as their owners write them, bounds that none can ask for, candidates.

Policies go through the server's own parser and compiler, so their tables are those it would serve
with. Drawn bounds come from a list that keeps them, so that they are sound and the supply alone
decides whether they can be kept.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bench.fairness.compiled import compiled
from server.fairness import CompiledPolicy, compile_policy, parse_policy
from server.fairness.types import Float32, Int32, Int64

KINDS = ("floors", "fa_ir", "window", "cap")
FLOORS, CEILINGS, BOTH = 0, 1, 2


def document(kind: str, body: str) -> str:
    """A policy's document; body: its section."""
    return (
        f'name = "drawn"\nversion = "1"\nkind = "{kind}"\ngroup_table = "t"\n'
        f'reason = "Drawn for a proof."\n{body}'
    )


def labels_of(n_groups: int) -> list[str]:
    """Names for a table of groups."""
    return [f"g{g}" for g in range(n_groups)]


def draw_policy(rng: random.Random, kind: str, n_groups: int, max_count: int) -> CompiledPolicy:
    """A policy of a kind over a table of n_groups groups, some of which it may not name; a calibrated
    one as made for a user."""
    labels = labels_of(n_groups)
    if kind == "cap":
        within = rng.randint(1, max_count)
        body = f"[cap]\nat_most = {rng.randint(1, within)}\nwithin_first = {within}\n"
        return compile_policy(parse_policy(document(kind, body), "drawn"), labels, max_count)
    if kind == "calibrated":
        body = (
            f'[calibrated]\nat_least = "{rng.randint(0, 4)}/4"\nat_most = "{rng.randint(4, 8)}/4"\n'
        )
        body += f"smoothing = {rng.randint(0, 12)}\n"
        bought = np.array([rng.randint(0, 9) * rng.randint(0, 1) for _ in labels], np.int64)
        made = compile_policy(parse_policy(document(kind, body), "drawn"), labels, max_count)
        return made.for_user({"t": bought})
    named = rng.sample(labels, rng.randint(1, n_groups))
    parts = [rng.randint(1, rng.choice((3, 99))) for _ in named]
    # Of a window nothing may be left over where there is no other group to take it.
    rest = 0 if kind == "window" and len(named) == n_groups else rng.choice((0, 1, 9, 100))
    body = f"[{kind}]\n"
    if kind == "fa_ir":
        # At most 1/2, where the medians of several groups always fit into a prefix.
        body += f'alpha = "{rng.randint(1, 50)}/100"\nwithin_first = {rng.randint(1, max_count)}\n'
        body += f"adjusted = {rng.choice(('true', 'false'))}\n[fa_ir.shares]\n"
    body += "".join(
        f'{label} = "{part}/{sum(parts) + rest}"\n'
        for label, part in zip(named, parts, strict=True)
    )
    return compile_policy(parse_policy(document(kind, body), "drawn"), labels, max_count)


@dataclass(frozen=True)
class Pool:
    """Tables of several policies. floors, ceilings `[P, G, K + 1]`; sizes `[P]`: groups of each."""

    floors: Int32
    ceilings: Int32
    sizes: Int64


def draw_pool(
    rng: random.Random, number: int, kinds: Sequence[str], max_groups: int, max_count: int
) -> Pool:
    """The tables of so many drawn policies; rows beyond a policy's groups are 0."""
    shape = (number, max_groups, max_count + 1)
    floors, ceilings = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    sizes = np.zeros(number, np.int64)
    for place in range(number):
        sizes[place] = rng.randint(1, max_groups)
        kind = kinds[place % len(kinds)]
        made = draw_policy(rng, kind, int(sizes[place]), max_count)
        floors[place, : sizes[place]] = made.floors
        ceilings[place, : sizes[place]] = made.ceilings
    return Pool(floors, ceilings, sizes)


@compiled
def draw_bounds(kind: int, n_groups: int, size: int) -> tuple[Int32, Int32, Int64]:
    """(floors, ceilings `[G, size + 1]`, supply `[G]` that surely suffices).

    A list of groups is drawn; floors stay below its counts and ceilings above them, by rows that
    lag behind it or run ahead of it and that rise in steps.
    """
    counts = np.zeros((n_groups, size + 1), np.int64)
    lean = np.random.randint(1, 4)
    idle = 0.3 if kind == FLOORS else 0.0
    for k in range(1, size + 1):
        counts[:, k] = counts[:, k - 1]
        if np.random.random() >= idle:
            counts[int(n_groups * np.random.random() ** lean), k] += 1
    floors = np.zeros((n_groups, size + 1), np.int32)
    ceilings = np.zeros((n_groups, size + 1), np.int32)
    for g in range(n_groups):
        lag, lead = np.random.randint(0, 4), np.random.randint(0, 4)
        step, rise = np.random.randint(1, 4), np.random.randint(1, 4)
        more = np.random.randint(0, 3)
        for k in range(1, size + 1):
            if kind != CEILINGS:
                floors[g, k] = counts[g, max(0, k // step * step - lag)]
            ceilings[g, k] = k
            if kind != FLOORS:
                ahead = counts[g, min(size, -(-k // rise) * rise + lead)] + more
                ceilings[g, k] = min(k, ahead)
    supply = counts[:, size].copy()
    if kind == FLOORS:
        supply[:] = floors[:, size]
    return floors, ceilings, supply


@compiled
def draw_candidates(n: int, n_groups: int) -> tuple[Int64, Float32, Int32]:
    """(values, the same as scores, groups), `[n]` each: ties common or rare, groups even or not."""
    highest = 10 ** np.random.randint(1, 7)
    lean = np.random.randint(1, 4)
    values = np.empty(n, np.int64)
    scores = np.empty(n, np.float32)
    groups = np.empty(n, np.int32)
    for item in range(n):
        # Below 2^24, where every whole number is a float32.
        values[item] = np.random.randint(0, highest)
        scores[item] = values[item]
        groups[item] = int(n_groups * np.random.random() ** lean)
    return values, scores, groups


@compiled
def draw_ties(n: int) -> Int64:
    """Which of equal scores comes first, `[n]`, as the server always tells it; hardly ever equal."""
    ties = np.empty(n, np.int64)
    for item in range(n):
        ties[item] = np.random.randint(0, 2**30)
    return ties


@compiled
def best_first(values: Int64, groups: Int32) -> tuple[Int64, Int32]:
    """Both in score order, as the oracles want them."""
    order = np.argsort(-values, kind="mergesort")
    return values[order], groups[order]
