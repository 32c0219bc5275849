"""A small shop's audit beside what it was made of; its groups, bounds and wanted shares written anew."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from server.bundle import load_bundle
from server.engine.engine import Engine
from server.engine.query import Answer
from server.fairness import compile_tables, parse_policy
from strategies.fairness import document
from training.audit.audit import Protocol, audit
from training.data.prepare import Prepared
from training.served import served_answers
from training.task import task_of

PROTOCOL = Protocol(resamples=100, min_users=6)
K, ITEMS = 20, [f"item-{n:03}" for n in range(60)]
LOG2 = [1 / math.log2(rank + 1) for rank in range(1, K + 1)]
TOP_HEAVY = [0.8 ** (rank - 1) for rank in range(1, K + 1)]
APPROX: Mapping[str, float] = {"rel": 1e-9, "abs": 1e-12}

Shares = dict[str, float]
Bounds = dict[str, list[tuple[int, int]]]


def tier(item: str) -> str:
    n = ITEMS.index(item)
    return "large" if n < 30 else "medium" if n < 48 else "small"


def category(item: str) -> str:
    return f"category {ITEMS.index(item) % 6}"


CATEGORIES = [f"category {n}" for n in range(6)]
GROUP_OF = {"provider_tier": tier, "category": category}
LABELS = {"provider_tier": ["large", "medium", "small"], "category": CATEGORIES}


def free(labels: Sequence[str]) -> Bounds:
    return {label: [(0, k) for k in range(K + 1)] for label in labels}


def window(shares: Mapping[str, str], others: int = 1) -> Bounds:
    """Of groups that it does not name none, where it leaves nothing over (others = 0)."""
    bounds = free(LABELS["provider_tier"])
    for label in bounds:
        share = Fraction(shares.get(label, "0"))
        bounds[label] = [
            (math.floor(share * k), math.ceil(share * k) if label in shares else k * others)
            for k in range(K + 1)
        ]
    return bounds


@dataclasses.dataclass(frozen=True)
class Judged:
    """One table as a policy is held to it: what it wants of a list of a user who bought so much of
    each group, and within what bounds. wanted of all lists: the same, or the mean of all."""

    table: str
    wanted: Callable[[Counter[str]], Shares]
    bounds: Callable[[Counter[str]], Bounds]


def own_shares(bought: Counter[str]) -> dict[str, Fraction]:
    """As if 4 more had been bought in the catalogue's proportions, 10 items of each category."""
    whole = sum(bought.values()) + 4
    return {label: (bought[label] + Fraction(4, 6)) / whole for label in CATEGORIES}


def own_bounds(bought: Counter[str]) -> Bounds:
    return {
        label: [
            (math.floor(share * k / 2), min(k, math.ceil(share * k * 3 / 2))) for k in range(K + 1)
        ]
        for label, share in own_shares(bought).items()
    }


TWO = '[window]\nlarge = "3/4"\nmedium = "1/4"\n'
NEAR = '[window]\nlarge = "1/2"\nmedium = "1/5"\n'
POLICIES: dict[str, list[Judged]] = {
    "two-makers": [
        Judged(
            "provider_tier",
            lambda _: {"large": 0.75, "medium": 0.25, "small": 0.0},
            lambda _: window({"large": "3/4", "medium": "1/4"}, others=0),
        )
    ],
    "near": [
        Judged(
            "provider_tier",
            lambda _: {"large": 0.5, "medium": 0.2, "small": 0.3},
            lambda _: window({"large": "1/2", "medium": "1/5"}),
        )
    ],
    "own-shares": [
        Judged(
            "category",
            lambda bought: {label: float(share) for label, share in own_shares(bought).items()},
            own_bounds,
        )
    ],
    "over-time": [
        Judged(
            "category",
            lambda _: dict.fromkeys(CATEGORIES, 1 / 6),
            lambda _: {label: [(0, min(k, 4)) for k in range(K + 1)] for label in CATEGORIES},
        ),
        Judged(
            "provider_tier",
            lambda _: dict.fromkeys(LABELS["provider_tier"], 1 / 3),
            lambda _: free(LABELS["provider_tier"]),
        ),
    ],
    "varied": [],
}


@dataclasses.dataclass(frozen=True)
class Shop:
    """An audit's document, and what it was made of: the answers, and what each user bought later."""

    document: dict[str, Any]
    answers: dict[str, list[Answer]]
    later: list[set[str]]
    first: list[set[str]]
    users: list[str]

    def lists(self, policy: str) -> list[list[str]]:
        return [list(answer.item_ids) for answer in self.answers[policy]]


def audited(path: Path, prepared: Prepared) -> Shop:
    """The shop's audit under `POLICIES`, and the same lists once more."""
    bundle = load_bundle(path)
    sizes = {name: table.sizes for name, table in bundle.groups.items()}
    added = {}
    for name, body in (("two-makers", TWO), ("near", NEAR)):
        text = document("window", body).replace('"t"', '"provider_tier"')
        policy = parse_policy(text.replace('name = "p"', f'name = "{name}"'), name)
        added[name] = compile_tables(policy, sizes)
    bundle = dataclasses.replace(bundle, policies={**bundle.policies, **added})
    told = audit(bundle, prepared, dataclasses.replace(PROTOCOL, policies=tuple(POLICIES)))
    task = task_of(prepared, "test")
    targets, ids = task.targets, task.history.item_ids

    def bought(ptr: Any, items: Any) -> list[set[str]]:
        ends = ptr.tolist()
        return [
            {ids[item] for item in items[start:end].tolist()}
            for start, end in itertools.pairwise(ends)
        ]

    return Shop(
        told,
        {
            name: list(
                served_answers(
                    Engine(bundle), task.history, targets.users, task.cut_ms,
                    policy=name, k=K, with_candidates=True,
                )
            )
            for name in ("none", *POLICIES)
        },
        bought(targets.ptr, targets.items),
        bought(targets.first_ptr, targets.first_items),
        [task.history.user_ids[user] for user in targets.users.tolist()],
    )  # fmt: skip


def counted_of(answer: Answer) -> dict[str, Mapping[str, int]]:
    assert answer.candidates is not None
    counted: dict[str, dict[str, int]] = {}
    for table, group, count in answer.candidates.bought:
        counted.setdefault(table, {})[group] = count
    return dict(counted)


def same(told: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Every number of a block, and no other."""
    assert told.keys() == expected.keys(), where
    for name, value in expected.items():
        if isinstance(value, float):
            assert told[name] == pytest.approx(value, **APPROX), (where, name)
        else:
            assert told[name] == value, (where, name)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
