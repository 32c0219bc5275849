"""The user side of a whole audit, computed again from its lists and purchases in plain Python."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from strategies.audited import LOG2, PROTOCOL, Shop, mean, same


def per_user(shop: Shop, policy: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for prefix, wanted in (("first_basket_", shop.first), ("", shop.later)):
        for answer, bought in zip(shop.answers[policy], wanted, strict=True):
            found = [item in bought for item in answer.item_ids]
            gained = sum(w for w, hit in zip(LOG2, found, strict=True) if hit)
            candidates = answer.candidates
            assert candidates is not None
            pairs = list(zip(candidates.item_ids, candidates.scores.tolist(), strict=True))
            ups = [score for item, score in pairs if item in bought]
            downs = [score for item, score in pairs if item not in bought]
            wins = [(up > down) + (up == down) / 2 for up in ups for down in downs]
            for name, value in (
                ("ndcg_at_20", gained / sum(LOG2[: len(bought)])),
                ("recall_at_20", sum(found) / len(bought)),
                ("roc_auc", mean(wins) if wins else math.nan),
            ):
                values.setdefault(prefix + name, []).append(value)
    return values


def members(shop: Shop) -> dict[str, list[int]]:
    """The users of every cell; as the shop's fixture has them."""
    income = [("low", "high", "unknown")[int(user[5:]) % 3] for user in shop.users]
    sex = ["f" if int(user[5:]) < 27 else "m" for user in shop.users]
    cells: dict[str, list[int]] = {}
    for user, (one, other) in enumerate(zip(income, sex, strict=True)):
        for name in (f"income={one}", f"sex={other}", f"income={one}, sex={other}"):
            cells.setdefault(name, []).append(user)
    return cells


def intervals(
    values: Mapping[str, float], resampled: Sequence[Mapping[str, float]]
) -> dict[str, tuple[float, float, float]]:
    """(low, high, at least) of each cell, such that they hold for all cells at once."""
    away = {cell: [one[cell] - value for one in resampled] for cell, value in values.items()}
    spread = {cell: float(np.std(own)) for cell, own in away.items()}
    both, one_sided = [], []
    for b in range(len(resampled)):
        units = [away[cell][b] / spread[cell] for cell in values]
        both.append(max(abs(unit) for unit in units))
        one_sided.append(max(units))
    q, at_least = float(np.quantile(both, 0.95)), float(np.quantile(one_sided, 0.95))
    assert at_least <= q
    return {
        cell: (
            value - q * spread[cell],
            value + q * spread[cell],
            value - at_least * spread[cell],
        )
        for cell, value in values.items()
    }


def test_users_are_served_as_counted_and_intervals_hold_for_all_cells_at_once(shop: Shop) -> None:
    n_users = len(shop.users)
    draws = np.random.default_rng(PROTOCOL.seed).multinomial(
        n_users, [1 / n_users] * n_users, size=PROTOCOL.resamples
    )
    drawn = [[user for user, times in enumerate(own) for _ in range(times)] for own in draws.tolist()]  # fmt: skip
    cells = {name: own for name, own in members(shop).items() if len(own) >= 6}
    for policy in ("two-makers", "own-shares"):
        users = shop.document["policies"][policy]["users"]
        for metric, values in per_user(shop, policy).items():
            assert not any(map(math.isnan, values)), "of this shop every user has a value"
            whole = mean(values)
            assert users["overall"][metric]["value"] == pytest.approx(whole)
            means = {cell: mean([values[user] for user in own]) for cell, own in cells.items()}
            inside = {cell: frozenset(own) for cell, own in cells.items()}
            resampled = [
                {
                    cell: mean([values[user] for user in own if user in inside[cell]])
                    for cell in cells
                }
                for own in drawn
            ]
            overall = [mean([values[user] for user in own]) for own in drawn]
            gaps = [
                {cell: value - middle for cell, value in one.items()}
                for one, middle in zip(resampled, overall, strict=True)
            ]
            alone = intervals(means, resampled)
            beside = intervals({cell: value - whole for cell, value in means.items()}, gaps)
            for cell, own in cells.items():
                low, high, at_least = (min(max(x, 0.0), 1.0) for x in alone[cell])
                same(
                    users["cells"][cell][metric],
                    {
                        "value": means[cell], "low": low, "high": high, "at_least": at_least,
                        "n_users": len(own), "gap": means[cell] - whole,
                        "gap_low": beside[cell][0], "gap_high": beside[cell][1],
                    },
                    f"{policy} {cell} {metric}",
                )  # fmt: skip
            assert users["worst"][metric]["value"] == min(
                users["cells"][cell][metric]["value"] for cell in cells if "unknown" not in cell
            )
