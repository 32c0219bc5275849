"""What the demo shows of fairness beyond one list: a household's own taste, exposure over many
lists, and a receipt that is recomputed by other code.

Speaks to the server only through the contract.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from matplotlib.figure import Figure

from bench.verify.bounds import worth
from bench.verify.catalogue import read_known
from bench.verify.claims import Verdict
from bench.verify.document import read_document
from bench.verify.evidence import evidence_of
from bench.verify.recompute import verify
from equipoise.v1 import recommendation_pb2 as pb
from server.bundle import Bundle

LISTS_OVER_TIME = 200
COLOURS = {"large": "#1d3557", "medium": "#457b9d", "small": "#e07a5f", "unknown": "#a8a8a8"}


class Asks(Protocol):
    """Whoever can ask for a user's list."""

    def request(self, user: str, policy: str = "", **fields: Any) -> pb.RecommendRequest: ...

    def send(self, request: pb.RecommendRequest) -> pb.RecommendResponse: ...


def own_taste(session: Asks, users: Sequence[str], policy: str, plain: str) -> dict[str, Any]:
    """The household whose list the calibrated policy brings nearest to its own shares, and how near
    it brings all of them."""
    lists = {user: session.send(session.request(user, policy)) for user in users}
    gaps = {user: made.receipt.calibration[0] for user, made in lists.items()}
    user = max(gaps, key=lambda user: gaps[user].before - gaps[user].after)
    before = session.send(session.request(user, plain))
    groups = {item.item_id: item.group for item in lists[user].items}
    left = [item.item_id for item in before.items if item.item_id not in groups]
    if left:
        asked = session.request(user, policy, candidate_item_ids=left)
        groups |= {item.item_id: item.group for item in session.send(asked).items}
    return {
        "policy": policy,
        "user": user,
        "households": len(users),
        "mean_before": sum(gap.before for gap in gaps.values()) / len(gaps),
        "mean_after": sum(gap.after for gap in gaps.values()) / len(gaps),
        "departments": groups,
        "before": _as_dict(before),
        "after": _as_dict(lists[user]),
    }


def over_time(session: Asks, users: Sequence[str], policy: str, table: str) -> dict[str, Any]:
    """The share of exposure of each group after 1, 2, ... lists, served and by score alone."""
    served: Counter[str] = Counter()
    by_score: Counter[str] = Counter()
    rows = []
    for user in itertools.islice(itertools.cycle(users), LISTS_OVER_TIME):
        made = session.send(session.request(user, policy, with_candidates=True))
        best = sorted(made.candidates, key=lambda candidate: -candidate.score)[: len(made.items)]
        both: list[tuple[Counter[str], Sequence[pb.RankedItem | pb.ScoredCandidate]]]
        both = [(served, made.items), (by_score, best)]
        for shares, places in both:
            for rank, place in enumerate(places, start=1):
                group = next(g for g in place.groups if g.startswith(f"{table}:"))
                shares[group.partition(":")[2]] += worth(made.receipt.discount, rank)  # type: ignore[assignment]
        rows.append({"served": _shares(served), "by_score": _shares(by_score)})
    return {"policy": policy, "table": table, "rows": rows}


def verified(session: Asks, user: str, document: Path, bundle: Path) -> dict[str, Any]:
    """Every claim of one list, recomputed in plain Python; a lie stops the demo."""
    text = document.read_text(encoding="utf-8")
    policy = read_document(text, str(document))
    request = session.request(user, policy.name, with_candidates=True)
    evidence = evidence_of(request, [session.send(request)])
    claims = verify(evidence, text, policy, read_known(bundle, evidence.bundle_id))
    lies = [claim for claim in claims if claim.verdict is Verdict.LIE]
    if lies:
        raise click.ClickException(f"verify: {lies[0].name}: {lies[0].told}")
    return {
        "policy": policy.name,
        "user": user,
        "claims": [{"claim": c.name, "verdict": c.verdict, "told": c.told} for c in claims],
    }


def exposure_picture(told: dict[str, Any], bundle: Bundle) -> Figure:
    """Cumulative shares of exposure, with what the catalogue would give each group."""
    sizes = bundle.groups[told["table"]].sizes
    wanted = dict(zip(sizes.labels, (sizes.items / sizes.items.sum()).tolist(), strict=True))
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    lists = range(1, len(told["rows"]) + 1)
    for group, target in wanted.items():
        colour = COLOURS.get(group, "#333333")
        served = [row["served"].get(group, 0.0) for row in told["rows"]]
        plain = [row["by_score"].get(group, 0.0) for row in told["rows"]]
        axes.plot(lists, served, color=colour, label=f"{group}: {served[-1]:.2f}")
        axes.plot(lists, plain, color=colour, linestyle="--", linewidth=1, alpha=0.7)
        axes.plot([lists[-1] * 1.02], [target], marker="<", color=colour, clip_on=False)
    axes.set_xlabel("lists served")
    axes.set_ylabel("share of exposure so far")
    axes.set_xlim(1, lists[-1] * 1.02)
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="solid: served, dashed: by score,\nmark: share of the catalogue", fontsize=8,
                title_fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))  # fmt: skip
    return figure


def _shares(exposure: Counter[str]) -> dict[str, float]:
    whole = sum(exposure.values())
    return {group: amount / whole for group, amount in exposure.items()}


def _as_dict(message: Message) -> dict[str, Any]:
    told: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return told
