"""Independent, naive answers to what the fair stage computes cleverly.

Counts only: the items of a group always come in score order, so a list is a
sequence of groups. Plain Python; nothing of the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.verify.bounds import worth

Table = Sequence[Sequence[int]]

# Beyond so many states the oracle gives no answer rather than none in time.
MAX_STATES = 20_000


def first_unkeepable_prefix(
    supply: Sequence[int], floors: Table, ceilings: Table, size: int
) -> int | None:
    """The first prefix that no list can keep, 0 if every prefix can be kept, None if unknown.

    Walks over all reachable counts per group, prefix by prefix.

    >>> first_unkeepable_prefix([2, 0], [[0, 0, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 2]], 2)
    2
    """
    live = [
        g for g, have in enumerate(supply) if have or any(floors[g][k] for k in range(size + 1))
    ]
    states = {tuple(0 for _ in live)}
    for prefix in range(1, size + 1):
        following = set()
        for counts in states:
            for place, g in enumerate(live):
                if counts[place] < supply[g]:
                    grown = (*counts[:place], counts[place] + 1, *counts[place + 1 :])
                    if all(
                        floors[h][prefix] <= count <= ceilings[h][prefix]
                        for h, count in zip(live, grown, strict=True)
                    ):
                        following.add(grown)
        if not following:
            return prefix
        if len(following) > MAX_STATES:
            return None
        states = following
    return 0


def best_utility(
    gains: Sequence[Sequence[float]], floors: Table, ceilings: Table, size: int
) -> float | None:
    """The largest DCG of any list of `size` that keeps all bounds; None if there is none, or unknown.

    gains: per group, the gains of its items, best first. Of all lists with the same counts per
    group only the best can be the head of the best list (Bellman), so each count is kept once.

    >>> round(best_utility([[3.0, 2.0], [1.0]], [[0, 0, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 2]], 2), 4)
    3.6309
    """
    states: dict[tuple[int, ...], float] = {tuple(0 for _ in gains): 0.0}
    for prefix in range(1, size + 1):
        weight = 1 / math.log2(prefix + 1)
        following: dict[tuple[int, ...], float] = {}
        for counts, so_far in states.items():
            for g, own in enumerate(gains):
                if counts[g] == len(own):
                    continue
                grown = (*counts[:g], counts[g] + 1, *counts[g + 1 :])
                if all(
                    floors[h][prefix] <= count <= ceilings[h][prefix]
                    for h, count in enumerate(grown)
                ):
                    total = so_far + own[counts[g]] * weight
                    following[grown] = max(following.get(grown, -math.inf), total)
        if not following or len(following) > MAX_STATES:
            return None
        states = following
    return max(states.values())


def dcg(gains: Sequence[float], discount: str = "log2") -> float:
    """The sum of gains in list order, each times what its place is worth."""
    return sum(gain * worth(discount, rank) for rank, gain in enumerate(gains, start=1))


def exposure(
    groups: Sequence[Sequence[str]], discount: str = "log2"
) -> dict[str, tuple[int, float]]:
    """Per group: how many items of the list, and its share of the exposure."""
    shares: dict[str, tuple[int, float]] = {}
    whole = dcg([1.0] * len(groups), discount)
    for rank, own in enumerate(groups, start=1):
        for group in own:
            items, share = shares.get(group, (0, 0.0))
            shares[group] = (items + 1, share + worth(discount, rank) / whole)
    return shares
