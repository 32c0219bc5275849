"""ROC curves and the area under them, by group of users and by group of items.

Owns the block `roc` of the results. A point of a curve is a pair of a user and one of his
candidates, as the server scored it; it is positive if the user bought the item within the
bundle's horizon after the cut. The curve of a group holds all pairs of its users, or all pairs
with its items, and the AUC is the area under that curve: how likely a pair that was bought scores
above one that was not, ties half (scikit-learn computes both).

Intervals are over users, who are drawn with all their pairs. A resample puts scores into STEPS
steps of equally many pairs, ties half within each, and is moved by what that changes in the whole
sample: an approximation, off by less than a step's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve

from server.bundle import GroupTable
from server.features.types import Float64
from training.intervals import Estimate, Resampler
from training.measures.candidates import Bool, Scored
from training.user_groups import Groups, withheld

STEPS = 256
"""Steps of scores in a resample."""
POINTS = 41
"""Points of a curve that are kept."""
MOST_LABELS = 30
"""Of a table of items with more groups than this, those that were bought most are reported."""
CURVES = 8
"""So many groups of a table have their curve kept; the others their AUC."""

DEFINITION = (
    "pairs of a user and a candidate, by served score without a policy; positive: bought within "
    "the bundle's horizon after the cut; area under the curve of all pairs of the group, ties "
    f"half; intervals over users, resampled scores in {STEPS} steps"
)


def roc_block(
    scored: Scored,
    groups: Groups,
    tables: Mapping[str, GroupTable],
    sample: Resampler,
    min_users: int,
) -> dict[str, Any]:
    """The block `roc`: all pairs, each group of users, and each group of items."""
    binned = _steps(scored.scores)
    everything = np.ones(len(scored), np.bool_)

    def of(chosen: Bool, *, curve: bool = True) -> dict[str, Any]:
        return _told(scored, binned, chosen, sample, min_users, curve=curve)

    users: dict[str, Any] = {}
    for attribute, labels in groups.items():
        mine = labels[scored.rows]
        users[attribute] = {label: of(mine == label) for label in sorted(set(labels.tolist()))}
    items: dict[str, Any] = {}
    for name, table in tables.items():
        codes = table.codes[scored.items]
        bought = np.bincount(codes[scored.positive], minlength=len(table.labels))
        order = np.argsort(-bought, kind="stable")[:MOST_LABELS].tolist()
        if len(table.labels) > 1:
            items[name] = {
                table.labels[code]: of(codes == code, curve=place < CURVES)
                for place, code in enumerate(order)
                if bought[code]
            }
    return {"definition": DEFINITION, "all": of(everything), "users": users, "items": items}


def _told(
    scored: Scored,
    binned: NDArray[np.int64],
    chosen: Bool,
    sample: Resampler,
    min_users: int,
    *,
    curve: bool,
) -> dict[str, Any]:
    """One group: its AUC with interval, its counts, and the points of its curve."""
    buyers = len(np.unique(scored.rows[chosen & scored.positive]))
    members = len(np.unique(scored.rows[chosen]))
    if members < min_users:
        return withheld(members, min_users)
    if buyers < min_users:
        # Of few who bought, a curve tells close to what each of them bought.
        none = Estimate(None, None, None, members).as_json()
        return none | {"withheld": f"{buyers} users bought of it, fewer than {min_users}"}
    scores, positive = scored.scores[chosen], scored.positive[chosen]
    bought = int(positive.sum())
    if bought == len(positive):
        return Estimate(None, None, None, members).as_json()
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    area = float(auc(false, true))
    rough, resampled = _resampled(scored, binned, chosen, sample)
    tail = (1.0 - sample.confidence) / 2.0
    low, high = np.quantile(resampled + (area - rough), [tail, 1.0 - tail])
    told: dict[str, Any] = Estimate(area, float(low), float(high), members).as_json()
    told |= {"n_pairs": len(positive), "n_bought": bought}
    if curve:
        # Many points where the curve is steep, few where it is flat.
        at = np.linspace(0.0, 1.0, POINTS) ** 2
        told["curve"] = {
            "false_positive_rate": at.round(5).tolist(),
            "true_positive_rate": np.interp(at, false, true).round(5).tolist(),
        }
    return told


def _steps(scores: Float64) -> NDArray[np.int64]:
    """`[C]`: which of STEPS steps of equally many pairs a score is in, rising with it."""
    if not len(scores):
        return np.empty(0, np.int64)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, STEPS + 1)[1:-1]))
    return np.searchsorted(edges, scores, side="right").astype(np.int64)


def _resampled(
    scored: Scored, binned: NDArray[np.int64], chosen: Bool, sample: Resampler
) -> tuple[float, Float64]:
    """The AUC of the steps, of the sample and of each resample in which there are both kinds."""
    rows, steps, positive = scored.rows[chosen], binned[chosen], scored.positive[chosen]
    present, own = np.unique(rows, return_inverse=True)
    size = len(present) * STEPS
    counts = [
        np.bincount(own[kind] * STEPS + steps[kind], minlength=size).reshape(-1, STEPS)
        for kind in (positive, ~positive)
    ]
    whole = _areas(*(count.sum(axis=0)[None].astype(np.float64) for count in counts))
    draws = sample.draws if len(present) == sample.n_users else sample.draws[:, present]
    areas = _areas(*(draws @ count.astype(np.float64) for count in counts))
    return float(whole[0]), areas[np.isfinite(areas)]


def _areas(positive: Float64, negative: Float64) -> Float64:
    """`[r]` AUCs of counts per step `[r, STEPS]`; NaN where one kind is missing."""
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    out = np.full(len(wins), np.nan)
    np.divide(wins, pairs, out=out, where=pairs > 0)
    return out
