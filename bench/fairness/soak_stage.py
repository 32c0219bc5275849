"""Lists of the whole fair stage, of every kind, as the server makes them: what a soak of its kernels
does not reach.

Each user's own tables, boosts from exposure that moves from list to list, diverse orders, several
tables at once, and pages under each of these kinds, between which scores may move.
`bench.fairness.soak_judge` says whether a list is right.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np

from bench.fairness.soak_draw import ONE, Case, Drawn, draw_case, draw_page, draw_policy
from bench.fairness.soak_judge import GRID, boosts_of, fault
from bench.verify.bounds import worth
from server.engine.fair import boost_of
from server.fairness import FairList, Status, rerank
from server.fairness.amortise import accumulate
from server.fairness.discount import discounts
from server.fairness.types import Float32, Float64, Int32

KINDS = (*ONE, "pages")
# Lists under one policy, in whose course exposure moves.
RUN = 7


Judged = tuple[Status, str]
"""(verdict, what is wrong)"""


@dataclass(frozen=True)
class Drew:
    """The most that was drawn: groups of a table, candidates and places of a list."""

    groups: int = 0
    candidates: int = 0
    places: int = 0

    def most(self, other: Drew) -> Drew:
        """Of both together."""
        return Drew(
            max(self.groups, other.groups),
            max(self.candidates, other.candidates),
            max(self.places, other.places),
        )


@dataclass(frozen=True)
class Tally:
    """Lists of one kind. not_found: told so of several tables, though a list is there."""

    lists: int = 0
    infeasible: int = 0
    not_found: int = 0
    violations: int = 0
    example: str = ""
    drew: Drew = Drew()

    def plus(self, other: Tally) -> Tally:
        """Both together; the first example stays."""
        return Tally(
            self.lists + other.lists,
            self.infeasible + other.infeasible,
            self.not_found + other.not_found,
            self.violations + other.violations,
            self.example or other.example,
            self.drew.most(other.drew),
        )


class Exposure:
    """What the lists of a run showed: summed as in the server's ledger, and counted here."""

    def __init__(self, drawn: Drawn) -> None:
        self._drawn = drawn
        self._evened = drawn.compiled.amortisation
        labels = () if self._evened is None else self._evened.labels
        self._sums, self._own = np.zeros(len(labels)), [0] * len(labels)

    @property
    def miscounted(self) -> str:
        """Where the two differ, in words; both are exact."""
        counted = (self._sums * GRID).tolist()
        return "" if counted == self._own else f"exposure {counted}, not {self._own}"

    def boosts(self, members: Int32) -> tuple[Float32 | None, Float64 | None]:
        """The server's boosts of each candidate, and those of the definitions."""
        evened, document = self._evened, self._drawn.document
        if evened is None:
            return None, None
        discount = self._drawn.compiled.policy.discount
        server = boost_of(evened, discount, self._sums, members[0])
        items = list(self._drawn.items["t0"].values())
        section = document.rules[0][2]
        return server, boosts_of(section, document.discount, items, self._own, members[0])

    def charge(self, members: Int32, order: Int32, first: int, end: int) -> None:
        """Count the places after `first` and up to `end`, as they are shown."""
        if self._evened is None:
            return
        shown = members[0, order[first:end]]
        values = discounts(len(order), self._drawn.compiled.policy.discount)
        accumulate(self._sums, shown, values[first:end])
        for rank, group in enumerate(shown.tolist(), start=first + 1):
            self._own[group] += round(worth(self._drawn.document.discount, rank) * GRID)


def _made(case: Case, boost: Float32 | None, fixed: Int32 | None = None) -> FairList:
    asked = case.asked
    return rerank(
        asked.scores,
        asked.members,
        asked.count,
        case.compiled,
        case.ties,
        boost=boost,
        vectors=asked.vectors,
        fixed=fixed,
    )


def whole(case: Case, exposure: Exposure) -> Judged:
    """Of a list that is shown at once."""
    boost, own = exposure.boosts(case.asked.members)
    fair = _made(case, boost)
    status = fair.receipt.status
    wrong = fault(replace(case.asked, boosts=own), *case.bounds, fair.order, status)
    if not wrong:
        exposure.charge(case.asked.members, fair.order, 0, len(fair.order))
    return status, wrong or exposure.miscounted


def paged(case: Case, exposure: Exposure, page: int, moves: random.Random | None) -> Judged:
    """The same of a list that is shown page by page, each made anew after what was shown before.

    moves: what draws other scores for each page, as when the history comes from a store of events;
    None: they stay. Bounds and groups do, so what was shown can be gone on from and each page tells
    what the first did. Of several tables alone the list, or the proof that there is none, is by
    search, and that of other scores may end without: NOT_FOUND, which is counted. Where no score
    moves, by exposure either, all pages are the list as it was.
    """
    asked, bounds = case.asked, case.bounds
    shown, size, first = np.empty(0, np.int32), asked.size, None
    while True:
        boost, _ = exposure.boosts(asked.members)
        fair = _made(case, boost, shown if len(shown) else None)
        status, end = fair.receipt.status, min(len(shown) + page, size)
        if first is None:
            first = fair
        if not np.array_equal(fair.order[: len(shown)], shown):
            return status, f"what was shown on {len(shown)} places does not stay"
        told = {status, first.receipt.status}
        searched = moves is not None and len(asked.widths) > 1 and Status.NOT_FOUND in told
        if len(fair.order) != size or (len(told) > 1 and not searched):
            return status, f"after {len(shown)} places {status.name} of {len(fair.order)} places"
        exposure.charge(asked.members, fair.order, len(shown), end)
        shown = fair.order[:end].copy()
        if end == size:
            break
        if moves is not None:
            draws = np.random.default_rng(moves.getrandbits(64))
            case = replace(case, asked=replace(case.asked, scores=draws.permutation(asked.scores)))
    if moves is not None:
        # Each page was picked by other scores: no order of one page judges them all.
        asked = replace(asked, vectors=None)
    wrong = fault(asked, *bounds, shown, status)
    if not wrong and boost is None and moves is None and not np.array_equal(shown, first.order):
        wrong = "the pages together are not the list"
    return status, wrong or exposure.miscounted


def stage_chunk(seed: int, lists: int) -> dict[str, Tally]:
    """So many lists of each kind; the same seed, the same lists."""
    tallies = {}
    for kind in KINDS:
        # A string seeds alike in every process.
        rng, tally = random.Random(f"{seed} {kind}"), Tally()
        for number in range(lists):
            if number % RUN == 0:
                # Pages in turn of every kind, in each chunk from another one on.
                turn = ONE[(seed + number // RUN) % len(ONE)]
                drawn = draw_policy(rng, turn if kind == "pages" else kind)
                exposure = Exposure(drawn)
            case = draw_case(rng, drawn)
            if kind == "pages":
                status, wrong = paged(case, exposure, draw_page(rng, case), rng.choice((None, rng)))
            else:
                status, wrong = whole(case, exposure)
            tally = tally.plus(_counted(case, status, wrong, f"seed {seed}, {kind}, list {number}"))
        tallies[kind] = tally
    return tallies


def _counted(case: Case, status: Status, wrong: str, place: str) -> Tally:
    known = status is Status.NOT_FOUND and case.asked.planted is not None
    return Tally(
        lists=1,
        infeasible=int(status is Status.INFEASIBLE),
        not_found=int(known),
        violations=int(bool(wrong)),
        example=f"{place}: {wrong}" if wrong else "",
        drew=Drew(max(case.asked.widths), len(case.asked.scores), case.asked.size),
    )
