"""One request, from its history to a fair list. See `server.engine.engine`."""

from server.engine.engine import Engine, resolver_for
from server.engine.histories import ResolvedHistory
from server.engine.query import (
    Answer,
    Degraded,
    Normalised,
    NumberedHistory,
    Outcome,
    Page,
    Phases,
    Query,
    RecommendQuery,
    RerankQuery,
    Scored,
    ScoredCandidates,
    ScoreQuery,
    Source,
)

__all__ = [
    "Answer",
    "Degraded",
    "Engine",
    "Normalised",
    "NumberedHistory",
    "Outcome",
    "Page",
    "Phases",
    "Query",
    "RecommendQuery",
    "RerankQuery",
    "ResolvedHistory",
    "ScoreQuery",
    "Scored",
    "ScoredCandidates",
    "Source",
    "resolver_for",
]
