"""Results and budgets for tests of the gate, as the real writers shape them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from datetime import date
from typing import Any

import numpy as np

from bench.gate import Budgets, Result, Verdict, evaluate, parse_budgets
from bench.gate.results import parse_result

BUNDLE = "shop-0123456789ab"
TODAY = date(2026, 11, 24)


def estimate(value: Any, low: Any = None, high: Any = None, n: Any = 1844) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n_users": n, "better": "higher"}


def quality(bundle_id: str = BUNDLE, **changes: Any) -> Result:
    """A quality result; `changes` replace top-level keys."""
    document: dict[str, Any] = {
        "kind": "quality",
        "schema_version": 1,
        "bundle_id": bundle_id,
        "model_digest": "d" * 64,
        "protocol": {"n_users": 1844, "on": "test"},
        "intervals": {"confidence": 0.95},
        "metrics": {
            "ndcg_at_20": estimate(0.34, 0.33, 0.35),
            "ndcg_at_20_minus_recency_frequency": estimate(0.0165, 0.014, 0.019),
            "item_exposure_gini": estimate(0.9),
        },
        "groups": {
            "income": {
                "under 35K": {"recall_at_20": estimate(0.25, 0.23, 0.27, 190)},
                "35-74K": {"recall_at_20": estimate(0.24, 0.22, 0.26, 330)},
                "unknown": {"recall_at_20": estimate(0.10, 0.09, 0.11, 1124)},
            }
        },
        "policies": {"provider_tiers": {"floor_violations_after": 0, "infeasible": 4}},
    }
    return parse_result(copy.deepcopy(document) | changes, "quality.json")


def load(latencies_ms: Iterable[float] | None, bundle_id: str = BUNDLE, **changes: Any) -> Result:
    """A load result, 5 requests a second; +inf is a failed request. None: the samples are lost."""
    samples = np.array([] if latencies_ms is None else list(latencies_ms), np.float64)
    failed = int(np.isinf(samples).sum())
    n = len(samples)
    document: dict[str, Any] = {
        "kind": "load",
        "valid": True,
        "schema_version": 1,
        "bundle_id": bundle_id,
        "model_digest": "d" * 64,
        "requests": n,
        "errors": failed,
        "error_ratio": failed / n if n else None,
        "latency_ms": {"p99": None},
        "throughput_rps": 100.0,
        "receipts": {"MET": n - failed, "INFEASIBLE": 0, "SKIPPED": 0},
    }
    parsed = parse_result(document | changes, "load.json")
    return Result(
        parsed.kind, parsed.bundle_id, parsed.model_digest, parsed.document, parsed.source,
        None if latencies_ms is None else samples,
        None if latencies_ms is None else np.arange(n, dtype=np.int64) * 200_000_000,
    )  # fmt: skip


def invariants(
    violations: int = 0, checks: int = 10_000, bundle_id: str = BUNDLE, **changes: Any
) -> Result:
    document: dict[str, Any] = {
        "kind": "invariants",
        "schema_version": 1,
        "bundle_id": bundle_id,
        "checked": {"no_duplicates": checks},
        "tables_known": True,
        "violations": [{"invariant": "no_duplicates"}] * violations,
        "violation_count": violations,
    }
    return parse_result(document | changes, "invariants.json")


def budget(
    metric: str, *, on: str = "value", min_n: int = 1, extra: str = "", **bounds: float
) -> str:
    lines = "".join(f"{name} = {float(value)!r}\n" for name, value in bounds.items())
    return (
        f'[[budget]]\nmetric = "{metric}"\n{lines}decide_on = "{on}"\nmin_n = {min_n}\n'
        f'reason = "made for a test"\n{extra}\n'
    )


def budgets(*lines: str, confidence: float = 0.95) -> Budgets:
    head = f'schema_version = 1\nname = "test"\nconfidence = {confidence}\n'
    return parse_budgets(head + "\n".join(lines), "test")


def decided(line: str, *results: Result, **options: Any) -> Verdict:
    """The verdict of one budget line."""
    return evaluate(budgets(line), results, today=TODAY, **options)
