"""Requests of every kind of policy, drawn: what `bench.fairness.soak_stage` makes lists of.

Policies are documents that the server's own parser and compiler read, and the auditor's beside it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bench.fairness.draw import labels_of
from bench.fairness.soak_judge import Asked, bounds_of
from bench.verify.bounds import Document, Known
from bench.verify.document import read_document
from server.errors import PolicyRefused
from server.fairness import CompiledPolicy, TableGroups, compile_tables, parse_policy
from server.fairness.types import Int32, Int64

ONE = ("one table", "fa_ir", "calibrated", "several tables", "amortised", "mmr", "dpp")
DIMENSIONS = 8
# (groups of a table, places) at most: small ones for most policies, since lists of them are quick and
# supply is short in many ways; one policy of LARGE_IN is large.
SMALL, LARGE, LARGE_IN = (6, 30), (64, 100), 8


@dataclass(frozen=True)
class Drawn:
    """A policy, compiled as the server does, and read as its auditor does.

    items: by table and label, of the catalogue. planted: `[A, K]`, groups of a list that was there
    before the policy, numbered within each table; None where the bounds are not made from one.
    """

    text: str
    items: Mapping[str, Mapping[str, int]]
    compiled: CompiledPolicy
    planted: Int32 | None = None

    @cached_property
    def document(self) -> Document:
        """The text, read by the auditor."""
        return read_document(self.text)

    @cached_property
    def bounds(self) -> tuple[Int32, Int32]:
        """(floors, ceilings) of whoever bought nothing."""
        return self.bounds_for({})

    def bounds_for(self, bought: Mapping[str, Sequence[int]]) -> tuple[Int32, Int32]:
        """The same of a user's own; bought: by table, of each group."""
        told = {
            table: dict(zip(self.items[table], own, strict=True)) for table, own in bought.items()
        }
        return bounds_of(self.document, Known(self.items, told), self.compiled.max_count)


def compiled_of(
    rules: Sequence[tuple[str, str, str]],
    items: Mapping[str, Mapping[str, int]],
    discount: str,
    max_count: int,
    planted: Int32 | None = None,
) -> Drawn:
    """Rules as (kind, group table, section), one of them or a stack."""
    text = f'name = "drawn"\nversion = "1"\nreason = "Drawn for a soak."\ndiscount = "{discount}"\n'
    if len(rules) > 1:
        text += 'kind = "stack"\n'
    for kind, table, section in rules:
        text += "[[stack]]\n" if len(rules) > 1 else ""
        text += f'kind = "{kind}"\n' + (f'group_table = "{table}"\n' if table else "")
        text += f"{kind} = {{{section}}}\n"
    tables = {
        table: TableGroups(tuple(own), np.array(list(own.values()), np.int64))
        for table, own in items.items()
    }
    compiled = compile_tables(parse_policy(text, "soak"), tables, max_count)
    return Drawn(text, items, compiled, planted)


def _bounding(rng: random.Random, labels: Sequence[str], max_count: int) -> tuple[str, str, str]:
    kind = rng.choice(("floors", "window", "cap"))
    if kind == "cap":
        within = rng.randint(1, max_count)
        return kind, "t0", f"at_most = {rng.randint(1, within)}, within_first = {within}"
    rests = (0, 1, 9, 100)
    return kind, "t0", _shares(rng, labels, rests, full=kind == "window")


def _fa_ir(rng: random.Random, labels: Sequence[str], max_count: int) -> tuple[str, str, str]:
    # At most 1/2, where the medians of several groups always fit into a prefix.
    section = f'alpha = "{rng.randint(1, 50)}/100", within_first = {rng.randint(1, max_count)}, '
    section += f"adjusted = {rng.choice(('true', 'false'))}, "
    return "fa_ir", "t0", section + f"shares = {{{_shares(rng, labels, (0, 1, 9, 100))}}}"


def _shares(
    rng: random.Random, labels: Sequence[str], rests: Sequence[int], full: bool = False
) -> str:
    """Shares of some groups. rests: what may be left over; full: nothing, where all are named."""
    named = rng.sample(labels, rng.randint(1, len(labels)))
    parts = [rng.randint(1, rng.choice((3, 99))) for _ in named]
    rest = 0 if full and len(named) == len(labels) else rng.choice(rests)
    whole = sum(parts) + rest
    return ", ".join(
        f'{label} = "{part}/{whole}"' for label, part in zip(named, parts, strict=True)
    )


def _from_planted(rng: random.Random, labels: Sequence[str], own: Int32) -> tuple[str, str]:
    """(kind, section) of one table that the list of these groups keeps, nearly or just."""
    places = len(own)
    counts = np.cumsum(own == np.arange(len(labels))[:, np.newaxis], axis=1)
    if rng.random() < 0.2:
        within = rng.randint(1, places)
        most = int(counts[:, within - 1].max())
        return "cap", f"at_most = {most}, within_first = {within}"
    # floor(k p / q) <= count as long as p / q < (count + 1) / k.
    whole, slack = 9973, rng.choice((1.0, 1.0, 0.8, 0.5))
    highest = (counts + 1) / np.arange(1, places + 1)
    parts = np.floor(slack * np.minimum(highest.min(axis=1) * whole - 1, whole)).astype(int)
    parts = np.maximum(parts * min(1.0, whole / parts.sum()), 0).astype(int)
    shares = (f'{label} = "{part}/{whole}"' for label, part in zip(labels, parts, strict=True))
    return "floors", ", ".join(shares)


def draw_policy(rng: random.Random, kind: str) -> Drawn:
    """A policy of a kind; what shapes the order alone, or in a stack with what bounds the list."""
    max_groups, max_count = LARGE if rng.randrange(LARGE_IN) == 0 else SMALL
    discount = rng.choice(("log2", "reciprocal", "top_heavy"))
    tables = rng.randint(2, 3) if kind == "several tables" else 1
    items = {
        f"t{a}": {label: rng.randint(1, 50) for label in labels_of(rng.randint(2, max_groups))}
        for a in range(tables)
    }
    labels = list(items["t0"])
    if kind == "calibrated":
        low, high = rng.randint(0, 4), rng.randint(4, 8)
        section = f'at_least = "{low}/4", at_most = "{high}/4", smoothing = {rng.randint(0, 12)}'
        return compiled_of([(kind, "t0", section)], items, discount, max_count)
    if kind == "several tables":
        planted = np.array(
            [rng.choices(range(len(own)), [rng.random() for _ in own], k=max_count)
             for own in items.values()], np.int32,
        )  # fmt: skip
        made = [
            _from_planted(rng, list(own), row)
            for own, row in zip(items.values(), planted, strict=True)
        ]
        if all(of == "floors" for of, _ in made):
            section = ", ".join(f"t{a} = {{{own}}}" for a, (_, own) in enumerate(made))
            return compiled_of([("intersection", "", section)], items, discount, max_count, planted)
        rules = [(of, f"t{a}", own) for a, (of, own) in enumerate(made)]
        return compiled_of(rules, items, discount, max_count, planted)
    rules = [_bounding(rng, labels, max_count) for _ in range(rng.choice((1, 1, 2)))]
    if kind == "amortised":
        section = f'method = "{rng.choice(("p_mmf", "fair_co"))}", '
        section += f'strength = "{rng.randint(1, 100)}/100", lists = {rng.randint(1, 50)}, '
        section += f'targets = "{rng.choice(("equal", "catalogue"))}"'
        rules = [(kind, "t0", section), *rules[: rng.randint(0, 1)]]
    elif kind == "fa_ir":
        rules = [_fa_ir(rng, labels, max_count), *rules[: rng.randint(0, 1)]]
    elif kind != "one table":
        section = f'method = "{kind}", trade_off = "{rng.randint(0, 90)}/100"'
        rules = [("diverse", "", section), *rules[: rng.randint(0, 1)]]
    try:
        return compiled_of(rules, items, discount, max_count)
    except PolicyRefused:  # two rules of one table that clash
        return draw_policy(rng, kind)


@dataclass(frozen=True)
class Case:
    """One request: candidates, and the tables of who asks.

    bounds: the judge's own; ties `[n]`: which of equal scores comes first.
    """

    asked: Asked
    compiled: CompiledPolicy
    bounds: tuple[Int32, Int32]
    ties: Int64


def draw_case(rng: random.Random, drawn: Drawn) -> Case:
    """Candidates under a policy: ties common or rare, groups even or not."""
    draws = np.random.default_rng(rng.getrandbits(64))
    most = drawn.compiled.max_count
    count, n = rng.randint(1, most), rng.randint(1, 3 * most)
    widths = tuple(len(own) for own in drawn.items.values())
    members = np.array([width * draws.random(n) ** rng.randint(1, 3) for width in widths], np.int32)
    planted = None
    # A list that keeps the bounds is among the candidates, in no order. Of three tables always: the
    # search for one that is not there can take a second, as long as a thousand others.
    if drawn.planted is not None and (len(widths) > 2 or rng.random() < 0.95):
        members = np.hstack([drawn.planted[:, :count], members])
        shuffled = draws.permutation(members.shape[1])
        members, planted = members[:, np.argsort(shuffled)], shuffled[:count].astype(np.int32)
    members += np.cumsum([0, *widths[:-1]], dtype=np.int32)[:, np.newaxis]
    n = members.shape[1]
    highest = 10 ** rng.randint(1, 6)
    scores = (draws.integers(0, highest, n) / highest - rng.choice((0, 0, 0.5))).astype(np.float32)
    vectors = None
    if drawn.compiled.policy.shaping("diverse") is not None:
        kinds = draws.normal(size=(5, DIMENSIONS))
        noise = rng.choice((0.0, 0.3, 1.0)) * draws.normal(size=(n, DIMENSIONS))
        vectors = kinds[draws.integers(0, 5, n)] + noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        # Of some nothing is known.
        vectors = np.where(draws.random((n, 1)) < 0.1, 0.0, vectors).astype(np.float32)
    compiled, bounds = drawn.compiled, drawn.bounds
    if compiled.calibrations:
        bought = draws.integers(0, 1 + rng.choice((0, 3, 50)), widths[0])
        compiled = compiled.for_user({"t0": bought})
        bounds = drawn.bounds_for({"t0": bought.tolist()})
    asked = Asked(
        drawn.document, scores, members, widths, count, vectors=vectors, planted=planted
    )  # fmt: skip
    return Case(asked, compiled, bounds, draws.permutation(n))


def draw_page(rng: random.Random, case: Case) -> int:
    """How many places a page has: of a long list enough that it ends after some ten pages."""
    return rng.randint(max(3, case.asked.size // 10), max(12, case.asked.size // 3))
