"""What is known of the server under test: its policies, limits and items.

From GetServingInfo alone, or with the bundle: then the policies' tables and the
items' groups are known too, and nothing need be taken from the receipts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.load.draw import Recommend, known_items
from bench.refused import InputRefused
from equipoise.v1 import serving_pb2
from server.bundle import load_bundle
from server.fairness import CompiledPolicy


@dataclass(frozen=True)
class Tables:
    """A policy's bounds: `floors[g][k]` and `ceilings[g][k]` for prefix length k."""

    floors: Sequence[Sequence[int]]
    ceilings: Sequence[Sequence[int]]
    refuses: bool

    @classmethod
    def of(cls, compiled: CompiledPolicy) -> Tables:
        return cls(
            compiled.floors.tolist(),
            compiled.ceilings.tolist(),
            compiled.policy.on_infeasible == "refuse",
        )


@dataclass(frozen=True)
class PolicyFacts:
    """One policy. rules: their kinds. tables: None where they are not known, or are each user's own."""

    name: str
    version: str
    digest: str
    kind: str
    group_table: str
    labels: tuple[str, ...]
    rules: tuple[str, ...]
    tables: Tables | None = None

    @property
    def one_table(self) -> bool:
        """Whether its bounds are of one group table: then the kernel is exact and its proofs are
        checked."""
        return "," not in self.group_table

    @property
    def tables_of(self) -> tuple[str, ...]:
        """Its group tables."""
        return tuple(filter(None, self.group_table.split(",")))

    def groups(self, world: World, item: str) -> tuple[str, ...]:
        """The item's group in each of its tables, as lists name it."""
        found = [(table, world.groups[table].get(item, "")) for table in self.tables_of]
        return tuple(label if self.one_table else f"{table}:{label}" for table, label in found)

    @property
    def by_score(self) -> bool:
        """Whether nothing but bounds moves items: the order is that of the scores."""
        return not {"amortised", "diverse"} & set(self.rules)

    @property
    def exact(self) -> bool:
        """Whether its lists are the best of those that keep the bounds, and idempotent."""
        kinds = set(self.rules)
        alone = kinds <= {"floors", "fa_ir"} or kinds <= {"cap"}
        return self.one_table and self.by_score and alone

    @classmethod
    def of(cls, compiled: CompiledPolicy) -> PolicyFacts:
        policy = compiled.policy
        return cls(
            policy.name, policy.version, policy.digest, policy.kind, policy.group_table,
            compiled.labels, tuple(rule.kind for rule in policy.rules), _tables(compiled),
        )  # fmt: skip


def _tables(compiled: CompiledPolicy) -> Tables | None:
    return None if compiled.calibrations else Tables.of(compiled)


@dataclass(frozen=True)
class World:
    """The server under test.

    items: ids that it knows (all of them with a bundle). catalogue: how many there are.
    groups: table -> item -> label, where the bundle is known.
    """

    bundle_id: str
    policies: tuple[PolicyFacts, ...]
    items: tuple[str, ...] = ()
    catalogue: int = 0
    max_count: int = 200
    max_candidates: int = 10_000
    data_until_ms: int = 0
    groups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def plain(self) -> PolicyFacts | None:
        """A policy of kind none: plain score order."""
        return next((policy for policy in self.policies if policy.kind == "none"), None)


def learn(
    info: serving_pb2.GetServingInfoResponse, recommend: Recommend, bundle: Path | None, seed: int
) -> World:
    """What the server says of itself, and what its bundle says where that is at hand.

    Raises:
        InputRefused: the bundle is not the one that is served.
        BundleRefused: the bundle is damaged.
    """
    facts = tuple(
        PolicyFacts(
            p.name, p.version, p.digest, p.kind, p.group_table, tuple(p.groups), tuple(p.rule_kinds)
        )
        for p in info.policies
    )
    if bundle is None:
        items = tuple(known_items(recommend, info, random.Random(seed)))
        groups: dict[str, dict[str, str]] = {}
    else:
        held = load_bundle(bundle, max_count=info.limits.max_count)
        if held.manifest.bundle_id != info.bundle_id:
            raise InputRefused(
                "--bundle", str(bundle),
                f"is {held.manifest.bundle_id}, the server serves {info.bundle_id}",
            )  # fmt: skip
        items = held.items.ids
        groups = {
            name: dict(
                zip(items, (table.labels[code] for code in table.codes.tolist()), strict=True)
            )
            for name, table in held.groups.items()
        }
        facts = tuple(
            PolicyFacts(
                fact.name, fact.version, fact.digest, fact.kind, fact.group_table, fact.labels,
                fact.rules, _tables(held.policies[fact.name]) if fact.name in held.policies else None,
            )
            for fact in facts
        )  # fmt: skip
    return World(
        bundle_id=info.bundle_id,
        policies=facts,
        items=items,
        catalogue=info.items,
        max_count=info.limits.max_count,
        max_candidates=info.limits.max_candidates,
        data_until_ms=info.data_until_unix_ms,
        groups=groups,
    )
