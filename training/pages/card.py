"""The model card of an evaluation: what the model is, whom it was measured on, where it is weak.

Owns the card's form (Mitchell et al., "Model Cards for Model Reporting", FAT* 2019). All numbers are
those of the results document. The bundle's own card was written in training, with numbers of
validation, and is not changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from training.pages.figures import TITLES
from training.pages.words import Told, buyers, day, lead, number, told, verdict


def model_card(results: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    k, model, protocol = results["protocol"]["k"], results["model"], results["protocol"]
    data, learned = results["dataset"], model["trained_on"]
    parts = [
        f"# {model['name']}",
        "",
        verdict(results),
        "",
        "## Model",
        "",
        f"- Bundle `{results['bundle_id']}`, model digest `{results['model_digest'][:12]}`.",
        f"- Family {model['family']}; reads {_reads(model)}; {results['structure']['n_weights']:,} weights; "
        f"ONNX opset {model['opset']}.",
        f"- Foretells purchases within {model['horizon_days']} days. Ranks the items of the history and "
        f"{model['candidates_outside_history']} others, {model['best_sellers_among_them']} of them best "
        f"sellers; the fair stage comes last, under the policy "
        f"`{model['default_policy']}` where a request names none.",
        f"- Learned from {learned['events']:,} events of {learned['users']:,} users on "
        f"{learned['items']:,} items, {_plain(learned['source'])}, until "
        f"{day(learned['until_unix_ms'])}.",
        "",
        "## Measured on",
        "",
        f"{_plain(data['source'])}: {protocol['n_users']:,} users, what they bought from "
        f"{day(protocol['history_until_unix_ms'])} to {day(protocol['targets_until_unix_ms'])} "
        f"({protocol['on']}; {_plain(protocol['split'])}). Lists of {k} from the served path, without "
        "a policy, full ranking. Intervals are over users "
        f"({results['intervals']['confidence']:.0%}).",
        "",
        "| metric | this bundle | best baseline | lead |",
        "|---|---|---|---|",
        *(_metric(results, metric, title) for metric, title in _metrics(k)),
        "",
        f"Order of candidates: AUC {told(results['roc']['all'])}. Calibration: expected error "
        f"{told(results['calibration']['candidates']['expected_calibration_error'])} over all candidates, "
        f"{told(results['calibration']['listed']['expected_calibration_error'])} over listed items.",
        "",
        "## Groups of users",
        "",
        *_groups(results, k),
        "",
        "## Cold start",
        "",
        *_cold(results, k),
        "",
        "## Policies",
        "",
        *(
            f"- `{_plain(one['policy'])}`: keeps {told(results['metrics'][f'ndcg_kept_{key}'])} of NDCG@{k}; "
            f"met in {one['met']:,} of {one['lists']:,} lists."
            for key, one in results["policies"].items()
        ),
        "",
        "## Limits",
        "",
        *_limits(results),
    ]
    return "\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Foreign words, without what Markdown would read."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in text)


def _reads(model: Told) -> str:
    parts = []
    if model["feature_names"]:
        parts.append(f"{len(model['feature_names'])} features of user and item")
    if model["history_length"]:
        parts.append(f"the last {model['history_length']} items")
    return " and ".join(parts)


def _metrics(k: int) -> tuple[tuple[str, str], ...]:
    return (
        (f"ndcg_at_{k}", f"NDCG@{k}"),
        (f"recall_at_{k}", f"recall@{k}"),
        (f"first_basket_recall_at_{k}", f"recall@{k}, first basket"),
        (f"novel_ndcg_at_{k}", f"NDCG@{k}, new to the user"),
    )


def _metric(results: Told, metric: str, title: str) -> str:
    best, gain = lead(results, metric)
    theirs = results["baselines"][best][metric]
    return (
        f"| {title} | {told(results['metrics'][metric])} | {number(theirs['value'])}, {TITLES[best]} | "
        f"{told(gain, signed=True)} |"
    )


def _groups(results: Told, k: int) -> list[str]:
    metric = f"first_basket_recall_at_{k}"
    lines = []
    for attribute, worst in results["worst_group"].items():
        one = worst[metric]
        if one["label"] is None:
            lines.append(f"- {_plain(attribute)}: no group is large enough.")
            continue
        lines.append(
            f"- {_plain(attribute)}: lowest first-basket recall@{k} for {_plain(str(one['label']))}, "
            f"{number(one['value'])}, {one['n_users']:,} users"
            + (f" ({_plain(one['withheld'])})." if "withheld" in one else ".")
        )
    return lines or ["Nothing is known of users by which to tell groups apart."]


def _cold(results: Told, k: int) -> list[str]:
    block, metric = results["cold_start"], f"ndcg_at_{k}"
    rows = [("no history (hidden)", block["no_history"]["histories_hidden"])]
    rows += [(f"last {n} events only", one) for n, one in block["fold_in"].items()]
    lines = [
        f"- {title}: NDCG@{k} {told(row[metric])}; {TITLES[row[f'{metric}_best_baseline']['name']]} "
        f"{number(row[f'{metric}_best_baseline']['value'])} ({row['n_users']:,} users)."
        for title, row in rows
        if row
    ]
    recall = f"recall_at_{k}"
    for row in block["new_items"]:
        what = told(row[recall]) if recall in row else f"withheld: {row['withheld']}"
        lines.append(
            f"- items that {buyers(row)} had bought: recall@{k} {what}; the bundle knows "
            f"{row['n_targets_known_to_bundle']:,} of {row['n_targets']:,} such purchases' items."
        )
    return lines


def _limits(results: Told) -> list[str]:
    reasons = ", ".join(
        f"{rows:,} ({_plain(reason)})" for reason, rows in results["cleaning"]["dropped"] if rows
    )
    return [
        "- An item that the bundle does not know cannot be listed; new items wait for the next training.",
        "- Who bought nothing in the window is not measured: of all users, fewer buy than the scores say.",
        f"- Cleaning left out {reasons or 'nothing'} of {results['cleaning']['rows_in']:,} rows.",
        "- Past purchases were made under another shop's lists; what these lists would have changed is not "
        "in them.",
        "- Groups of users are measured, not equalised.",
    ]
