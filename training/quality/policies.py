"""What the policies of a bundle cost in NDCG, and the floors of its default one over their strength."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from pathlib import Path

from server.bundle import Bundle, load_bundle
from server.engine.engine import Engine
from server.fairness import CompiledPolicy, compile_tables, parse_policy
from training.metrics import PerUser
from training.quality.kept import Entry
from training.quality.measured import Asked
from training.served import plain_policy, served_lists
from training.task import OnStep, places_in_data

STRENGTHS = (
    Fraction(1, 4),
    Fraction(1, 2),
    Fraction(3, 4),
    Fraction(1),
    Fraction(3, 2),
    Fraction(2),
)
"""Times a policy's floors; 1 is what ships."""
SHARE = re.compile(r'(?<==)(\s*)"(\d+)/(\d+)"')


def scaled(bundle: Bundle, strength: Fraction) -> CompiledPolicy | None:
    """The default policy with its floors times `strength`; None where it has no floors."""
    default = bundle.policies[bundle.manifest.default_policy].policy
    if default.kind != "floors":
        return None

    def times(found: re.Match[str]) -> str:
        share = min(Fraction(int(found[2]), int(found[3])) * strength, Fraction(1))
        return f'{found[1]}"{share.numerator}/{share.denominator}"'

    name = f"floors-{float(strength):g}".replace(".", "-")
    head, floors = default.document.split("[floors]")
    text = (
        re.sub(r"(?m)^name\s*=.*$", f'name = "{name}"', head)
        + "[floors]"
        + SHARE.sub(times, floors)
    )
    return compile_tables(
        parse_policy(text, name), {table.name: table.sizes for table in bundle.groups.values()}
    )


def policy_entry(path: Path, asked: Asked, on_step: OnStep) -> Entry:
    """NDCG `[users]` without a policy, with each, and with the default one's floors at each strength."""
    bundle = load_bundle(path)
    curve = {
        f"floors x {float(strength):g}": compiled
        for strength in STRENGTHS
        if (compiled := scaled(bundle, strength)) is not None
    }
    plain = plain_policy(Engine(bundle))
    policies = {name: name for name in bundle.policies}
    policies |= {told: compiled.policy.name for told, compiled in curve.items()}
    more = {compiled.policy.name: compiled for compiled in curve.values()}
    bundle = dataclasses.replace(bundle, policies={**bundle.policies, **more})
    engine, task = Engine(bundle), asked.task
    to_data, users = places_in_data(bundle, asked.prepared.dataset), task.targets.users
    found: PerUser = {}
    for told, name in policies.items():
        lists = served_lists(
            engine, task.history, users, task.cut_ms, policy=name, k=asked.k,
            on_users=lambda done: on_step("policies", done, len(policies) * len(users)),
        ).items  # fmt: skip
        measured = task.measured(to_data[lists], to_data[lists], asked.k)
        found[told] = measured[f"ndcg_at_{asked.k}"]
    facts = {"plain": plain, "default": bundle.manifest.default_policy, "curve": list(curve)}
    return Entry(facts, found)
