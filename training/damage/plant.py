"""A bundle and its data -> the same bundle with one fault, as strong as was asked.

Owns how strong: what is planted is measured, so that "1 % worse" is. Faults:

    shuffled   scores are noise
    worse      NDCG of the plain list is `by` (a share) lower
    zeroed     all features are 0 for the users of one group
    leak       each group of users is shown its own part of the catalogue first
    slower     a list takes `slower_us` more in the model
    floor      a floor of one policy is lower, by one place of a list
    none       nothing: to see that nothing is seen
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from server.bundle import Bundle, BundleParts, ports_of, read_files
from server.bundle.files import decode
from server.engine.engine import Engine
from server.errors import Refused, listed
from server.features import pair_features
from server.features.types import Float32, History
from server.model import OnnxScorer
from training import export
from training.damage import graphs
from training.data.prepare import Prepared
from training.data.schema import UNKNOWN
from training.derived import derived_parts, policy_texts
from training.metrics import hits, ndcg
from training.release import random_feed
from training.served import plain_policy, served_lists
from training.task import OnStep, Task, places_in_bundle, places_in_data, task_of
from training.user_groups import groups_of

KINDS = ("none", "shuffled", "worse", "zeroed", "leak", "slower", "floor")
K = 20
LEAK = 0.6
"""What a foreign item loses of its score."""
ROUNDS = 12


@dataclass(frozen=True)
class Fault:
    """kind: see above. by: of "worse". attribute: of users, of "zeroed" and "leak"; label: the group of
    "zeroed". slower_us: of "slower". policy, group: of "floor"."""

    kind: str
    by: float = 0.01
    attribute: str = ""
    label: str = ""
    slower_us: float = 0.0
    policy: str = ""
    group: str = ""


def damaged_parts(
    path: Path, prepared: Prepared, fault: Fault, *, seed: int, on_step: OnStep
) -> tuple[BundleParts, dict[str, Any]]:
    """The parts of the damaged bundle, and what was done.

    Raises:
        Refused: the data has no such attribute or group, the bundle no such policy or floor, or the
            model cannot be damaged so.
    """
    manifest, files = read_files(path)
    bundle = decode(manifest, files, max_count=200)
    policies, model = policy_texts(files), bundle.model
    about: dict[str, Any] = {}
    task = task_of(prepared, "test")
    if fault.kind == "shuffled":
        model = graphs.shuffled(model)
    elif fault.kind == "worse":
        model, about = _worse(bundle, prepared, task, fault.by, on_step)
    elif fault.kind in ("zeroed", "leak"):
        model, about = _by_group(bundle, prepared, task, fault)
    elif fault.kind == "slower":
        model, about = _slower(bundle, fault.slower_us)
    elif fault.kind == "floor":
        policies[fault.policy], about = lower_floor(policies, fault.policy, fault.group)
    scorer = OnnxScorer(model, ports_of(manifest.model))
    outputs = scorer.score(bundle.golden_inputs)
    after = replace(bundle, model=model, golden_outputs=outputs)
    parts = derived_parts(
        manifest, files, after, scorer, seed=seed, policies=policies,
        quality={**manifest.quality, "damage": {"kind": fault.kind, **about}},
        card=f"## Damaged on purpose\n{fault.kind}. Never serve this.\n",
    )  # fmt: skip
    return parts, {"kind": fault.kind, **about}


def _worse(
    bundle: Bundle, prepared: Prepared, task: Task, by: float, on_step: OnStep
) -> tuple[bytes, dict[str, Any]]:
    """Bisects the strength of the noise; each try is a whole evaluation of the plain lists."""
    to_data, targets = places_in_data(bundle, prepared.dataset), task.targets

    def quality(model: bytes) -> float:
        engine = Engine(replace(bundle, model=model))
        lists = served_lists(
            engine, task.history, targets.users, task.cut_ms, policy=plain_policy(engine), k=K,
            on_users=lambda done: on_step("trying how much noise", done, len(targets)),
        )  # fmt: skip
        found = hits(to_data[lists.items], targets.ptr, targets.items)
        return float(ndcg(found, np.diff(targets.ptr)).mean())

    before = quality(bundle.model)
    low, high, best = 0.0, 0.99, (np.inf, 0.0, 0.0)
    for _ in range(ROUNDS):
        noise = (low + high) / 2
        lost = 1 - quality(graphs.worse(bundle.model, noise)) / before
        best = min(best, (abs(lost - by), noise, lost))
        if abs(lost - by) < by / 20:
            break
        low, high = (noise, high) if lost < by else (low, noise)
    return graphs.worse(bundle.model, best[1]), {"noise": best[1], "lost_share": best[2]}


def _by_group(
    bundle: Bundle, prepared: Prepared, task: Task, fault: Fault
) -> tuple[bytes, dict[str, Any]]:
    users = task.targets.users
    labels = groups_of(prepared.dataset, users, (fault.attribute,))[fault.attribute]
    names = [name for name in sorted(set(labels.tolist())) if name != UNKNOWN]
    prints = _prints(bundle, prepared, task)
    if fault.kind == "leak":
        own = [prints[labels == name] for name in names]
        return graphs.leaking(bundle.model, own, LEAK), {
            "attribute": fault.attribute, "labels": names,
        }  # fmt: skip
    if fault.label not in names:
        raise Refused(f"no user is {fault.attribute} {fault.label!r}; there are: {listed(names)}")
    chosen = labels == fault.label
    return graphs.zeroed(bundle.model, prints[chosen]), {
        "attribute": fault.attribute, "label": fault.label, "users": int(chosen.sum()),
    }  # fmt: skip


def _prints(bundle: Bundle, prepared: Prepared, task: Task) -> Float32:
    """`[users, columns]`: the `user_*` features of each at the cut."""
    places = places_in_bundle(bundle, prepared.dataset)
    one, found = np.zeros(1, np.int32), []
    for user in task.targets.users.tolist():
        own = task.history.history(user)
        known = places[own.items] >= 0
        history = History.of(
            places[own.items][known], own.times_ms[known], own.quantities[known]
        )  # fmt: skip
        row = pair_features(history, one, task.cut_ms, bundle.state)[0]
        found.append(row[list(graphs.USER_COLUMNS)])
    return np.array(found, np.float32)


def _slower(bundle: Bundle, slower_us: float) -> tuple[bytes, dict[str, Any]]:
    """As many layers as take that long for one list of typical width, in turns with the old graph."""
    ports = ports_of(bundle.manifest.model)
    plain = OnnxScorer(bundle.model, ports)
    feed = random_feed(plain, len(bundle.items.ids), 1, export.TYPICAL_CANDIDATES)
    layers, extra = 1, 0.0
    for _ in range(6):
        model = graphs.slower(bundle.model, layers)
        extra = _turns(plain, OnnxScorer(model, ports), lambda scorer: scorer.score(feed))
        if abs(extra - slower_us) < 0.1 * slower_us or layers >= 4096:
            break
        layers = max(1, min(4096, round(layers * slower_us / max(extra, 1.0))))
    return graphs.slower(bundle.model, layers), {"layers": layers, "slower_us": round(extra, 1)}


def _turns(
    first: OnnxScorer, second: OnnxScorer, run: Callable[[OnnxScorer], object], rounds: int = 60
) -> float:
    """By how many microseconds the second takes longer, the median of turns."""
    gaps = []
    for _ in range(rounds):
        taken = []
        for scorer in (first, second):
            began = time.perf_counter_ns()
            run(scorer)
            taken.append(time.perf_counter_ns() - began)
        gaps.append((taken[1] - taken[0]) / 1000)
    return float(np.median(gaps[5:]))


def lower_floor(policies: Mapping[str, str], name: str, group: str) -> tuple[str, dict[str, Any]]:
    """The policy's TOML with one floor lower, so that a list of K has a place less of that group.

    Raises:
        Refused: no such policy, or no floor of that group that a list of K would notice.
    """
    if name not in policies:
        raise Refused(f"the bundle has no policy {name!r}; it has: {listed(policies)}")
    floors = tomllib.loads(policies[name]).get("floors", {})
    before = Fraction(str(floors[group])) if group in floors else Fraction(0)
    places = int(K * before)
    if places < 1:
        raise Refused(
            f"policy {name!r} has no floor for {group!r} in a list of {K}; it has: {floors}"
        )
    # The largest simple share that leaves one place less: K / (K / places + a little).
    after = Fraction(places, K + 1)
    old, new = f'{group} = "{floors[group]}"', f'{group} = "{after}"'
    if old not in policies[name]:
        raise Refused(f"policy {name!r} does not spell its floor as {old}")
    return policies[name].replace(old, new), {
        "policy": name, "group": group, "was": str(before), "is": str(after),
    }  # fmt: skip
