"""Lists from the served path: a bundle's engine, asked for the users of a data set.

Owns the step from a data set's histories to the engine's queries and back. There is
no second implementation of candidates, features, scores or the fair stage here:
what is measured is what a server with this bundle would send.

    lists = served_lists(Engine(bundle), history, users, now_ms, policy="none", k=20)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from server.engine.engine import Engine
from server.engine.query import Answer, RecommendQuery
from server.errors import Refused, listed
from server.events import EventKind, StoredHistory
from server.fairness import Receipt
from server.features.types import Int32
from training.data.dataset import Dataset


@dataclass(frozen=True)
class ServedLists:
    """The lists of T users under one policy.

    items: `[t, k] int32`, places in the bundle's item table, -1 after a short list's end.
    receipts: the fair stage's word on each list.
    skipped_events: history events whose item the bundle does not know, over all users.
    """

    policy: str
    items: Int32
    receipts: tuple[Receipt, ...]
    skipped_events: int


def served_lists(
    engine: Engine,
    history: Dataset,
    users: Int32,
    now_ms: int,
    *,
    policy: str,
    k: int = 20,
    seen: bool = True,
    on_users: Callable[[int], None] = lambda _: None,
    on_answer: Callable[[Answer], None] | None = None,
) -> ServedLists:
    """One list per user of `users`, made from `history` (the purchases up to `now_ms`).

    seen: whether items of the history may come back. on_users: told how many are done. on_answer:
    given each answer, in the users' order, with what its list was made of.
    """
    index = engine.bundle.items.index
    lists = np.full((len(users), k), -1, np.int32)
    receipts: list[Receipt] = []
    skipped = 0
    answers = served_answers(
        engine, history, users, now_ms, policy=policy, k=k, seen=seen, on_users=on_users,
        with_candidates=on_answer is not None,
    )  # fmt: skip
    for row, answer in enumerate(answers):
        places = [index[item] for item in answer.item_ids]
        lists[row, : len(places)] = places
        receipts.append(answer.fair.receipt)
        skipped += answer.skipped_history
        if on_answer is not None:
            on_answer(answer)
    return ServedLists(policy, lists, tuple(receipts), skipped)


def served_answers(
    engine: Engine,
    history: Dataset,
    users: Int32,
    now_ms: int,
    *,
    policy: str,
    k: int = 20,
    seen: bool = True,
    with_candidates: bool = False,
    on_users: Callable[[int], None] = lambda _: None,
) -> Iterator[Answer]:
    """The engine's own answers, one per user in their order; see `served_lists`.

    with_candidates: whether each brings what its list was made of.
    """
    batch = engine.bundle.manifest.model.best_batch
    for start in range(0, len(users), batch):
        part = users[start : start + batch].tolist()
        queries = [
            RecommendQuery(
                count=k,
                history=_told(history, user),
                policy=policy,
                seen=seen,
                as_of_ms=now_ms,
                with_candidates=with_candidates,
            )
            for user in part
        ]
        for outcome in engine.run_batch(queries):
            if isinstance(outcome, BaseException):
                raise outcome
            if not isinstance(outcome, Answer):
                raise TypeError(f"the engine answered {type(outcome).__name__}, wanted a list")
            yield outcome
        on_users(len(part))


def plain_policy(engine: Engine) -> str:
    """The bundle's policy that changes nothing, to measure the ranker alone; `Refused` without one."""
    for name, compiled in engine.bundle.policies.items():
        if compiled.policy.kind == "none":
            return name
    raise Refused(
        f"bundle {engine.bundle.manifest.bundle_id} has no policy of kind 'none' to measure the "
        f"ranker alone; it has: {listed(engine.bundle.policies)}. Train it with one"
    )


def refuse_a_bundle_that_has_seen(engine: Engine, until_ms: int) -> None:
    """`Refused` if the bundle learned from events after `until_ms`: its numbers would flatter it."""
    seen_ms = engine.bundle.manifest.data.until_unix_ms
    if seen_ms > until_ms:
        raise Refused(
            f"bundle {engine.bundle.manifest.bundle_id} learned from events up to {seen_ms} "
            f"(Unix ms), after the cut at {until_ms}: it has seen what it would be asked to "
            "foresee. Evaluate a bundle that was trained up to the cut"
        )


def _told(history: Dataset, user: int) -> StoredHistory:
    own = history.history(user)
    return StoredHistory(
        item_ids=tuple(history.item_ids[item] for item in own.items.tolist()),
        times_ms=own.times_ms,
        kinds=np.full(len(own), EventKind.PURCHASE, np.int8),
        quantities=own.quantities,
    )
