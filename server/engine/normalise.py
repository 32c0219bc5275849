"""What a request means, for callers who only ask that (`validate_only`).

Owns the warnings. No candidate is generated and no model is run.
"""

from __future__ import annotations

from collections.abc import Collection

from server.engine.histories import ResolvedHistory
from server.engine.query import Degraded, Normalised, RecommendQuery
from server.fairness import CompiledPolicy
from server.features.types import History


def normalised(
    query: RecommendQuery,
    policy: CompiledPolicy,
    resolved: ResolvedHistory,
    history: History,
    known_candidates: int,
    now_ms: int,
    degraded: Collection[Degraded],
) -> Normalised:
    """The query with its defaults filled in, and what a caller may not have meant.

    resolved: the events found; history: those of them that count at `now_ms`.
    """
    skipped = max(0, len(query.candidate_ids) - known_candidates)
    warnings = []
    if skipped:
        warnings.append(f"{skipped} of {len(query.candidate_ids)} candidates are unknown")
    if resolved.unknown:
        warnings.append(f"{resolved.unknown} history events name unknown items")
    later = len(resolved.history) - len(history)
    if later:
        warnings.append(f"{later} history events are later than as_of and are not read")
    if query.personal and not len(history):
        warnings.append("no usable history: the list will be the non-personal one")
    if query.names_candidates and known_candidates < query.count:
        warnings.append(f"count is {query.count}, but only {known_candidates} candidates are known")
    return Normalised(
        count=query.count,
        policy=policy.policy.name,
        personal=query.personal and len(history) > 0,
        history_events=len(history),
        candidates=known_candidates,
        seen=query.seen,
        as_of_ms=now_ms,
        degraded=frozenset(degraded),
        skipped_candidates=skipped,
        skipped_history=resolved.unknown,
        warnings=tuple(warnings),
    )
