"""The model alone: inputs that a caller brings, scored as they are, together with others.

Owns which lists share a model run, and that of raw inputs each list is padded
like those of a Recommend, so that it gets the same bits alone and in any batch.
Runs on the batcher's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from server.engine.query import Scored, ScoreQuery
from server.errors import DeadlineExpired
from server.model import Feed, OnnxScorer

# Padded rows that a batch may add per real row before it is better run in parts.
MAX_PADDING = 0.5


def score_queries(
    queries: Sequence[ScoreQuery],
    scorer: OnnxScorer,
    monotonic_ns: Callable[[], int],
    least: int | None = 1,
) -> list[Scored | BaseException]:
    """One outcome per query, in order. least: as `OnnxScorer.score_lists` has it."""
    outcomes: list[Scored | BaseException] = []
    lists: list[tuple[int, Feed]] = []
    for place, query in enumerate(queries):
        if query.deadline_ns is not None and monotonic_ns() >= query.deadline_ns:
            outcomes.append(DeadlineExpired("the deadline passed before the model ran"))
            continue
        outcomes.append(RuntimeError("a query got no outcome"))
        lists += ((place, own) for own in _lists(query.feed))
    # Lists of one length are never parted, so a query's are all in one run.
    sizes = [scorer.size(own) for _, own in lists]
    for run, part in enumerate(alike(sizes)):
        places = sorted({lists[i][0] for i in part})
        members = sorted(part)
        started_ns = time.monotonic_ns()
        try:
            scores = scorer.score_lists([lists[i][1] for i in members], least)
        except Exception as error:
            for place in places:
                outcomes[place] = error
            continue
        model_ns = time.monotonic_ns() - started_ns
        for place in places:
            own = [row for i, row in zip(members, scores, strict=True) if lists[i][0] == place]
            outcomes[place] = Scored(np.stack(own), run, model_ns, started_ns)
    return outcomes


def _lists(feed: Feed) -> Iterator[Feed]:
    """A feed's lists, without batch axis."""
    for row in range(len(next(iter(feed.values())))):
        yield {name: array[row] for name, array in feed.items()}


def alike(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Split a batch so that padding to the widest member stays below `MAX_PADDING`.

    >>> list(alike([400, 10_000, 410]))
    [[0, 2], [1]]
    """
    part: list[int] = []
    rows = 0
    for place in sorted(range(len(sizes)), key=sizes.__getitem__):
        if part and sizes[place] * (len(part) + 1) > (rows + sizes[place]) * (1 + MAX_PADDING):
            yield part
            part, rows = [], 0
        part.append(place)
        rows += sizes[place]
    if part:
        yield part
