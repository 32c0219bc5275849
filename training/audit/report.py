"""The audit for people: a page of tables, pictures, and the files.

Owns how the document looks in text. Must not compute a measure.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from training.audit.pictures import pictures
from training.report import write_file

DOCUMENT_FILE = "audit.json"
TEXT_FILE = "audit.md"

ITEM_ROWS = (
    ("lists below a floor", "lists_below_a_floor"),
    ("floor violations", "floor_violations"),
    ("ceiling violations", "ceiling_violations"),
    ("InfeasibleIndex, mean", "infeasible_index_mean"),
    ("MinSkew, mean", "min_skew_mean"),
    ("MaxSkew, mean", "max_skew_mean"),
    ("lists with a wanted group absent", "lists_with_a_wanted_group_absent"),
    ("NDKL, mean", "ndkl_mean"),
    ("AWRF, mean over lists", "awrf_mean"),
    ("AWRF of all lists", "awrf_of_all_lists"),
    ("EE-D, groups", "ee_d"),
    ("EE-R, groups", "ee_r"),
)
CATALOGUE_ROWS = (
    ("catalogue coverage", "catalogue_coverage"),
    ("exposure Gini, items", "item_exposure_gini"),
    ("EE-D, items", "ee_d"),
    ("EE-R, items", "ee_r"),
)
MOST_GROUPS = 12


def write_audit(document: dict[str, Any], folder: Path) -> list[Path]:
    """Write document, page and pictures into `folder`, made if missing; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {TEXT_FILE: page(document).encode()}
    for name, figure in pictures(document).items():
        for form in ("png", "svg"):
            drawn = io.BytesIO()
            # No date and no random ids inside: the same document gives the same bytes.
            with rc_context({"svg.hashsalt": "equipoise"}):
                figure.savefig(
                    drawn, format=form, dpi=130, metadata={"Date": None} if form == "svg" else None
                )
            files[f"{name}.{form}"] = drawn.getvalue()
    # The document comes last: who finds it finds all the rest.
    files[DOCUMENT_FILE] = (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
    return [write_file(folder / name, content) for name, content in files.items()]


def page(document: dict[str, Any]) -> str:
    """The document as Markdown: every policy's item side and user side, and cells without numbers."""
    protocol = document["protocol"]
    lines = [
        f"# Audit of {document['bundle_id']}",
        "",
        f"{document['dataset']['source']}, {protocol['split']}: {protocol['n_users']:,} users, "
        f"lists of {protocol['k']}, served path. Before: policy {protocol['before']}.",
        f"Intervals hold for all cells of one metric and policy at once "
        f"({document['intervals']['confidence']:.0%}). Cells below {protocol['min_users']} users are "
        "counted, not measured.",
    ]
    for policy in document["policies"].values():
        lines += ["", f"## {policy['policy']} ({policy['kind']})", "", *_items(policy)]
        lines += ["", *_users(policy["users"], protocol["k"])]
    lines += ["", "## Cells without numbers", "", *_unmeasured(document["cells"])]
    if document["tradeoff"] is not None:
        lines += ["", "## Trade-off", "", *_tradeoff(document["tradeoff"])]
    return "\n".join(lines) + "\n"


def _items(policy: dict[str, Any]) -> list[str]:
    statuses = ", ".join(f"{count:,} {name}" for name, count in policy["statuses"].items() if count)
    regret = policy["regret"]
    lines = [
        f"{policy['lists']:,} lists: {statuses}. Model utility kept {policy['utility_kept_mean']:.4f}. "
        f"Regret to the {regret['against']}: mean {_number(regret['mean'])}, p99 "
        f"{_number(regret['p99'])}, max {_number(regret['max'])} ({regret['lists']:,} lists; "
        f"{regret['lists_without_one']:,} have none).",
        "",
    ]
    items = policy["items"]
    lines += _table(
        ("all items", "before", "after"),
        [(title, items["before"][key], items["after"][key]) for title, key in CATALOGUE_ROWS],
    )
    for table in policy["tables"]:
        before, after = table["before"], table["after"]
        lines += [
            "",
            f"Wanted shares of {table['group_table']}: {table['wanted_shares_from']}.",
            "",
        ]
        lines += _table(
            (table["group_table"], "before", "after"),
            [(title, before[key], after[key]) for title, key in ITEM_ROWS],
        )
        groups = sorted(table["groups"], key=lambda group: -float(group["exposure_share_before"]))
        lines += [""]
        lines += _table(
            (
                f"exposure share, {min(len(groups), MOST_GROUPS)} of {len(groups)} groups",
                "catalogue", "wanted", "deserved", "before", "after", "items before", "after",
            ),
            [
                (
                    group["group"], group["catalogue_share"], group["wanted_share"],
                    group["deserved_exposure"], group["exposure_share_before"],
                    group["exposure_share_after"], group["items_per_list_before"],
                    group["items_per_list_after"],
                )
                for group in groups[:MOST_GROUPS]
            ],
        )  # fmt: skip
    return lines


def _users(users: dict[str, Any], k: int) -> list[str]:
    titles = {
        f"first_basket_ndcg_at_{k}": f"NDCG@{k}, first basket",
        f"first_basket_recall_at_{k}": f"recall@{k}, first basket",
        "first_basket_roc_auc": "ROC-AUC, first basket",
        f"ndcg_at_{k}": f"NDCG@{k}",
        f"recall_at_{k}": f"recall@{k}",
        "roc_auc": "ROC-AUC",
    }
    rows = []
    for metric, title in titles.items():
        worst = users["worst"][metric]
        overall = users["overall"][metric]["value"]
        if worst["cell"] is None:
            rows.append((title, overall, worst["reason"], None, "", "", ""))
            continue
        rows.append(
            (
                title, overall, f"{worst['cell']} (n={worst['n_users']})", worst["value"],
                _range(worst["low"], worst["high"]), worst["gap"],
                _range(worst["gap_low"], worst["gap_high"]),
            )
        )  # fmt: skip
    lines = _table(
        ("users", "all", "worst cell", "value", "interval", "gap to all", "interval"), rows
    )
    single = [name for name in users["cells"] if ", " not in name]
    if single:
        metrics = [*list(titles)[:2], list(titles)[3], list(titles)[5]]
        lines += [""]
        lines += _table(
            ("group", "n", *(titles[metric] for metric in metrics)),
            [
                (
                    name,
                    users["cells"][name][metrics[2]]["n_users"],
                    *(_cell(users["cells"][name][metric]) for metric in metrics),
                )
                for name in single
            ],
        )
    return lines


def _unmeasured(cells: Sequence[dict[str, Any]]) -> list[str]:
    """All of them: an empty cell is a finding too."""
    lines = []
    reasons: dict[str, list[str]] = {}
    for cell in cells:
        if cell["status"] != "measured":
            what, _, count = cell["status"].partition(" (n=")
            reasons.setdefault(what, []).append(
                cell["cell"] + ("" if count in ("", "0)") else f" (n={count}")
            )
    for what, names in reasons.items():
        lines.append(f"- {what}: {len(names)} cells: " + "; ".join(names))
    return lines or ["None."]


def _tradeoff(swept: dict[str, Any]) -> list[str]:
    if not swept["points"]:
        return [swept["reason"]]
    lines = [f"{swept['users']:,} users. Fairness is, by aim, " + "; ".join(
        f"{aim}: {told['words']}, without a policy {_number(told['plain'])}"
        for aim, told in swept["aims"].items()
    ) + ".", ""]  # fmt: skip
    lines += _table(
        ("series", "parameter", "aim", "fairness", "model utility kept", "NDCG kept", "interval", "met"),
        [
            (
                point["series"], point["parameter"], point["aim"],
                point["fairness"][point["aim"]],
                point["utility_kept_mean"], point["ndcg_kept"]["value"],
                _range(point["ndcg_kept"]["low"], point["ndcg_kept"]["high"]),
                f"{point['met']}/{point['lists']}",
            )
            for point in swept["points"]
        ],
    )  # fmt: skip
    for name, why in swept["left_out"].items():
        lines += ["", f"Left out: {name}: {why}"]
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    texts = [[_number(value) for value in row] for row in rows]
    widths = [max(len(text[i]) for text in [list(head), *texts]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"

    return [line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, texts)]


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        # Item-level sums of squares are small, and 0 would be a lie.
        return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"[{low:.4f}, {high:.4f}]"


def _cell(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return str(estimate["reason"])
    return f"{estimate['value']:.4f} {_range(estimate['low'], estimate['high'])}"
