"""The item side of a whole audit, computed again from its lists and purchases in plain Python.

KL and Jensen-Shannon divergence are scipy's, the largest DCG is the verifier's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from bench.verify.optimum import largest_dcg
from strategies.audited import (
    GROUP_OF,
    ITEMS,
    LABELS,
    LOG2,
    POLICIES,
    TOP_HEAVY,
    Bounds,
    K,
    Shares,
    Shop,
    counted_of,
    mean,
    same,
    tier,
)

# Items.


def deserved(shop: Shop) -> Shares:
    """Of each user what he bought shares the first places, and all else the rest."""
    total = dict.fromkeys(ITEMS, 0.0)
    for bought in shop.later:
        top = sum(LOG2[: len(bought)])
        for item in ITEMS:
            part = top / len(bought) if item in bought else 0.0
            part += 0.0 if item in bought else (sum(LOG2) - top) / (60 - len(bought))
            total[item] += part / sum(LOG2) / len(shop.later)
    return total


def exposure(lists: Sequence[Sequence[str]], group: Callable[[str], str], worth: Any) -> Shares:
    total: Shares = Counter()  # type: ignore[assignment]
    for own in lists:
        for place, item in zip(worth, own, strict=True):
            total[group(item)] += place / sum(worth) / len(lists)
    return total


def distances(shown: Shares, due: Shares) -> dict[str, float]:
    return {
        "ee_d": sum(value**2 for value in shown.values()),
        "ee_r": sum(shown[name] * value for name, value in due.items()),
        "ee_loss": sum((shown[name] - value) ** 2 for name, value in due.items()),
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_items_are_covered_and_exposed_as_counted(shop: Shop, policy: str) -> None:
    for when, name in (("before", "none"), ("after", policy)):
        lists = shop.lists(name)
        shown = exposure(lists, lambda item: item, LOG2)
        apart = sum(abs(shown[one] - shown[other]) for one in ITEMS for other in ITEMS)
        expected = {
            "catalogue_coverage": len({item for own in lists for item in own}) / 60,
            "item_exposure_gini": apart / (2 * 60 * sum(shown.values())),
            **distances(shown, deserved(shop)),
        }
        same(shop.document["policies"][policy]["items"][when], expected, when)


# Tables.


def of_one_list(groups: list[str], wanted: Shares, bounds: Bounds) -> dict[str, float]:
    labels, shares = list(wanted), list(wanted.values())
    short, over, prefixes, divergence = 0, 0, 0, 0.0
    for k in range(1, K + 1):
        have = [groups[:k].count(label) for label in labels]
        below = sum(n < bounds[g][k][0] for g, n in zip(labels, have, strict=True))
        over += sum(n > bounds[g][k][1] for g, n in zip(labels, have, strict=True))
        short, prefixes = short + below, prefixes + (below > 0)
        divergence += LOG2[k - 1] * float(entropy(have, shares))
    size = len(labels)
    skews = [
        math.log((groups.count(g) + size * w) / (K + size) / w) for g, w in wanted.items() if w
    ]
    shown = exposure([groups], lambda group: group, LOG2)
    return {
        "short": short,
        "over": over,
        "prefixes": prefixes,
        "low": min(skews),
        "high": max(skews),
        "absent": any(w and g not in groups for g, w in wanted.items()),
        "ndkl": divergence / sum(LOG2),
        "awrf": 1 - float(jensenshannon([shown[g] for g in labels], shares, base=2)) ** 2,
    }


@pytest.mark.parametrize("policy", POLICIES)
def test_every_table_is_measured_as_its_lists_are_counted(shop: Shop, policy: str) -> None:
    bought = [
        {table: Counter(dict(own)) for table, own in counted_of(answer).items()}
        for answer in shop.answers[policy]
    ]
    found = shop.document["policies"][policy]["tables"]
    assert [one["group_table"] for one in found] == [one.table for one in POLICIES[policy]]
    for block, judged in zip(found, POLICIES[policy], strict=True):
        table, group, labels = judged.table, GROUP_OF[judged.table], LABELS[judged.table]
        counts = [own.get(table, Counter()) for own in bought]
        wanted, bounds = list(map(judged.wanted, counts)), list(map(judged.bounds, counts))
        over_all = {label: mean([own[label] for own in wanted]) for label in labels}
        due: Shares = Counter()  # type: ignore[assignment]
        for item, value in deserved(shop).items():
            due[group(item)] += value
        columns: dict[str, dict[str, Shares]] = {}
        for when, name in (("before", "none"), ("after", policy)):
            lists = shop.lists(name)
            own = [
                of_one_list(list(map(group, items)), shares, limits)
                for items, shares, limits in zip(lists, wanted, bounds, strict=True)
            ]
            column = {key: [one[key] for one in own] for key in own[0]}
            shown = exposure(lists, group, LOG2)
            finite = [value for value in column["ndkl"] if math.isfinite(value)]
            overall = jensenshannon([shown[g] for g in labels], list(over_all.values()), base=2)
            expected = {
                "lists_below_a_floor": sum(n > 0 for n in column["short"]),
                "floor_violations": sum(column["short"]),
                "lists_above_a_ceiling": sum(n > 0 for n in column["over"]),
                "ceiling_violations": sum(column["over"]),
                "infeasible_index_mean": mean(column["prefixes"]),
                "min_skew_mean": mean(column["low"]),
                "max_skew_mean": mean(column["high"]),
                "lists_with_a_wanted_group_absent": sum(column["absent"]),
                "ndkl_mean": mean(finite),
                "lists_with_infinite_ndkl": len(lists) - len(finite),
                "awrf_mean": mean(column["awrf"]),
                "awrf_of_all_lists": 1 - float(overall) ** 2,
                **distances(shown, due),
                "reasons": {},
            }
            same(block[when], expected, f"{table} {when}")
            columns[when] = {
                "exposure_share": shown,
                "attention_share": exposure(lists, group, TOP_HEAVY),
                "items_per_list": Counter(group(item) for items in lists for item in items),  # type: ignore[dict-item]
            }
        for row, label in zip(block["groups"], labels, strict=True):
            same(
                {name: value for name, value in row.items() if name != "has_target"},
                {
                    "group": label,
                    "catalogue_items": sum(group(item) == label for item in ITEMS),
                    "catalogue_share": mean([group(item) == label for item in ITEMS]),
                    "wanted_share": over_all[label],
                    "wanted_share_in_lists": over_all[label],
                    "deserved_exposure": due[label],
                    **{
                        f"{name}_{when}": float(values[label])
                        / (len(bought) if name == "items_per_list" else 1)
                        for when, own in columns.items()
                        for name, values in own.items()
                    },
                },
                label,
            )


def test_the_shop_tells_the_measures_of_its_tables_apart(shop: Shop) -> None:
    """Else a number could stand in another's place."""
    before = shop.document["policies"]["two-makers"]["tables"][0]["before"]
    users = len(shop.users)
    assert before["infeasible_index_mean"] != before["floor_violations"] / users
    after = shop.document["policies"]["two-makers"]["tables"][0]["after"]
    assert after["lists_with_a_wanted_group_absent"] == 0
    assert not any(tier(item) == "small" for own in shop.lists("two-makers") for item in own)
    regret = shop.document["policies"]["varied"]["regret"]
    assert 0 < regret["mean"] < 0.01, "a regret below one per cent is one"


@pytest.mark.parametrize("policy", POLICIES)
def test_regret_is_what_is_missing_to_the_best_list(shop: Shop, policy: str) -> None:
    regrets = []
    for answer in shop.answers[policy]:
        assert answer.candidates is not None
        scores = dict(
            zip(answer.candidates.item_ids, answer.candidates.scores.tolist(), strict=True)
        )
        got = sum(w * scores[item] for w, item in zip(LOG2, answer.item_ids, strict=True))
        best: float | None = sum(
            w * x for w, x in zip(LOG2, sorted(scores.values(), reverse=True), strict=False)
        )
        if POLICIES[policy]:
            judged = POLICIES[policy][0]
            counts = Counter(dict(counted_of(answer).get(judged.table, {})))
            own = [(score, [GROUP_OF[judged.table](item)]) for item, score in scores.items()]
            best = largest_dcg(own, judged.bounds(counts), LOG2)
        assert best is not None
        regrets.append(1 - got / best)
    told = shop.document["policies"][policy]["regret"]
    assert told["lists"] == len(regrets)
    # The document calls nothing what differs by rounding.
    assert told["mean"] == pytest.approx(mean(regrets), rel=1e-6, abs=1e-12)
    assert told["max"] == pytest.approx(max(regrets), rel=1e-6, abs=1e-12)
    assert told["p99"] == pytest.approx(np.quantile(regrets, 0.99), rel=1e-6, abs=1e-12)
    kept = mean([answer.fair.receipt.utility_kept for answer in shop.answers[policy]])
    assert shop.document["policies"][policy]["utility_kept_mean"] == pytest.approx(kept)
