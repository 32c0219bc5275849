"""A model of histories -> one ONNX graph that finds the items it would put first of the whole catalogue.

Owns the search and its recall. A score is the product of the history's vector and the item's, so the
best items are a search for the largest products. In two stages: items are put into cells of near
vectors (k-means of scikit-learn), of at most `CELL` each; the history's vector is compared with the
cells' means, and only the items of the best cells are scored (an inverted file: Jegou, Douze and
Schmid, TPAMI 2011). As a graph it needs nothing that the server has not got, and is checked like any
model; the file of an index of another library would be read by code that does not expect malice.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from server import __version__
from server.bundle import Retrieval
from server.features.types import Float32, Int32
from server.model import BATCH, HISTORY, RETRIEVED, OnnxRetriever
from training.export import OPSET, exported
from training.families import Family
from training.learners import HistoryRanker
from training.onnx_text import PRODUCER, TEXTS, dress

LARGE = 200_000
"""Catalogues of more items are searched. Up to there item-item weights give the candidates."""
CELL = 64
RECALL = 0.95
"""Of the exact search's items; the fewest cells that give so many are looked into."""
PROBES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
JUDGES = 1_000
LEARNED = 100_000
NOWHERE = -1e30


@dataclass(frozen=True)
class TwoStage:
    """The graph, and what it finds of what exact search finds.

    recall: measured by onnxruntime on `judges` histories, other ones than those that the number of cells
    looked into was chosen by. scored: the share of the catalogue that is scored for a history.
    """

    graph: bytes
    told: Retrieval
    n_items: int
    cells: int
    looked_into: int
    judges: int

    @property
    def scored(self) -> float:
        return min(1.0, self.looked_into * CELL / self.n_items)

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"retrieval: recall@{self.told.items} {self.told.recall:.4f} against exact search over "
            f"{self.n_items:,} items, of {self.judges:,} histories; {self.looked_into} of {self.cells:,} "
            f"cells, at most {self.scored:.1%} of the items, are scored"
        )

    def as_json(self) -> dict[str, Any]:
        """As it stands in the manifest's `quality.retrieval`."""
        return {
            "recall": self.told.recall, "at": self.told.items, "judges": self.judges,
            "cells": self.cells, "looked_into": self.looked_into, "share_scored": self.scored,
        }  # fmt: skip


def searches(family: Family, n_items: int) -> bool:
    """Whether a bundle of this model searches for its candidates: a large catalogue, and nothing but
    histories read. A ranker over pair features learned from what item-item weights led to."""
    return n_items > LARGE and family.history_length > 0 and not family.n_features


def two_stage(model: HistoryRanker, recent: Int32, n_novel: int, seed: int) -> TwoStage:
    """The search for a model; recent: histories `[m, L]` as it reads them, to measure recall on."""
    rng = np.random.default_rng(seed)
    vectors = model.items.weight.detach().numpy()
    n_items = len(vectors) - 1
    told = recent[(recent > 0).any(axis=1)]
    told = told[np.sort(rng.choice(len(told), min(len(told), 2 * JUDGES), replace=False))]
    if len(told) < 2:
        raise ValueError(f"recent: got {len(told)} histories with an item, allowed: at least 2")
    # Twice what is to be novel: some of it was bought.
    k = min(n_items, 2 * n_novel + model.length)
    cells = cells_of(vectors[1:], seed)
    chosen, judges = told[::2], told[1::2]
    exact = [exact_items(model, part, k) for part in (chosen, judges)]
    most = min(max(PROBES), len(cells))
    for probes in (*(one for one in PROBES if one < most and one * CELL >= k), most):
        search = _Search(model, cells, probes, k)
        if probes == most or _recall(_found(search, chosen), exact[0]) >= RECALL:
            break
    graph = _graph(search)
    retriever = OnnxRetriever(graph, model.length, k, n_items)
    found = [retriever.items(one) + 1 for one in judges]
    recall = _recall(found, exact[1])
    info = Retrieval(file="retrieval.onnx", items=k, recall=round(recall, 5))
    return TwoStage(graph, info, n_items, len(cells), probes, len(judges))


def cells_of(vectors: Float32, seed: int) -> Int32:
    """Items `[cells, CELL]` by number (i + 1, 0 for nothing), each once, near ones together."""
    n_items = len(vectors)
    count = max(1, n_items // (4 * CELL))
    rng = np.random.default_rng(seed)
    some = rng.choice(n_items, min(n_items, LEARNED), replace=False)
    means = MiniBatchKMeans(
        count, init="random", batch_size=8192, max_iter=20, n_init=1, random_state=seed
    ).fit(vectors[some])
    of_item = means.predict(vectors)
    order = np.argsort(of_item, kind="stable")
    sizes = np.bincount(of_item, minlength=count)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(n_items) - np.repeat(starts, sizes)
    pieces = -(-sizes // CELL)
    rows = np.repeat(np.cumsum(pieces) - pieces, sizes) + place // CELL
    cells = np.zeros((int(pieces.sum()), CELL), np.int32)
    cells[rows, place % CELL] = order + 1
    return cells


class _Table(nn.Module):
    """An embedding whose rows `[cells * CELL, width]` lie in the order of the cells, so that there is one
    table for the history and the search."""

    place: Tensor

    def __init__(self, rows: Tensor, place: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows, requires_grad=False)
        self.register_buffer("place", place)

    def forward(self, numbers: Tensor) -> Tensor:
        at = torch.index_select(self.place, 0, numbers.flatten().long())
        return torch.index_select(self.rows, 0, at).view(*numbers.shape, self.rows.shape[1])


class _Search(nn.Module):
    """Histories `[batch, L] int32` -> the numbers `[batch, k] int32` of the best items, 0 for none."""

    numbers: Tensor
    means: Tensor
    within: Tensor

    def __init__(self, model: HistoryRanker, cells: Int32, probes: int, k: int) -> None:
        super().__init__()
        self.probes, self.k, self.length = probes, k, model.length
        self.model = copy.deepcopy(model).eval()
        vectors = model.items.weight.detach()
        # One row of nothing more, for number 0.
        numbers = torch.from_numpy(np.concatenate([cells, np.zeros((1, CELL), np.int32)])).long()
        rows = vectors[numbers]
        rows[numbers == 0] = vectors[0]
        place = torch.zeros(len(vectors), dtype=torch.int64)
        place[numbers.flatten()] = torch.arange(numbers.numel())
        self.table = _Table(rows.flatten(0, 1), place)
        self.model.items = self.table  # type: ignore[assignment]
        own = torch.from_numpy(cells)
        self.register_buffer("numbers", own.flatten())
        self.register_buffer("within", torch.arange(CELL))
        held = (own > 0).sum(1, keepdim=True)
        self.register_buffer("means", (rows[:-1] * (own > 0)[..., None]).sum(1) / held)

    def forward(self, history: Tensor) -> Tensor:
        user = self.model.user(history)
        best = torch.topk(user @ self.means.T, self.probes, dim=1).indices
        at = (best[:, :, None] * CELL + self.within).flatten()
        numbers = torch.index_select(self.numbers, 0, at).view(-1, self.probes * CELL)
        vectors = torch.index_select(self.table.rows, 0, at)
        vectors = vectors.view(-1, self.probes * CELL, vectors.shape[-1])
        scores = (vectors @ user[:, :, None]).squeeze(-1)
        scores = torch.where(numbers > 0, scores, NOWHERE)
        return torch.gather(numbers, 1, torch.topk(scores, self.k, dim=1).indices)


def _graph(search: _Search) -> bytes:
    example = torch.zeros((4, search.length), dtype=torch.int32)
    program = exported(search, [example], [{0: torch.export.Dim(BATCH)}], [HISTORY], RETRIEVED)
    model: ir.Model = program.model
    dress(model, "retrieval")
    model.doc_string = (
        "Equipoise: the items that the model beside it puts first, searched for in the catalogue."
    )
    model.graph.inputs[0].doc_string = TEXTS[HISTORY]
    model.graph.outputs[0].doc_string = "Items, the best first: item i is i + 1, 0 is none."
    model.producer_name, model.producer_version = PRODUCER, __version__
    model.metadata_props.update({"opset": str(OPSET), "looked_into": str(search.probes)})
    raw: bytes = program.model_proto.SerializeToString()
    return raw


@torch.no_grad()
def exact_items(model: HistoryRanker, recent: Int32, k: int, block: int = 64) -> list[Int32]:
    """Of each history the numbers of the k best items of all."""
    table = model.items.weight[1:].T
    found: list[Int32] = []
    for start in range(0, len(recent), block):
        scores = model.user(torch.from_numpy(recent[start : start + block])) @ table
        found += list((torch.topk(scores, k, dim=1).indices + 1).int().numpy())
    return found


@torch.no_grad()
def _found(search: _Search, recent: Int32, block: int = 16) -> list[Int32]:
    return [
        row
        for start in range(0, len(recent), block)
        for row in search(torch.from_numpy(recent[start : start + block])).numpy()
    ]


def _recall(found: list[Int32], exact: list[Int32]) -> float:
    shares = [np.isin(wanted, own).mean() for own, wanted in zip(found, exact, strict=True)]
    return float(np.mean(shares))
