"""FA*IR's tables against whole-number arithmetic: what they promise, exactly, and the published ones.

With p = a / q a prefix's probabilities are whole numbers over q^k: no rounding anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from math import comb

from bench.fairness.draw import document
from bench.fairness.lines import Line, Progress
from server.fairness import compile_policy, parse_policy

# Unadjusted tables that the library of FA*IR's authors publishes: (k, p, alpha) -> floors of 1..k.
PUBLISHED: dict[tuple[int, str, str], str] = {
    (10, "2/10", "15/100"): "0 0 0 0 0 0 0 0 1 1",
    (20, "25/100", "1/10"): "0 0 0 0 0 0 0 0 1 1 1 1 1 1 2 2 2 2 2 3",
    (30, "3/10", "5/100"): "0 0 0 0 0 0 0 0 1 1 1 1 1 2 2 2 2 2 3 3 3 3 3 4 4 4 4 5 5 5",
}

# So little below alpha that only what is exactly alpha is told from it.
LESS = Fraction(1, 10**60)
SIZES = (1, 2, 3, 5, 10, 20, 30, 50)
SHARES = tuple(Fraction(part, 20) for part in range(1, 20))
ALPHAS = tuple(Fraction(part, 100) for part in (1, 2, 5, 8, 10, 15, 20, 30, 40, 50))


def served(size: int, share: Fraction, alpha: Fraction, *, adjusted: bool) -> list[int]:
    """The floors of one group as a policy's table has them, entry k for the first k places."""
    text = document(
        "fa_ir",
        f'[fa_ir]\nalpha = "{alpha.numerator}/{alpha.denominator}"\nwithin_first = {size}\n'
        f"adjusted = {str(adjusted).lower()}\n[fa_ir.shares]\n"
        f'g0 = "{share.numerator}/{share.denominator}"\n',
    )
    compiled = compile_policy(parse_policy(text, "fa_ir"), ["g0", "g1"], size)
    floors: list[int] = compiled.floors[0].tolist()
    return floors


def exact_fail(floors: list[int], share: Fraction) -> Fraction:
    """How likely independent draws break a floor anywhere.

    >>> exact_fail([0, 0, 1], Fraction(1, 2))
    Fraction(1, 4)
    """
    a, q = share.numerator, share.denominator
    ways = [1]
    failed = 0
    for floor in floors[1:]:
        longer = [0] * (len(ways) + 1)
        for count, mass in enumerate(ways):
            longer[count] += mass * (q - a)
            longer[count + 1] += mass * a
        failed = failed * q + sum(longer[:floor])
        ways = [0] * min(floor, len(longer)) + longer[floor:]
    return Fraction(failed, q ** (len(floors) - 1))


def exact_floors(size: int, share: Fraction, alpha: Fraction) -> list[int]:
    """Definition 3 of Zehlike et al.: the fewest c with F(c; k, p) > alpha.

    >>> exact_floors(4, Fraction(1, 2), Fraction(1, 10))
    [0, 0, 0, 0, 1]
    """
    a, q = share.numerator, share.denominator
    floors = [0]
    for k in range(1, size + 1):
        total, c = (q - a) ** k, 0
        while total * alpha.denominator <= alpha.numerator * q**k:
            c += 1
            total += comb(k, c) * a**c * (q - a) ** (k - c)
        floors.append(c)
    return floors


def next_table(size: int, share: Fraction, floors: list[int]) -> list[int] | None:
    """The lowest unadjusted table above this one: at the smallest F(c; k, p) that would raise it."""
    a, q = share.numerator, share.denominator
    steps = [
        sum((Fraction(comb(k, c) * a**c * (q - a) ** (k - c), q**k) for c in range(low + 1)), Fraction())
        for k, low in enumerate(floors) if k and low < k
    ]  # fmt: skip
    return exact_floors(size, share, min(steps)) if steps else None


def published_settings() -> dict[tuple[int, str, str], tuple[list[int], list[int]]]:
    """The server's (plain, adjusted) floors at the published settings."""
    return {
        (size, p, level): (
            served(size, Fraction(p), Fraction(level), adjusted=False),
            served(size, Fraction(p), Fraction(level), adjusted=True),
        )
        for size, p, level in PUBLISHED
    }


def _monotone(low: list[int], high: list[int]) -> bool:
    return all(a <= b for a, b in zip(low, high, strict=True))


def fa_ir_tables(sizes: tuple[int, ...], progress: Progress) -> Iterator[Line]:
    """The promise, the definition, monotonicity, and the published tables."""
    published = Line("FA*IR: the published unadjusted tables")
    for (size, p, level), text in PUBLISHED.items():
        floors = served(size, Fraction(p), Fraction(level), adjusted=False)
        published.add(1, floors[1:] != [int(c) for c in text.split()], f"{size} {p} {level}")
    yield published.done()
    promise = Line("FA*IR: a fair list fails with at most alpha, exactly")
    definition = Line("FA*IR: unadjusted floors are definition 3, exactly")
    largest = Line("FA*IR: the next higher table fails more often than alpha")
    rising = Line("FA*IR: no step above 1, monotone in k, p and alpha")
    closest, loosest, exact, tied = Fraction(1), Fraction(0), 0, 0
    made: dict[tuple[int, Fraction, Fraction, bool], list[int]] = {}
    for done, size in enumerate(sizes):
        for share in SHARES:
            for alpha in ALPHAS:
                where = f"{size} {share} {alpha}"
                plain = served(size, share, alpha, adjusted=False)
                floors = served(size, share, alpha, adjusted=True)
                made[size, share, alpha, False], made[size, share, alpha, True] = plain, floors
                definition.add(1, plain != exact_floors(size, share, alpha), where)
                tied += plain != exact_floors(size, share, alpha - LESS)
                fails = exact_fail(floors, share)
                promise.add(1, fails > alpha, f"{where}: fails with {float(fails):.6f}")
                exact += fails == alpha
                closest = min(closest, alpha - fails) if fails < alpha else closest
                higher = next_table(size, share, floors)
                if higher is not None:
                    largest.add(1, exact_fail(higher, share) <= alpha, where)
                loosest = max(loosest, exact_fail(plain, share) / alpha)
                for table in (plain, floors):
                    steps = [b - a for a, b in pairwise(table)]
                    rising.add(1, any(step not in (0, 1) for step in steps), where)
        for adjusted in (False, True):
            for share in SHARES:
                for low, high in pairwise(ALPHAS):
                    pair = made[size, share, low, adjusted], made[size, share, high, adjusted]
                    rising.add(1, not _monotone(*pair), f"{size} {share} {low} {high}")
            if not adjusted:
                for alpha in ALPHAS:
                    for less, more in pairwise(SHARES):
                        pair = made[size, less, alpha, False], made[size, more, alpha, False]
                        rising.add(1, not _monotone(*pair), f"{size} {less} {more} {alpha}")
        progress((done + 1) / len(sizes))
    yield promise.done(
        f"with exactly alpha: {exact}; of the others the nearest {float(closest):.2e} below it"
    )
    yield largest.done()
    yield definition.done(
        f"where F = alpha decides: {tied}; whole lists fail up to {float(loosest):.1f} times alpha"
    )
    yield rising.done()
