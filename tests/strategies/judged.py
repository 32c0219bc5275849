"""Lists of the fair stage as `equipoise verify` takes them, of any policy, without a server."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bench.verify.bounds import Known
from bench.verify.claims import Claim
from bench.verify.document import read_document
from bench.verify.evidence import evidence_of
from bench.verify.recompute import verify
from bench.verify.vectors import Weights, vectors_of
from equipoise.v1 import recommendation_pb2 as pb
from server.engine.fair import boost_of
from server.fairness import parse_policy, rerank
from server.fairness.compile import TableGroups, compile_tables
from server.service.encode import receipt_message

LABELS = {"t": ("a", "b", "c"), "u": ("x", "y")}


@dataclass
class Drawn:
    """A request, its answer, the policy's text and the catalogue."""

    text: str
    request: pb.RecommendRequest
    response: pb.RecommendResponse
    known: Known

    def claims(self, *, bundle: bool = True) -> dict[str, Claim]:
        """What `verify` says of it, with the bundle at hand or without."""
        evidence = evidence_of(self.request, [self.response])
        found = verify(
            evidence, self.text, read_document(self.text), self.known if bundle else None
        )
        return {claim.name: claim for claim in found}


def drawn(text: str, seed: int, n: int = 40, count: int = 15, scale: float = 1.0) -> Drawn:
    """A list of n items, of the fair stage itself; exposure of groups is drawn too.

    scale: of the scores, which are from 0 to 1 times that.
    """
    rng = np.random.default_rng(seed)
    ids = [f"i{k:03}" for k in range(n)]
    codes = {table: rng.integers(0, len(own), n) for table, own in LABELS.items()}
    scores = (np.round(rng.random(n), 2) * scale).astype(np.float32)
    weights = _weights(rng, ids)
    policy = parse_policy(text, "test")
    sizes = {
        table: TableGroups(own, np.bincount(codes[table], minlength=len(own)))
        for table, own in LABELS.items()
    }
    compiled = compile_tables(policy, sizes, count)
    members = np.array(
        [codes[t] + start for t, start in zip(policy.tables, compiled.starts, strict=False)]
    ).astype(np.int32).reshape(-1, n)  # fmt: skip
    boosts = None
    if compiled.amortisation is not None:
        evened = compiled.amortisation
        own = codes[evened.group_table].astype(np.int32)
        exposure = rng.random(len(evened.labels)) * 40
        boosts = boost_of(evened, policy.discount, exposure, own)
    diverse = policy.shaping("diverse") is not None
    fair = rerank(
        scores, members, count, compiled, np.arange(n),
        boost=boosts, vectors=vectors_of(ids, weights) if diverse else None,
    )  # fmt: skip
    labels = [tuple(compiled.labels[row] for row in column) for column in members.T.tolist()]
    response = pb.RecommendResponse(receipt=receipt_message(fair.receipt))
    response.candidates.extend(
        _candidate(ids[k], float(scores[k]), labels[k], 0.0 if boosts is None else float(boosts[k]))
        for k in range(n)
    )
    for rank, (k, by_score, reason) in enumerate(
        zip(fair.order.tolist(), fair.rank_by_score.tolist(), fair.reasons.tolist(), strict=True), 1
    ):
        item = response.items.add(
            rank=rank, item_id=ids[k], score=float(scores[k]), rank_by_score=by_score, reason=reason
        )
        _grouped(item, labels[k])
    known = Known(
        {table: dict(zip(own.labels, own.items.tolist(), strict=True)) for table, own in sizes.items()},
        {},
        {t: {i: LABELS[t][c] for i, c in zip(ids, codes[t].tolist(), strict=True)} for t in LABELS},
        ids=frozenset(ids),
        weights=weights,
    )  # fmt: skip
    return Drawn(text, pb.RecommendRequest(count=count, with_candidates=True), response, known)


def _weights(rng: np.random.Generator, ids: list[str]) -> Weights:
    n = len(ids)
    lengths = rng.integers(0, 6, n)
    return Weights(
        place={item: at for at, item in enumerate(ids)},
        rows=np.concatenate([[0], np.cumsum(lengths)]),
        items=rng.integers(0, n, int(lengths.sum())).astype(np.int32),
        weights=rng.random(int(lengths.sum())).astype(np.float32),
        category=rng.integers(0, 4, n).astype(np.int32),
    )


def _candidate(
    item: str, score: float, groups: tuple[str, ...], boost: float
) -> pb.ScoredCandidate:
    made = pb.ScoredCandidate(item_id=item, score=score, boost=boost)
    _grouped(made, groups)
    return made


def _grouped(message: pb.ScoredCandidate | pb.RankedItem, groups: tuple[str, ...]) -> None:
    if len(groups) == 1:
        message.group = groups[0]
    else:
        message.groups.extend(groups)


def stack(**rules: str) -> str:
    """A stack's document: KIND or KIND_NUMBER = the inside of its section, led by its table."""
    text = 'name = "p"\nversion = "1"\nkind = "stack"\nreason = "made for a test"\n'
    for name, inside in rules.items():
        kind = name.rpartition("_")[0] if name[-1].isdigit() else name
        table, _, section = inside.partition("|")
        text += f'[[stack]]\nkind = "{kind}"\n{kind} = {{{section}}}\n'
        text += f'group_table = "{table}"\n' if table else ""
    return text


def relisted(made: Drawn, ids: list[str], up: int, down: int) -> None:
    """Another list in the answer, with ranks, reasons, exposure and utility as they would be of it.

    up, down: the reasons of what stands above and below its rank by score.
    """
    response, receipt = made.response, made.response.receipt
    own = {candidate.item_id: candidate for candidate in response.candidates}
    by_score = sorted(own, key=lambda item: (-own[item].score, item))
    worth = [1 / math.log2(rank + 1) for rank in range(1, len(ids) + 1)]
    del response.items[:]
    shares: dict[str, list[float]] = {}
    for rank, item in enumerate(ids, start=1):
        moved = by_score.index(item) + 1 - rank
        listed = response.items.add(
            rank=rank, item_id=item, score=own[item].score, rank_by_score=rank + moved,
            reason=up if moved > 0 else down if moved < 0 else pb.REASON_CODE_SCORE,
        )  # fmt: skip
        groups = tuple(own[item].groups) or tuple(filter(None, [own[item].group]))
        _grouped(listed, groups)
        for group in groups:
            shares.setdefault(group, []).append(worth[rank - 1] / sum(worth))
    del receipt.exposure[:]
    for group, parts in shares.items():
        receipt.exposure.add(group=group, items=len(parts), exposure_share=sum(parts))

    def gained(order: list[str]) -> float:
        return sum(w * own[item].score for w, item in zip(worth, order, strict=False))

    best = receipt.utility_of_best / receipt.utility_kept
    receipt.utility_kept = gained(ids) / gained(by_score)
    receipt.utility_of_best = min(1.0, best * receipt.utility_kept)
    receipt.places_moved = sum(i.rank != i.rank_by_score for i in response.items)
