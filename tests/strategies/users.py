"""Evaluations with per-user arrays, for tests of the gate: the document says what the arrays say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench.gate import Result
from bench.gate.user_arrays import user_arrays
from strategies.results import BUNDLE, estimate, quality

BEFORE = "shop-before000000"
PROTOCOL = {
    "n_users": 0,
    "on": "test",
    "split": "weeks",
    "history_until_unix_ms": 1,
    "targets_until_unix_ms": 2,
    "k": 20,
    "ranking": "full",
    "min_users": 20,
}


def evaluated(
    values: Mapping[str, ArrayLike],
    labels: Mapping[str, Sequence[str]] | None = None,
    *,
    ids: Sequence[str] | None = None,
    bundle_id: str = BUNDLE,
    min_users: int = 0,
    **changes: Any,
) -> Result:
    """A quality result from per-user values (`[users]` each) and labels."""
    columns = {name: np.asarray(column, np.float64) for name, column in values.items()}
    n = len(next(iter(columns.values())))
    estimates = {}
    for name, column in columns.items():
        if "/" in name:
            continue
        known = column[np.isfinite(column)]
        mean = float(known.mean()) if len(known) else None
        estimates[name] = estimate(mean, mean, mean, len(known))
    arrays: dict[str, Any] = {
        "user_id": np.array(ids if ids is not None else [f"u{place:05}" for place in range(n)]),
        **columns,
        **{f"group/{name}": np.array(told) for name, told in (labels or {}).items()},
    }
    document = {
        "metrics": estimates,
        "groups": {},
        "protocol": PROTOCOL | {"n_users": n, "min_users": min_users},
        "dataset": {"digest": "e" * 64},
        "model_digest": bundle_id.encode().hex(),
    }
    result = quality(bundle_id, **(document | changes))
    return replace(result, users=user_arrays(arrays, "per_user.npz"))


def before(values: Mapping[str, ArrayLike], *arguments: Any, **changes: Any) -> Result:
    """The same of the baseline release."""
    return evaluated(values, *arguments, **({"bundle_id": BEFORE} | changes))
