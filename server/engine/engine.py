"""One request, from its history to a fair list; and a batch of them.

Owns the order of the stages: history, candidates, exclusions, features, model,
and the fair stage last, on every path (fallback lists too), so that a receipt
speaks of the list that is sent; and that no stage begins that a deadline leaves
no time for. Runs on one thread (the batcher's). Knows neither the wire nor the
queue.

    engine = Engine(bundle, histories=cache)
    outcomes = engine.run_batch([RecommendQuery(count=10, user_id="7")])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from server.bundle import Bundle, Searcher, feed_maker, ports_of, retriever_for, searcher
from server.engine.fair import FairStage, Made
from server.engine.fallback import Fallbacks
from server.engine.groups import Counts, PolicyItems
from server.engine.histories import (
    Histories,
    HistoryResolver,
    ResolvedHistory,
    checked_numbers,
)
from server.engine.normalise import normalised
from server.engine.query import (
    Answer,
    Degraded,
    Normalised,
    Outcome,
    Page,
    Phases,
    Query,
    RecommendQuery,
    RerankQuery,
    ScoreQuery,
    Source,
)
from server.engine.rerank import answer_rerank
from server.engine.score import alike, score_queries
from server.engine.supply import missing_groups
from server.engine.together import least_together
from server.errors import (
    BundleRefused,
    DeadlineExpired,
    ItemNumbersStale,
    Reason,
    UnknownItem,
    UnknownName,
)
from server.events import EventKind, HistoryCache
from server.exposures import ExposureLedger
from server.fairness import CompiledPolicy, rerank, warm_up
from server.features import generate_candidates
from server.features.types import History, Int32
from server.model import Feed, OnnxScorer
from server.pace import Pace

# How far a replayed warm-up's scores may stray on another processor.
WARMUP_TOLERANCE = 1e-4


@dataclass(frozen=True)
class _Prepared:
    """A query with its names resolved and its features computed, ready for the model."""

    query: RecommendQuery
    policy: PolicyItems
    compiled: CompiledPolicy
    bought: Counts
    items: NDArray[np.int32]
    sources: NDArray[np.int8]
    now_ms: int
    feed: Feed
    degraded: frozenset[Degraded]
    skipped_candidates: int
    skipped_history: int
    began_ns: int
    history_ns: int
    features_ns: int


class Engine:
    """Makes lists from one bundle.

    cache: the event store's histories, or None where requests must bring theirs.
    clock_ms: what "now" is for queries without `as_of_ms`, in Unix milliseconds.
    monotonic_ns: the clock of the queries' deadlines.
    ledger: what lists have shown so far, for policies that even out exposure; in memory if None.
    replay: the clock stands still in the past, and "now" moves on with each user's last event.
    least_together: how many lists share a model run at least, None if none do.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        cache: HistoryCache[ResolvedHistory] | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        replay: bool = False,
        ledger: ExposureLedger | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.bundle = bundle
        model = bundle.manifest.model
        self._scorer = OnnxScorer(bundle.model, ports_of(model))
        self.least_together = least_together(self._scorer, bundle.golden_inputs)
        self._feed = feed_maker(ports_of(model), bundle.state)
        self._search = self._searcher()
        self._index = bundle.items.index
        self._ids = bundle.items.ids
        self._bundle_id = bundle.manifest.bundle_id
        self._histories = Histories(resolver_for(bundle), cache, self._bundle_id)
        self._clock_ms = clock_ms
        self._replay = replay
        self._policies = {
            name: PolicyItems.of(bundle, compiled) for name, compiled in bundle.policies.items()
        }
        self._stage = FairStage(bundle, ledger or ExposureLedger(None))
        self._fallbacks = Fallbacks(bundle, self._policies, self._stage)
        self._monotonic_ns = monotonic_ns
        self._fair_paces = {name: Pace() for name in self._policies}

    def warm_up(self) -> int:
        """Replay the bundle's warm-up requests, compiling every kernel; return how many.

        Raises:
            BundleRefused: a list differs from the one recorded when the bundle was made.
        """
        model = self.bundle.manifest.model
        allowed = WARMUP_TOLERANCE
        if model.quantised is not None:
            allowed = max(allowed, model.quantised.golden_tolerance)
        for number, warmup in enumerate(self.bundle.warmups):
            found = generate_candidates(
                warmup.history,
                warmup.now_ms,
                self.bundle.state,
                model.n_novel,
                n_popular=model.n_popular,
                similar=self._similar(warmup.history),
            )
            feed = self._feed(warmup.history, found.items, warmup.now_ms)
            scores = self._scorer.score_lists([feed], self.least_together)[0]
            by_item = dict(zip(found.items.tolist(), scores.tolist(), strict=True))
            wanted = warmup.expected_top
            if len(found.items) < len(wanted):
                raise BundleRefused(
                    "warmups.json",
                    f"request {number}: {len(wanted)} items recorded, "
                    f"but only {len(found.items)} candidates",
                )
            best = np.lexsort((found.items, -scores))[: len(wanted)]
            for place, (got, want) in enumerate(
                zip(found.items[best].tolist(), wanted.tolist(), strict=True), start=1
            ):
                gap = abs(by_item[got] - by_item.get(want, np.inf))
                if gap > allowed:
                    raise BundleRefused(
                        "warmups.json",
                        f"request {number}, place {place}: got item {self._ids[got]!r}, "
                        f"recorded {self._ids[want]!r}, scores differ by {gap:.2g}, "
                        f"allowed: {allowed}",
                    )
        warm_up()
        for policy in self._policies.values():
            # Compiles what else this bundle's policies need.
            rerank(np.array([0.2, 0.1], np.float32), policy.rows[:, [0, 0]], 2, policy.compiled)
        return len(self.bundle.warmups)

    def _searcher(self) -> Searcher | None:
        model, graph = self.bundle.manifest.model, self.bundle.retrieval
        if graph is None:
            return None
        retriever = retriever_for(model, graph, len(self.bundle.items.ids))
        return searcher(retriever, model.history_length)

    def _similar(self, history: History) -> Int32 | None:
        """What the catalogue is searched for; None where candidates come by item-item weights, as they
        do for nobody in particular."""
        return self._search(history) if self._search is not None and len(history) else None

    def run_batch(self, queries: Sequence[Query]) -> list[Outcome | BaseException]:
        """One outcome or exception per query, in order; one's failure is never another's."""
        outcomes: list[Outcome | BaseException | None] = [None] * len(queries)
        prepared: list[tuple[int, _Prepared]] = []
        raw: list[tuple[int, ScoreQuery]] = []
        for place, query in enumerate(queries):
            try:
                if isinstance(query, RerankQuery):
                    outcomes[place] = answer_rerank(
                        query, self.bundle, self._policy(query.policy), self._stage
                    )
                    continue
                if isinstance(query, ScoreQuery):
                    raw.append((place, query))
                    continue
                if query.late:
                    outcomes[place] = self._late(query)
                    continue
                ready = self._prepare(query)
                if isinstance(ready, Normalised):
                    outcomes[place] = ready
                else:
                    prepared.append((place, ready))
            except Exception as error:
                outcomes[place] = error
        for part in alike([len(ready.items) for _, ready in prepared]):
            members = []
            for place, ready in (prepared[i] for i in part):
                deadline_ns = ready.query.deadline_ns
                if deadline_ns is not None and self._monotonic_ns() >= deadline_ns:
                    outcomes[place] = DeadlineExpired("the deadline passed before the model ran")
                else:
                    members.append((place, ready))
            if not members:
                continue
            try:
                scores, from_ns, model_ns = self._score_together([ready for _, ready in members])
            except Exception as error:
                for place, _ in members:
                    outcomes[place] = error
                continue
            for (place, ready), own in zip(members, scores, strict=True):
                try:
                    outcomes[place] = self._finish(ready, own, from_ns, model_ns)
                except Exception as error:
                    outcomes[place] = error
        scored = score_queries(
            [query for _, query in raw], self._scorer, self._monotonic_ns, self.least_together
        )
        for (place, _), one in zip(raw, scored, strict=True):
            outcomes[place] = one
        return [
            RuntimeError("a query got no outcome") if outcome is None else outcome
            for outcome in outcomes
        ]

    # Names -> what the bundle holds.

    def _policy(self, name: str) -> PolicyItems:
        wanted = name or self.bundle.manifest.default_policy
        policy = self._policies.get(wanted)
        if policy is None:
            raise UnknownName(Reason.UNKNOWN_POLICY, "policy", wanted, self._policies)
        return policy

    def _known(self, field: str, ids: Sequence[str], strict: bool) -> NDArray[np.int32]:
        """The indices of the known ids, in order."""
        found = np.fromiter(map(self._index.get, ids, repeat(-1)), np.int32, len(ids))
        missing = found < 0
        if strict and missing.any():
            raise UnknownItem(field, ids[int(np.flatnonzero(missing)[0])], self._bundle_id)
        return found[~missing]

    # The stages of a Recommend.

    def _prepare(self, query: RecommendQuery) -> _Prepared | Normalised:
        if query.numbers_of and query.numbers_of != self._bundle_id:
            raise ItemNumbersStale(query.numbers_of, self._bundle_id)
        policy = self._policy(query.policy)
        started_ns = time.monotonic_ns()
        degraded: set[Degraded] = set()
        resolved, store_failed = (
            self._histories.read(query.user_id, query.history, query.strict)
            if query.personal
            else (ResolvedHistory(History.empty(), 0, ""), False)
        )
        history, now_ms = resolved.history, query.as_of_ms
        if query.after is not None:
            now_ms = query.after.as_of_ms
        elif now_ms is None:
            now_ms = self._clock_ms()
            if self._replay and len(history):
                now_ms = max(now_ms, int(history.times_ms[-1]))
        history = history.until(now_ms)
        if store_failed:
            degraded.add(Degraded.EVENT_STORE_UNAVAILABLE)
        if resolved.unknown:
            degraded.add(Degraded.HISTORY_SKIPPED)
        if query.personal and not len(history):
            degraded.add(Degraded.NON_PERSONAL)
        history_done_ns = time.monotonic_ns()

        if query.candidate_numbers is not None:
            numbers = query.candidate_numbers
            named = checked_numbers("candidate_numbers", numbers, len(self._ids))
        else:
            named = self._known("candidate_item_ids", query.candidate_ids, query.strict)
        skipped = max(0, len(query.candidate_ids) - len(named))
        if skipped:
            degraded.add(Degraded.CANDIDATES_SKIPPED)
        if query.validate_only:
            return normalised(
                query, policy.compiled, resolved, history, len(named), now_ms, degraded
            )

        bought = policy.bought(history.items)
        compiled = policy.compiled.for_user(bought)
        excluded = self._known("exclude_item_ids", query.exclude_ids, strict=False)
        if query.names_candidates:
            items = self._left(named, excluded, history, query.seen)
            sources = np.full(len(items), Source.REQUEST, np.int8)
        else:
            model = self.bundle.manifest.model
            found = generate_candidates(
                history,
                now_ms,
                self.bundle.state,
                max(model.n_novel, query.count),
                excluded,
                n_popular=model.n_popular,
                seen=query.seen,
                similar=self._similar(history),
            )
            unwanted = excluded if query.seen else np.concatenate([excluded, history.items])
            popular = self.bundle.state.popular
            more = missing_groups(found.items, unwanted, popular, policy, compiled, query.count)
            items, sources = found.items, found.sources
            if len(more):
                items = np.concatenate([items, more])
                sources = np.concatenate([sources, np.full(len(more), Source.POPULAR, np.int8)])
        if query.after is not None:
            # What was shown stays in the list, whatever became of its candidates since.
            gone = np.setdiff1d(np.array(query.after.shown, np.int32), items)
            items = np.concatenate([items, gone])
            sources = np.concatenate([sources, np.full(len(gone), Source.POPULAR, np.int8)])
        feed = self._feed(history, items, now_ms)
        return _Prepared(
            query=query,
            policy=policy,
            compiled=compiled,
            bought=bought,
            items=items,
            sources=sources,
            now_ms=now_ms,
            feed=feed,
            degraded=frozenset(degraded),
            skipped_candidates=skipped,
            skipped_history=resolved.unknown,
            began_ns=started_ns,
            history_ns=history_done_ns - started_ns,
            features_ns=time.monotonic_ns() - history_done_ns,
        )

    @staticmethod
    def _left(
        named: NDArray[np.int32], excluded: NDArray[np.int32], history: History, seen: bool
    ) -> NDArray[np.int32]:
        unwanted = excluded if seen else np.concatenate([excluded, history.items])
        left: NDArray[np.int32] = named[~np.isin(named, unwanted)] if len(unwanted) else named
        return left

    def _score_together(
        self, members: Sequence[_Prepared]
    ) -> tuple[list[NDArray[np.float32]], int, int]:
        """Each member's scores `[n] float32`, from one padded model run; when it began and how
        many nanoseconds it took."""
        started_ns = time.monotonic_ns()
        own = self._scorer.score_lists([ready.feed for ready in members], self.least_together)
        return own, started_ns, time.monotonic_ns() - started_ns

    def _finish(
        self, ready: _Prepared, scores: NDArray[np.float32], model_from_ns: int, model_ns: int
    ) -> Answer:
        if not np.isfinite(scores).all():
            raise RuntimeError("the model gave a score that is not finite")
        if not self._in_time(ready):
            return self._late(ready.query)
        started_ns = time.monotonic_ns()
        members = ready.policy.rows[:, ready.items]
        made = self._stage.make(
            scores,
            members,
            ready.items,
            ready.query.count,
            ready.policy,
            ready.compiled,
            ready.items.astype(np.int64),
            ready.bought,
            _positions(ready),
        )
        fair_ns = time.monotonic_ns() - started_ns
        self._fair_paces[ready.policy.compiled.policy.name].took(fair_ns)
        phases = Phases(
            history_ns=ready.history_ns,
            features_ns=ready.features_ns,
            model_ns=model_ns,
            fair_ns=fair_ns,
            history_from_ns=ready.began_ns,
            model_from_ns=model_from_ns,
            fair_from_ns=started_ns,
        )
        return self._answer(ready, scores, members, made, phases)

    def _answer(
        self,
        ready: _Prepared,
        scores: NDArray[np.float32],
        members: NDArray[np.int32],
        made: Made,
        phases: Phases,
    ) -> Answer:
        """What is sent of a list, charged. members: `[A, n]` rows of the candidates."""
        fair = made.fair
        chosen = ready.items[fair.order].tolist()
        offset = 0 if ready.query.after is None else len(ready.query.after.shown)
        end = min(offset + (ready.query.page_size or len(chosen)), len(chosen))
        self._stage.charge(made, ready.policy, offset, end)
        degraded = ready.degraded
        if len(chosen) < ready.query.count:
            degraded |= {Degraded.SHORT_LIST}
        return Answer(
            item_ids=tuple(self._ids[item] for item in chosen),
            scores=scores[fair.order],
            groups=ready.policy.labels_of(members[:, fair.order]),
            sources=ready.sources[fair.order],
            fair=fair,
            degraded=degraded,
            skipped_candidates=ready.skipped_candidates,
            skipped_history=ready.skipped_history,
            phases=phases,
            candidates=made.candidates(
                tuple(map(self._ids.__getitem__, ready.items.tolist())),
                scores,
                members,
                ready.policy,
            )
            if ready.query.with_candidates
            else None,
            offset=offset,
            end=end,
            shown=Page(tuple(chosen[:end]), ready.now_ms) if end < len(chosen) else None,
        )

    # Where there is no time.

    @property
    def late_of(self) -> Callable[[Query], Query | None] | None:
        """The query to run in the place of one whose deadline leaves no time for it, which gets its
        policy's fallback; None where there is none. None instead of this: no policy has one."""
        return self._late_of if self._fallbacks else None

    def _late_of(self, query: Query) -> Query | None:
        if not isinstance(query, RecommendQuery):
            return None
        policy = query.policy or self.bundle.manifest.default_policy
        return replace(query, late=True) if self._fallbacks.offered(query, policy) else None

    def _in_time(self, ready: _Prepared) -> bool:
        """Whether the deadline leaves time for the fair stage, as far as its usual time is known."""
        if ready.query.deadline_ns is None:
            return True
        pace = self._fair_paces[ready.policy.compiled.policy.name]
        if self._monotonic_ns() + pace.ns <= ready.query.deadline_ns:
            return True
        pace.relax()
        return False

    def _late(self, query: RecommendQuery) -> Answer:
        """The fallback list of the query's policy.

        Raises:
            DeadlineExpired: there is none for this query.
        """
        started_ns = time.monotonic_ns()
        policy = self._policy(query.policy)
        name = policy.compiled.policy.name
        found = None
        if self._fallbacks.offered(query, name):
            unwanted = self._known("exclude_item_ids", query.exclude_ids, strict=False).tolist()
            if not query.seen and query.personal:
                bought, failed = self._histories.read(query.user_id, query.history, strict=False)
                unwanted += bought.history.items.tolist()
                found = None if failed else self._fallbacks.list_of(name, query.count, unwanted)
            else:
                found = self._fallbacks.list_of(name, query.count, unwanted)
        if found is None:
            raise DeadlineExpired(
                f"the deadline leaves no time for the list, and policy {name!r} has no fallback "
                "for this request"
            )
        ready = _Prepared(
            query=query,
            policy=policy,
            compiled=policy.compiled,
            bought={},
            items=found.items,
            sources=np.full(len(found.items), Source.POPULAR, np.int8),
            now_ms=self._clock_ms() if query.as_of_ms is None else query.as_of_ms,
            feed={},
            degraded=frozenset((Degraded.FALLBACK, Degraded.NON_PERSONAL)),
            skipped_candidates=0,
            skipped_history=0,
            began_ns=started_ns,
            history_ns=0,
            features_ns=0,
        )
        phases = Phases(fair_ns=time.monotonic_ns() - started_ns, fair_from_ns=started_ns)
        return self._answer(ready, found.scores, found.members, found.made, phases)


def _positions(ready: _Prepared) -> NDArray[np.int32]:
    """Where the items of earlier pages stand among the candidates."""
    if ready.query.after is None:
        return np.empty(0, np.int32)
    position = {item: place for place, item in enumerate(ready.items.tolist())}
    return np.array([position[item] for item in ready.query.after.shown], np.int32)


def resolver_for(bundle: Bundle) -> HistoryResolver:
    """The step from stored events to histories of this bundle's items."""
    kinds = frozenset(EventKind[name.upper()] for name in bundle.manifest.positive_kinds)
    return HistoryResolver(bundle.items.index, kinds)
