"""Where a deadline leaves no time: the policy's fallback list, or a refusal; never an unfair list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from server.batcher import Batched
from server.bundle import Bundle, load_bundle
from server.engine import Answer, Degraded, Engine, RecommendQuery, RerankQuery, Source
from server.engine.fallback import READY, Fallbacks
from server.errors import DeadlineExpired, PolicyRefused
from server.events import StoredHistory
from server.exposures import ExposureLedger
from server.fairness import Status, parse_policy
from server.pace import Pace
from server.service.encode import recommend_response
from strategies.bundles import DATA_UNTIL_MS, tiny_bundle, tiny_parts
from strategies.verifying import verifier_of

LATE_POLICIES = (
    "none",
    "tiers",
    "brands",
    "categories",
    "crossed",
    "stacked",
    "over-time",
    "varied",
)


def _falling_back() -> Mapping[str, str]:
    policies = dict(tiny_parts().policies)
    for name in LATE_POLICIES:
        policies[name] = policies[name].replace(
            f'name = "{name}"', f'name = "{name}"\non_late = "fallback"', 1
        )
    return policies


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late") / "bundle"
    tiny_bundle(folder, policies=_falling_back())
    return folder


@pytest.fixture(scope="module")
def bundle(path: Path) -> Bundle:
    return load_bundle(path)


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(ns=0)


@pytest.fixture
def engine(bundle: Bundle, clock: SimpleNamespace) -> Engine:
    return Engine(bundle, clock_ms=lambda: DATA_UNTIL_MS, monotonic_ns=lambda: clock.ns)


def history(*items: int) -> StoredHistory:
    return StoredHistory(
        item_ids=tuple(f"item-{n:03}" for n in items),
        times_ms=np.full(len(items), DATA_UNTIL_MS - 86_400_000, np.int64),
        kinds=np.full(len(items), 4, np.int8),
        quantities=np.ones(len(items), np.float32),
    )


def query(policy: str = "tiers", count: int = 12, **more: Any) -> RecommendQuery:
    return RecommendQuery(count=count, policy=policy, **more)


def late(engine: Engine, asked: RecommendQuery) -> Answer:
    assert engine.late_of is not None
    instead = engine.late_of(asked)
    assert instead is not None
    (outcome,) = engine.run_batch([instead])
    assert isinstance(outcome, Answer), outcome
    return outcome


@pytest.mark.parametrize("count", [1, 7, 12, 20, 45])
@pytest.mark.parametrize("policy", LATE_POLICIES)
def test_a_fallback_list_keeps_its_policy_and_every_claim_of_it_holds(
    engine: Engine, path: Path, tmp_path: Path, policy: str, count: int
) -> None:
    asked = query(policy, count, with_candidates=True)
    if (policy, count) == ("crossed", 45):  # 18 private labels are asked for, and there are 15.
        assert isinstance(engine.run_batch([query(policy, count, late=True)])[0], DeadlineExpired)
        return
    answer = late(engine, asked)
    assert answer.degraded == {Degraded.FALLBACK, Degraded.NON_PERSONAL}
    assert answer.fair.receipt.status in (Status.MET, Status.SKIPPED)
    assert set(answer.sources.tolist()) == {Source.POPULAR}
    request = pb.RecommendRequest(count=count, policy=policy, with_candidates=True)
    response = recommend_response(asked, Batched(answer, 0, 1), engine.bundle, 0, 0)
    assert response.receipt.fallback
    code, claims = verifier_of(tmp_path, path)(request, [response], policy)
    left = {name for name, claim in claims.items() if claim["verdict"] != "holds"}
    assert (code, left) == (0, set()), claims


def test_verify_finds_a_fallback_that_the_policy_does_not_have(
    engine: Engine, bundle_path: Path, tmp_path: Path
) -> None:
    asked = query(with_candidates=True)
    response = recommend_response(asked, Batched(late(engine, asked), 0, 1), engine.bundle, 0, 0)
    request = pb.RecommendRequest(count=12, policy="tiers", with_candidates=True)
    code, claims = verifier_of(tmp_path, bundle_path)(request, [response], "tiers", bundle=False)
    assert code == 1
    assert "the document has none" in claims["the receipt is of this policy"]["told"]


def test_a_fallback_is_the_same_list_for_everyone_and_best_sellers_first(engine: Engine) -> None:
    answer = late(engine, query("none", 5))
    assert answer.item_ids == tuple(f"item-{n:03}" for n in range(5))
    assert late(engine, query("none", 5, user_id="7", history=history(40))).item_ids == (
        answer.item_ids
    )


@pytest.mark.parametrize(
    "asked",
    [
        query(candidate_ids=("item-001",)),
        query("own-shares"),
        query(validate_only=True),
        RerankQuery(("item-001",), tiny_parts().state.popularity[:1], (), 1, policy="tiers"),
    ],
)
def test_some_requests_have_no_fallback(engine: Engine, asked: Any) -> None:
    assert engine.late_of is not None
    assert engine.late_of(asked) is None


def test_a_bundle_without_fallbacks_offers_none(bundle_path: Path) -> None:
    assert Engine(load_bundle(bundle_path)).late_of is None


@pytest.mark.parametrize(
    "unwanted",
    [{"exclude_ids": ("item-000",)}, {"seen": False, "history": history(0)}],
)
def test_a_list_with_an_item_that_is_not_wanted_is_not_served(
    engine: Engine, unwanted: dict[str, Any]
) -> None:
    assert "item-000" in late(engine, query()).item_ids
    (outcome,) = engine.run_batch([query(late=True, **unwanted)])
    assert isinstance(outcome, DeadlineExpired)
    assert "'tiers' has no fallback for this request" in str(outcome)
    elsewhere = (
        {"exclude_ids": ("item-059",)}
        if "exclude_ids" in unwanted
        else {"seen": False, "history": history(59)}
    )
    assert late(engine, query(**elsewhere)).item_ids == late(engine, query()).item_ids


def test_what_is_shown_counts_as_exposure(bundle: Bundle) -> None:
    ledger = ExposureLedger(None)
    engine = Engine(bundle, ledger=ledger, clock_ms=lambda: DATA_UNTIL_MS)
    late(engine, query("over-time"))
    compiled = bundle.policies["over-time"]
    assert compiled.amortisation is not None
    account = ledger.account(compiled.policy.digest, compiled.amortisation.labels)
    assert account.totals().sum() > 3


def test_no_model_runs_after_the_deadline(
    engine: Engine, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    score = engine._scorer.score_lists
    monkeypatch.setattr(
        engine._scorer,
        "score_lists",
        lambda lists, least: ran.append(len(lists)) or score(lists, least),
    )
    clock.ns = 100
    gone, there = engine.run_batch([query(deadline_ns=100), query(deadline_ns=10**12)])
    assert isinstance(gone, DeadlineExpired)
    assert "before the model ran" in str(gone)
    assert isinstance(there, Answer)
    assert ran == [1]
    (gone,) = engine.run_batch([query(deadline_ns=100)])
    assert isinstance(gone, DeadlineExpired)
    assert ran == [1]


def test_a_fair_stage_without_time_becomes_the_fallback_or_a_refusal(
    engine: Engine, clock: SimpleNamespace
) -> None:
    for name in ("tiers", "own-shares"):
        engine._fair_paces[name] = Pace()
        engine._fair_paces[name].took(1000)
    made, refused, there = engine.run_batch(
        [
            query("tiers", deadline_ns=900),
            query("own-shares", deadline_ns=900),
            query("tiers", deadline_ns=1000),
        ]
    )
    assert isinstance(made, Answer)
    assert Degraded.FALLBACK in made.degraded
    assert isinstance(refused, DeadlineExpired)
    assert isinstance(there, Answer)
    assert Degraded.FALLBACK not in there.degraded


def test_a_fair_stage_that_was_slow_once_is_tried_again(
    engine: Engine, clock: SimpleNamespace
) -> None:
    engine._fair_paces["tiers"].took(10**10)
    tried = [engine.run_batch([query(deadline_ns=5 * 10**9)])[0] for _ in range(200)]
    degraded = [Degraded.FALLBACK in one.degraded for one in tried if isinstance(one, Answer)]
    assert degraded[0]
    assert not degraded[-1]


def test_best_sellers_that_cannot_keep_a_policy_are_no_fallback(tmp_path: Path) -> None:
    text = _falling_back()["categories"].replace("at_most = 4", "at_most = 1")
    tiny_bundle(tmp_path / "b", policies={**_falling_back(), "categories": text})
    engine = Engine(load_bundle(tmp_path / "b"), clock_ms=lambda: DATA_UNTIL_MS)
    kept, broken = engine.run_batch(
        [query("categories", 6, late=True), query("categories", 7, late=True)]
    )
    assert isinstance(kept, Answer)
    assert isinstance(broken, DeadlineExpired)


def test_the_usual_lengths_are_made_before_the_first_request(
    bundle: Bundle, engine: Engine
) -> None:
    made = Fallbacks(bundle, engine._policies, engine._stage)._lists
    assert {count for name, count in made if name == "crossed"} == {*READY, 200}


def test_a_page_after_a_fallback_goes_on_from_it(engine: Engine) -> None:
    first = late(engine, query("tiers", 12, page_size=5))
    assert (first.end, first.shown is not None) == (5, True)
    (rest,) = engine.run_batch([query("tiers", 12, page_size=5, after=first.shown)])
    assert isinstance(rest, Answer)
    assert rest.item_ids[:5] == first.item_ids[:5]
    assert rest.fair.receipt.status is Status.MET
    assert engine.late_of is not None
    assert engine.late_of(query("tiers", 12, page_size=5, after=first.shown)) is None


def test_a_calibrated_policy_cannot_declare_one() -> None:
    text = tiny_parts().policies["own-shares"]
    head, _, rest = text.partition("\n")
    with pytest.raises(PolicyRefused, match="on_late") as refused:
        parse_policy(f'{head}\non_late = "fallback"\n{rest}', "test")
    assert "calibrated" in str(refused.value)
