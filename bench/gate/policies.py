"""Which policies were served: by digest, so that a floor that gave way by one place is no pass.

Owns the `[policies]` table. A bundle brings its policies along, and every receipt and evaluation holds
them against themselves; only a digest that was agreed on beforehand tells whether they are the right ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.gate.budgets import Budgets
from bench.gate.lines import Line, Status
from bench.gate.results import Result

_REASON = (
    "What the shop promised to makers stands in [policies]; another policy is another promise."
)


def policy_lines(budgets: Budgets, results: Sequence[Result]) -> list[Line]:
    """A line for each policy that is named: whether the evaluation was of that very one."""
    quality = next((one for one in results if one.kind == "quality"), None)
    return [_line(name, digest, quality) for name, digest in budgets.policies.items()]


def _line(name: str, digest: str, quality: Result | None) -> Line:
    status, why = _decided(name, digest, quality)
    return Line(
        f"policies.{name}", status, bound=f"digest {_short(digest)}", why=why, reason=_REASON,
        kind="policy",
    )  # fmt: skip


def _decided(name: str, digest: str, quality: Result | None) -> tuple[Status, str]:
    if quality is None:
        return Status.FAIL, "no quality result was given; 'equipoise evaluate' makes one"
    told = quality.document.get("policies")
    known = {}
    if isinstance(told, dict):
        known = {
            one["policy"]: one.get("digest")
            for one in told.values()
            if isinstance(one, dict) and "policy" in one
        }
    if name not in known:
        return (
            Status.FAIL,
            f"the bundle has no such policy; it has: {', '.join(sorted(known)) or 'none'}",
        )
    if known[name] is None:
        return Status.FAIL, "the evaluation does not tell the policy's digest"
    if known[name] != digest:
        return Status.FAIL, f"the bundle's is another policy: digest {_short(str(known[name]))}"
    return Status.PASS, "the bundle's is the same"


def _short(digest: str) -> str:
    return f"{digest[:12]}..."
