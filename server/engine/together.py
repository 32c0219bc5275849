"""Whether a model gives a list the same bits whatever lists share its run, and what to do where not.

A kernel may add up in another order where a batch is one list alone: onnxruntime's sums along an
inner axis do. Such a model never runs on one list. One that differs between other sizes too runs on
each list by itself. Owns the trial, on the bundle's golden inputs and on the processor that serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.model import CANDIDATES, Feed, OnnxScorer

WIDTHS = (1, 20, 200)
"""Candidates of the lists that are tried: of one, of a few, and of many."""
SIZES = (2, 3, 4, 7, 8, 16, 33)
LISTS = 9


def least_together(scorer: OnnxScorer, goldens: Feed) -> int | None:
    """How many lists a run needs so that each gets the same bits in any run; None if none are enough.

    goldens: the model's inputs with a batch axis, at least one list of one candidate.
    """
    lists = list(islice(cycle(_lists(scorer, goldens)), LISTS))
    for least in (1, 2):
        alone = [scorer.score_lists([one], least)[0].tobytes() for one in lists]
        if all(_same(scorer, lists, alone, size) for size in SIZES):
            return least
    return None


def _lists(scorer: OnnxScorer, goldens: Feed) -> Iterator[Feed]:
    """Lists without batch axis, made of the goldens: of each of the widths some."""
    batch = len(goldens[scorer.ports[0].name])
    for place in range(max(batch, len(WIDTHS))):
        width = WIDTHS[place % len(WIDTHS)]
        yield {
            port.name: _wide(goldens[port.name][place % batch], width)
            if CANDIDATES in port.axes
            else goldens[port.name][place % batch]
            for port in scorer.ports
        }


def _wide(array: NDArray[Any], width: int) -> NDArray[Any]:
    """The first so many candidates, again and again if there are fewer."""
    return np.resize(array, (width, *array.shape[1:]))


def _same(scorer: OnnxScorer, lists: Sequence[Feed], alone: Sequence[bytes], size: int) -> bool:
    places = list(islice(cycle(range(len(lists))), size))
    scores = scorer.score_lists([lists[place] for place in places])
    return all(own.tobytes() == alone[place] for place, own in zip(places, scores, strict=True))
