"""Are all groups of users and all their intersections served alike, under every policy?

Owns the user side of the audit's document, and the interval of the worst cell. The worst of
many cells looks bad by chance alone: its interval must hold for all cells at once.

Simultaneous intervals (the max-type statistic; Romano and Wolf, Econometrica 2005, single step):
users are resampled as a whole; in each resample b every cell's deviation from its own mean is taken in units of its
bootstrap standard deviation s_c, T_b = max_c |mean_bc - mean_c| / s_c, and with q the quantile of
T at the confidence level, mean_c +- q s_c holds for all cells together. `at_least` is the
one-sided bound, from max_c (mean_bc - mean_c) / s_c. The family is the measured cells of one
metric and one policy. Gaps to the overall mean are treated the same, with the overall mean of the
same resample. A cell in which every user has the same value has no spread to resample: it has a
value, no interval, and no part in the family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.features.types import Float64
from training.audit.cells import Cell
from training.intervals import Resampler
from training.metrics import PerUser

SAME_VALUE = "every user has the same value: nothing to resample"


@dataclass(frozen=True)
class Band:
    """Simultaneous intervals of C cells, each `[C]`; NaN where a cell has no spread."""

    low: Float64
    high: Float64
    at_least: Float64


def simultaneous(values: Float64, resampled: Float64, confidence: float) -> Band:
    """Intervals that hold for all cells at once; see the module.

    values `[C]`; resampled `[R, C]`, NaN where a resample had nobody in the cell.

    >>> drawn = np.random.default_rng(0).normal(0.5, 0.1, (2000, 1))
    >>> band = simultaneous(np.array([0.5]), drawn, 0.95)
    >>> round(float(band.low[0]), 1), round(float(band.high[0]), 1)
    (0.3, 0.7)
    """
    away = np.where(np.isnan(resampled), 0.0, resampled - values)
    spread = away.std(axis=0) if len(away) else np.zeros(len(values))
    moves = spread > 1e-12
    band = Band(*(np.full(len(values), np.nan) for _ in range(3)))
    if not moves.any():
        return band
    scaled = away[:, moves] / spread[moves]
    both = float(np.quantile(np.abs(scaled).max(axis=1), confidence))
    one = float(np.quantile(scaled.max(axis=1), confidence))
    band.low[moves] = values[moves] - both * spread[moves]
    band.high[moves] = values[moves] + both * spread[moves]
    band.at_least[moves] = values[moves] - one * spread[moves]
    return band


class Cells:
    """The cells, with the same resampled users for every metric and policy."""

    def __init__(self, cells: Sequence[Cell], sample: Resampler, min_users: int) -> None:
        self._all = cells
        self._measured = [cell for cell in cells if cell.status == "measured"]
        self._sample = sample
        self._min_users = min_users
        columns = [cell.members.astype(np.float64) for cell in self._measured]
        self._members = (
            np.stack(columns, axis=1) if columns else np.zeros((sample.n_users, 0), np.float64)
        )

    def as_json(self) -> list[dict[str, Any]]:
        """Every cell, measured or not: labels, users, status; targets where enough users are in it."""
        return [
            {
                "cell": cell.name,
                "labels": dict(cell.labels),
                "users": cell.users,
                "targets": cell.targets,
                "status": cell.status,
            }
            for cell in self._all
        ]

    def facts(self, per_user: PerUser) -> dict[str, Any]:
        """Overall means, cells and the worst cell of every metric of one policy."""
        overall, worst = {}, {}
        cells: dict[str, dict[str, Any]] = {}
        for metric, values in per_user.items():
            known = np.isfinite(values)
            estimate = self._sample.mean(values)
            overall[metric] = estimate.as_json()
            if estimate.value is None:
                overall[metric]["reason"] = "no user has a value"
            told = self._cells(values, known, estimate.value)
            for name, one in told.items():
                cells.setdefault(name, {})[metric] = one
            worst[metric] = self._worst(told)
        return {"overall": overall, "worst": worst, "cells": cells}

    def _cells(
        self, values: Float64, known: NDArray[np.bool_], overall: float | None
    ) -> dict[str, dict[str, Any]]:
        """name -> estimate, of every measured cell."""
        counts = known.astype(np.float64) @ self._members
        enough = counts >= self._min_users
        told: dict[str, dict[str, Any]] = {
            cell.name: {"value": None, "n_users": int(n), "reason": _why(int(n))}
            for cell, n in zip(self._measured, counts.tolist(), strict=True)
        }
        if overall is None or not enough.any():
            return told
        members = self._members[:, enough]
        filled = np.where(known, values, 0.0)
        draws = self._sample.draws
        means = filled @ members / counts[enough]
        with np.errstate(divide="ignore", invalid="ignore"):
            resampled = (draws @ (filled[:, np.newaxis] * members)) / (
                draws @ (known[:, np.newaxis] * members)
            )
            overall_resampled = (draws @ filled) / (draws @ known.astype(np.float64))
        confidence = self._sample.confidence
        band = simultaneous(means, resampled, confidence)
        gaps = simultaneous(
            means - overall, resampled - overall_resampled[:, np.newaxis], confidence
        )
        cells = [cell for cell, counted in zip(self._measured, enough, strict=True) if counted]
        for place, cell in enumerate(cells):
            told[cell.name] = {
                "value": float(means[place]),
                "low": _inside(band.low[place]),
                "high": _inside(band.high[place]),
                "at_least": _inside(band.at_least[place]),
                "n_users": int(counts[enough][place]),
                "gap": float(means[place] - overall),
                "gap_low": _number(gaps.low[place]),
                "gap_high": _number(gaps.high[place]),
            }
            if np.isnan(band.low[place]):
                told[cell.name]["reason"] = SAME_VALUE
        return told

    def _worst(self, told: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The lowest of the cells whose labels are all told."""
        named = [
            cell.name
            for cell in self._measured
            if cell.known and told[cell.name]["value"] is not None
        ]
        if not named:
            return {"cell": None, "reason": "no cell of known labels has enough users"}
        name = min(named, key=lambda one: float(told[one]["value"]))
        return {"cell": name, "of_cells": len(named), **told[name]}


def _why(users: int) -> str:
    return f"too few (n={users}) with a value" if users else "no user has a value"


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _inside(value: float) -> float | None:
    """All metrics lie between 0 and 1, and so do their means."""
    return None if np.isnan(value) else float(min(max(value, 0.0), 1.0))
