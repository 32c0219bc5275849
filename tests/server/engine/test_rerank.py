"""What the engine does with candidates that callers bring, besides bounds: exposure and variety."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from server.bundle import Bundle, load_bundle
from server.engine import Answer, Engine, RerankQuery
from server.errors import InvalidField
from server.exposures import ExposureLedger
from server.features.vectors import item_vectors
from strategies.bundles import N_ITEMS, TIERS


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


def brought(policy: str, scores: dict[str, float], count: int, **groups: str) -> RerankQuery:
    """Candidates with their scores; groups: of items that the bundle does not know."""
    return RerankQuery(
        item_ids=tuple(scores),
        scores=np.array(list(scores.values()), np.float32),
        groups=tuple((groups[item],) if item in groups else () for item in scores),
        count=count,
        policy=policy,
    )


def test_every_rerank_that_is_answered_counts_for_exposure(bundle: Bundle) -> None:
    """At their places, by the group that is evened out; a strange item's place is of no group."""
    policy = bundle.policies["over-time"]
    assert policy.amortisation is not None
    rng = np.random.default_rng(3)
    with ExposureLedger(None) as ledger:
        engine = Engine(bundle, ledger=ledger)
        account = ledger.account(policy.policy.digest, TIERS)
        expected = dict.fromkeys(TIERS, 0.0)
        for asked in range(1, 5):
            known = rng.permutation(N_ITEMS)[:25].tolist()
            scores = {f"item-{n:03}": float(score) for n, score in zip(known, rng.random(25), strict=True)}  # fmt: skip
            query = brought(
                "over-time", {**scores, "strange": 2.0}, 10, strange="category 1"
            )  # fmt: skip
            refused = brought("over-time", {**scores, "strange": 2.0}, 10)
            answer, failed = engine.run_batch([query, refused])
            assert isinstance(answer, Answer)
            assert isinstance(failed, InvalidField)
            assert answer.item_ids[0] == "strange"
            for rank, item in enumerate(answer.item_ids, start=1):
                if item != "strange":
                    n = int(item[5:])
                    group = "large" if n < 30 else "medium" if n < 48 else "small"
                    expected[group] += 1 / math.log2(rank + 1)
            assert account.lists == asked
            assert account.totals() == pytest.approx(list(expected.values()), abs=1e-4)


def test_an_item_that_the_bundle_does_not_know_is_like_no_other(bundle: Bundle) -> None:
    """By the definition: at each place the item that adds most to relevance and log determinant."""
    scores = {"item-059": 1.0, "strange": 0.9, "item-058": 0.85, "item-057": 0.8, "other": 0.7,
              "item-000": 0.3, "item-030": 0.0}  # fmt: skip
    ids = list(scores)
    own = item_vectors(bundle.state).astype(np.float64)
    vectors = [own[int(item[5:])] if item.startswith("item") else None for item in ids]
    like = np.eye(len(ids))
    for a, one in enumerate(vectors):
        for b, other in enumerate(vectors):
            if a != b:
                like[a, b] = 0.0 if one is None or other is None else one @ other
    picked: list[int] = []
    while len(picked) < len(ids):
        gained = {
            at: 0.8 * sum(scores[ids[p]] for p in [*picked, at])
            + 0.2 * np.linalg.slogdet(like[np.ix_([*picked, at], [*picked, at])])[1]
            for at in range(len(ids))
            if at not in picked
        }
        picked.append(max(gained, key=lambda at: gained[at]))
    (answer,) = Engine(bundle).run_batch([brought("varied", scores, len(ids))])
    assert isinstance(answer, Answer)
    assert list(answer.item_ids) == [ids[at] for at in picked]
    assert answer.item_ids[:2] == ("item-059", "strange")
