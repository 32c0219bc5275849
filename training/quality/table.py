"""The quality document for people: one table, and what belongs to it. Must not compute."""

from __future__ import annotations

from typing import Any

from training.baselines import WITHOUT_OWN

WIDTH = 33


def text(made: dict[str, Any]) -> str:
    """The document as text of at most 120 columns."""
    where = made["collection"]
    k = where["k"]
    lines = [
        f"{where['source']}: {where['events']:,} events of {where['users']:,} users and "
        f"{where['items']:,} items; {where['protocol']}",
        f"{where['evaluated_users']:,} users, full ranking, the served path; 95 % intervals over users",
        "",
        f"{'':<{WIDTH}}{f'NDCG@{k}':>22}{f'R@{k}':>8}{f'first R@{k}':>13}{f'novel N@{k}':>13}"
        f"{'less best baseline':>24}{'time':>8}{'GiB':>6}",
    ]
    kind = None
    resumed = any(row.get("resumed") for row in made["rows"])
    for row in made["rows"]:
        if row["kind"] != kind:
            kind = row["kind"]
            lines.append(f"{kind}s")
        lines.append(_row(row, k))
    if resumed:
        lines.append(
            "  + from checkpoints on, such as those of the same model with a refit; their time is not in it"
        )
    if any(_without_own(row) for row in made["rows"]):
        lines.append(f"  * {WITHOUT_OWN}, which was better on validation")
    if made["ablation"]:
        lines += [
            "",
            "feature groups and seeds, validation NDCG@20, and the difference to all features",
        ]
        for name, one in made["ablation"].items():
            difference = "" if name == "all features" else _interval(one["minus_all"], signed=True)
            lines.append(
                f"  {name:<{WIDTH}}{_value(one['validation_ndcg_at_20']):>8}  {difference}"
            )
    if made["policies"]:
        lines += ["", "policies: NDCG kept"]
        for part in ("ndcg_kept", "curve"):
            for name, one in made["policies"][part].items():
                lines.append(f"  {name:<{WIDTH}}{_interval(one)}")
    for name, one in made["fair"].items():
        lines += [
            "",
            f"{name}: by {one['attribute']}, strength {one['strength']:g}; NDCG@{k} "
            f"{_interval(one['overall'], signed=True)} over all",
        ]
        for label, group in one["groups"].items():
            mark = "  the worst-off" if label == one["worst"] else ""
            lines.append(
                f"  {label:<{WIDTH}}{_value(group['plain'])} to {_value(group['fair'])}, "
                f"{_interval(group['difference'], signed=True)}{mark}"
            )
    if made["goals"]:
        lines += ["", "goals"]
    for goal in made["goals"]:
        value = "not measured" if goal["value"] is None else f"{goal['value']:.4f}"
        met = {None: "", True: "met", False: "missed"}[goal["met"]]
        lines.append(f"  {goal['metric']:<{WIDTH}}{goal['goal']:>10}  {value}  {met}")
    return "\n".join(lines)


def _without_own(row: dict[str, Any]) -> bool:
    return str(row.get("settings") or "").endswith(WITHOUT_OWN)


def _row(row: dict[str, Any], k: int) -> str:
    metrics = row["metrics"]
    refit = row.get("refit")
    name = row["title"] + ("" if refit is None else ", refit" if refit else ", no refit")
    name += " *" if _without_own(row) else ""
    memory = row.get("peak_rss_bytes")
    time = ("+" if row.get("resumed") else "") + _time(row["seconds"])
    return (
        f"  {name:<{WIDTH - 2}}{_interval(metrics[f'ndcg_at_{k}']):>22}"
        f"{_value(metrics[f'recall_at_{k}']):>8}{_value(metrics[f'first_basket_recall_at_{k}']):>13}"
        f"{_value(metrics[f'novel_ndcg_at_{k}']):>13}"
        f"{_interval(row['minus_best_baseline'], signed=True):>24}"
        f"{time:>8}{'' if memory is None else f'{memory / 2**30:.1f}':>6}"
    )


def _value(one: dict[str, Any]) -> str:
    return "-" if one["value"] is None else f"{one['value']:.4f}".lstrip("0")


def _interval(one: dict[str, Any], *, signed: bool = False) -> str:
    if one["value"] is None:
        return "-"
    sign = "+" if signed else ""
    parts = [f"{one[name]:{sign}.4f}".replace("0.", ".", 1) for name in ("value", "low", "high")]
    return f"{parts[0]} [{parts[1]}, {parts[2]}]"


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
