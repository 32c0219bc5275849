"""What was measured at several sizes -> how it grows, which goals are met, and lines for people.

Only arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

GIB = 2**30
LONGEST_S, MOST_BYTES = 3600.0, 16 * GIB
GOAL_EVENTS = 10_000_000
"""The goals are those of so many events; smaller sizes are held to them too."""
RISES = ("wall_s", "cpu_s", "peak_rss_bytes")

Row = dict[str, Any]


def document(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows, by rising number of events, with what follows from them."""
    ordered = sorted(rows, key=lambda row: int(row["events"]))
    return {
        "sizes": ordered,
        "growth": [_growth(small, large) for small, large in pairwise(ordered)],
        "goals": goals(ordered),
    }


def power(small: Row, large: Row, what: str) -> float | None:
    """x of `what ~ events^x` between two sizes; None where one of them lacks it.

    >>> power({"events": 10, "wall_s": 3.0}, {"events": 1000, "wall_s": 30.0}, "wall_s")
    0.5
    """
    if not small.get(what) or not large.get(what):
        return None
    times = math.log(large["events"] / small["events"])
    return round(math.log(large[what] / small[what]) / times, 3)


def _growth(small: Row, large: Row) -> dict[str, Any]:
    whole = small["in_time"] and large["in_time"]
    parts = {
        part: power(
            {"events": small["events"], "s": small["parts_s"].get(part)},
            {"events": large["events"], "s": large["parts_s"][part]},
            "s",
        )
        for part in large["parts_s"]
    }
    return {
        "from_events": small["events"],
        "to_events": large["events"],
        **{f"{what}_power": power(small, large, what) if whole else None for what in RISES},
        "parts_power": parts if whole else {},
    }


def goals(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Time and memory of each size of at most `GOAL_EVENTS`."""
    found = []
    for row in rows:
        if row["events"] > GOAL_EVENTS:
            continue
        memory = row["peak_rss_bytes"]
        found += [
            {
                "events": row["events"], "what": "wall_s", "value": row["wall_s"],
                "at_most": LONGEST_S, "met": bool(row["in_time"] and row["wall_s"] <= LONGEST_S),
            },
            {
                "events": row["events"], "what": "peak_rss_bytes", "value": memory,
                "at_most": MOST_BYTES, "met": memory is not None and memory <= MOST_BYTES,
            },
        ]  # fmt: skip
    return found


def lines(told: dict[str, Any]) -> list[str]:
    """The document for people."""
    text = [
        f"{'events':>12} {'users':>9} {'items':>9} {'wall':>10} {'CPU':>10} {'peak':>10}  NDCG@20"
    ]
    for row in told["sizes"]:
        memory, ndcg = row["peak_rss_bytes"], row["validation_ndcg_at_20"]
        text.append(
            f"{row['events']:>12,} {row['users']:>9,} {row['items']:>9,} {row['wall_s']:>8,.0f} s "
            f"{row['cpu_s']:>8,.0f} s "
            + (f"{memory / GIB:>6.2f} GiB" if memory else f"{'-':>10}")
            + (f"  {ndcg:.4f}" if ndcg is not None else "  not done in time")
        )
    for row in told["sizes"]:
        parts = ", ".join(f"{part} {taken:,.1f} s" for part, taken in row["parts_s"].items())
        on = row["on"]
        text.append(
            f"{row['events']:,} events: {parts or 'ended by the time limit'} (commit {on['commit']}, "
            f"{on['cores']} cores, load {on['load_15_minutes']})"
        )
    for one in told["growth"]:
        text.append(f"{one['from_events']:,} -> {one['to_events']:,} events, grows like n^x: "
                    f"wall {_x(one['wall_s_power'])}, CPU {_x(one['cpu_s_power'])}, "
                    f"memory {_x(one['peak_rss_bytes_power'])}")  # fmt: skip
        parts = ", ".join(f"{part} {_x(grown)}" for part, grown in one["parts_power"].items())
        if parts:
            text.append(f"  by part: {parts}")
    for goal in told["goals"]:
        if goal["what"] == "wall_s":
            value, most = f"{goal['value'] / 60:.1f} min", f"{goal['at_most'] / 60:.0f} min"
        else:
            value = "-" if goal["value"] is None else f"{goal['value'] / GIB:.2f} GiB"
            most = f"{goal['at_most'] / GIB:.0f} GiB"
        text.append(
            f"{'met   ' if goal['met'] else 'MISSED'} {goal['events']:,} events: {value}, "
            f"at most {most}"
        )
    return text


def _x(grown: float | None) -> str:
    return "-" if grown is None else f"{grown:.2f}"
