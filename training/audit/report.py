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

from training.audit.pictures import PIXELS_PER_INCH, pictures
from training.audit.sweeps import GROUPS, OVER_ALL
from training.audit.text import metric_titles, number, span, table
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
                    drawn, format=form, dpi=PIXELS_PER_INCH,
                    metadata={"Date": None} if form == "svg" else None,
                )  # fmt: skip
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
    kept = policy["ndcg_kept"]
    lines = [
        f"{policy['lists']:,} lists: {statuses}. Model utility kept "
        f"{number(policy['utility_kept_mean'])}, NDCG on purchases "
        f"{number(kept['value'])} {span(kept['low'], kept['high'])}. {_regret(policy['regret'])}",
        "",
    ]
    items = policy["items"]
    lines += table(
        ("all items", "before", "after"),
        [(title, items["before"][key], items["after"][key]) for title, key in CATALOGUE_ROWS],
    )
    for one in policy["tables"]:
        before, after = one["before"], one["after"]
        lines += ["", _measured_against(one), ""]
        lines += table(
            (one["group_table"], "before", "after"),
            [(title, before[key], after[key]) for title, key in ITEM_ROWS],
        )
        lines += ["", *_groups(one)]
    return lines


def _regret(regret: dict[str, Any]) -> str:
    if regret["mean"] is None:
        return f"No regret can be told: {regret['reasons']['mean']}."
    without = regret["lists_without_one"]
    left = f"; {without:,} have nothing to compare with" if without else ""
    return (
        f"Regret to the {regret['against']}: mean {number(regret['mean'])}, p99 "
        f"{number(regret['p99'])}, max {number(regret['max'])} ({regret['lists']:,} lists{left})."
    )


def _measured_against(one: dict[str, Any]) -> str:
    """Whose shares the rows of a table speak of: the two questions may have two answers."""
    name, source = one["group_table"], one["wanted_shares_from"]
    if source["in_each_list"] == source["over_all_lists"]:
        told = f"Shares of {name} that lists are measured against: {source['in_each_list']}."
    else:
        told = (
            f"Shares of {name}: each list is measured against {source['in_each_list']}; AWRF of "
            f"all lists, and the column 'wanted over all', against {source['over_all_lists']}."
        )
    if not any(group["has_target"] for group in one["groups"]):
        told += " Nobody wants them: a yardstick."
    return told


def _groups(one: dict[str, Any]) -> list[str]:
    """The exposure of each group; "wanted" only where somebody wants it."""
    groups = sorted(one["groups"], key=lambda group: -float(group["exposure_share_before"]))
    columns = [("catalogue", "catalogue_share")]
    source = one["wanted_shares_from"]
    if source["in_each_list"] != source["over_all_lists"]:
        columns += [
            ("wanted in lists", "wanted_share_in_lists"),
            ("wanted over all", "wanted_share"),
        ]
    elif any(group["has_target"] for group in groups):
        columns += [("wanted", "wanted_share")]
    columns += [
        ("deserved", "deserved_exposure"),
        ("before", "exposure_share_before"),
        ("after", "exposure_share_after"),
        ("items before", "items_per_list_before"),
        ("after", "items_per_list_after"),
    ]
    return table(
        (
            f"exposure share, {min(len(groups), MOST_GROUPS)} of {len(groups)} groups",
            *(title for title, _ in columns),
        ),
        [(group["group"], *(group[key] for _, key in columns)) for group in groups[:MOST_GROUPS]],
    )


def _users(users: dict[str, Any], k: int) -> list[str]:
    titles = metric_titles(k)
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
                span(worst["low"], worst["high"]), worst["gap"],
                span(worst["gap_low"], worst["gap_high"]),
            )
        )  # fmt: skip
    lines = table(
        ("users", "all", "worst cell", "value", "interval", "gap to all", "interval"), rows
    )
    single = [name for name in users["cells"] if ", " not in name]
    if single:
        metrics = [*list(titles)[:2], list(titles)[3], list(titles)[5]]
        lines += [""]
        lines += table(
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
    """A table for each aim; a series stands together, in the order of its parameter."""
    if not swept["points"]:
        return [swept["reason"]]
    lines = [f"{swept['users']:,} users. Fairness is, by aim:", ""]
    lines += [
        f"- `{aim}`: {told['words']}; without a policy {number(told['plain'])}"
        for aim, told in swept["aims"].items()
    ]
    lines += ["", f"{swept['frontier_words']}"]
    for aim in dict.fromkeys(point["aim"] for point in swept["points"]):
        # What is made for each list has an effect on all lists together, and the other way round.
        aims = [GROUPS, OVER_ALL] if aim == GROUPS else [aim]
        points = [point for point in swept["points"] if point["aim"] == aim]
        lines += [
            "",
            *table(
                (
                    "series", "parameter", *aims, "model utility kept", "NDCG kept", "interval", "met",
                ),
                [
                    (
                        point["series"], point["parameter"],
                        *(point["fairness"][one] for one in aims),
                        point["utility_kept_mean"], point["ndcg_kept"]["value"],
                        span(point["ndcg_kept"]["low"], point["ndcg_kept"]["high"]),
                        f"{point['met']}/{point['lists']}",
                    )
                    for series in dict.fromkeys(point["series"] for point in points)
                    for point in points
                    if point["series"] == series
                ],
            ),
        ]  # fmt: skip
    for name, why in swept["left_out"].items():
        lines += ["", f"Left out: {name}: {why}"]
    return lines


def _cell(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return str(estimate["reason"])
    return f"{number(estimate['value'])} {span(estimate['low'], estimate['high'])}"
