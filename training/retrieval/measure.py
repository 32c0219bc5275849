"""What candidates of a made-up catalogue cost and miss: by item-item weights, by the two-stage search, exactly.

Owns the made-up models and the timing. Times are of this machine, one thread, one list after the other;
their growth and ratios say more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from server.features import SIMILAR, FeatureState, generate_candidates
from server.features.types import History, Int32
from server.model import BATCH, HISTORY, RETRIEVED, OnnxRetriever
from training.export import exported
from training.retrieval.search import exact_items, two_stage
from training.sequence_model import SequenceRanker
from training.synthetic import CREATED_MS, made_up_state

EVENTS, NOVEL = 100, 80
"""Of a history; novel candidates, half of them best sellers."""
LENGTH, WIDTH = 50, 64
ITEMS_PER_KIND, SPREAD = 400, 0.7
"""The made-up vectors lie around so many kinds, as those of a trained model do."""
LISTS, EXACT_LISTS = 200, 24

Row = dict[str, Any]


def measured(n_items: int, seed: int, tell: Callable[[str], None]) -> Row:
    """One catalogue."""
    rng = np.random.default_rng((seed, n_items))
    tell(f"{n_items:,} items: item-item weights")
    row: Row = {"items": n_items} | _by_weights(made_up_state(n_items, rng), rng)
    tell(f"{n_items:,} items: the two-stage search")
    return row | _by_search(n_items, rng, seed)


def _by_weights(state: FeatureState, rng: np.random.Generator) -> Row:
    n_items = state.n_items
    chance = np.expm1(state.popularity.astype(np.float64))
    histories = []
    for _ in range(LISTS):
        items = rng.choice(n_items, EVENTS, p=chance / chance.sum()).astype(np.int32)
        histories.append(
            History.of(items, np.full(EVENTS, CREATED_MS - 1), np.ones(EVENTS, np.float32))
        )
    ease = state.ease

    def chosen(history: History) -> Int32:
        found = generate_candidates(history, CREATED_MS, state, NOVEL, n_popular=NOVEL // 2)
        similar: Int32 = found.items[found.sources == SIMILAR]
        return similar

    shares = []
    for history in histories[:EXACT_LISTS]:
        scores = np.zeros(n_items)
        bought, counts = np.unique(history.items, return_counts=True)
        for item, count in zip(bought.tolist(), counts.tolist(), strict=True):
            own = slice(int(ease.row_ptr[item]), int(ease.row_ptr[item + 1]))
            scores[ease.items[own]] += np.log1p(count) * ease.weights[own].astype(np.float64)
        scores[bought] = 0
        best = np.lexsort((np.arange(n_items), -scores))[: NOVEL // 2]
        shares.append(np.isin(best[scores[best] > 0], chosen(history)).mean())
    return {
        "weights_recall": round(float(np.mean(shares)), 5),
        "weights_ms": _ms(chosen, histories),
    }


def _by_search(n_items: int, rng: np.random.Generator, seed: int) -> Row:
    torch.manual_seed(seed)
    model = SequenceRanker(n_items, LENGTH, WIDTH).eval()
    kinds = torch.randn(max(2, n_items // ITEMS_PER_KIND), WIDTH)
    of_item = torch.from_numpy(rng.integers(0, len(kinds), n_items))
    with torch.no_grad():
        model.items.weight[1:] = kinds[of_item] + SPREAD * torch.randn(n_items, WIDTH)
    recent = rng.integers(1, n_items + 1, (2 * LISTS, LENGTH)).astype(np.int32)
    began = time.perf_counter()
    found = two_stage(model, recent, NOVEL, seed)
    took_s = time.perf_counter() - began
    k = found.told.items
    search = OnnxRetriever(found.graph, LENGTH, k, n_items)
    exact = OnnxRetriever(_exact_graph(model, k), LENGTH, k, n_items)
    wanted = exact_items(model, recent[:8], k)
    for history, own in zip(recent, wanted, strict=False):
        # The yardstick is what torch gives; a tie at the end may fall out either way.
        assert np.isin(own, exact.items(history) + 1).mean() > 0.99
    return {
        "search_recall": found.told.recall,
        "at": k,
        "share_scored": round(found.scored, 5),
        "search_ms": _ms(search.items, list(recent[:LISTS])),
        "exact_ms": _ms(exact.items, list(recent[:EXACT_LISTS])),
        "made_s": round(took_s, 1),
        "bytes": len(found.graph),
    }


def _ms(run: Callable[[Any], object], inputs: Sequence[Any]) -> float:
    run(inputs[0])
    taken = []
    for one in inputs:
        began = time.perf_counter_ns()
        run(one)
        taken.append(time.perf_counter_ns() - began)
    return round(float(np.median(taken)) / 1e6, 4)


class _Exact(nn.Module):
    """The same answer by a product with every item."""

    def __init__(self, model: SequenceRanker, k: int) -> None:
        super().__init__()
        self.model, self.k = model, k

    def forward(self, history: Tensor) -> Tensor:
        scores = self.model.user(history) @ self.model.items.weight[1:].T
        return (torch.topk(scores, self.k, dim=1).indices + 1).int()


def _exact_graph(model: SequenceRanker, k: int) -> bytes:
    example = torch.zeros((4, model.length), dtype=torch.int32)
    axes = [{0: torch.export.Dim(BATCH)}]
    program = exported(_Exact(model, k), [example], axes, [HISTORY], RETRIEVED)
    assert isinstance(program.model, ir.Model)
    raw: bytes = program.model_proto.SerializeToString()
    return raw


def lines(rows: Sequence[Row]) -> list[str]:
    """The rows for people."""
    text = [
        f"{'items':>10} | {'item-item weights':^17} | {'two-stage search':^35} | exact",
        f"{'':>10} | {'recall':>7} {'ms':>9} | {'recall':>7} {'scored':>8} {'ms':>8} {'made':>9} | {'ms':>8}",
    ]
    text += [
        f"{row['items']:>10,} | {row['weights_recall']:>7.4f} {row['weights_ms']:>9.3f} | "
        f"{row['search_recall']:>7.4f} {row['share_scored']:>8.2%} {row['search_ms']:>8.3f} "
        f"{row['made_s']:>7.1f} s | {row['exact_ms']:>8.3f}"
        for row in rows
    ]
    return [
        *text,
        f"recall of item-item weights: of the best {NOVEL // 2} of all items by the same weights; of the "
        f"search: of the best {rows[0]['at']} of all items by the same model" if rows else "",
    ]  # fmt: skip
