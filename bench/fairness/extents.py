"""How much a result is of what is wanted: a short run is told as one, whatever it found.

All of it is read from the result itself; one that does not say is not taken for a whole one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LISTS, ROUNDS, DRAWS = 10**8, 60, 4000
"""What the commands do unless told otherwise: a soak's lists, a timing's rounds, a table's draws."""
GROUPS = tuple(range(2, 11))
"""The simulation's numbers of groups."""


def lacking(name: str, result: Mapping[str, Any]) -> list[str]:
    """What a result, by the name of its file, has less of than a whole run; nothing: it is whole."""
    match name:
        case "proof":
            parts = result.get("extent", {})
            return [
                line
                for what, own in parts.items()
                for line in _fewer(what, own["tried"], own["wanted"])
            ]
        case "soak":
            return _fewer("lists", result["lists"], LISTS)
        case "mutants":
            from bench.fairness.mutants import Settings

            every = Settings.read().modules
            return _fewer("modules", sum(one in result["modules"] for one in every), len(every))
        case "speed":
            return _fewer("rounds", result["rounds"], ROUNDS)
        case "tables":
            rows = result["simulation"]
            groups = {row["groups"] for row in rows}
            draws = min((row["draws"] for row in rows), default=0)
            return [
                *_fewer("draws for each number of groups", draws, DRAWS),
                *_fewer("numbers of groups", len(groups & set(GROUPS)), len(GROUPS)),
            ]
    raise KeyError(name)


def run(name: str, result: Mapping[str, Any]) -> str:
    """Whether it is whole, in a word."""
    if name == "proof" and "extent" not in result:
        return "**unknown**"
    return "**short**" if lacking(name, result) else "whole"


def told(name: str, result: Mapping[str, Any]) -> str:
    """A paragraph that says so, empty of a whole run."""
    if run(name, result) == "**unknown**":
        return "**Whether this was a whole run**, the result does not say.\n\n"
    less = lacking(name, result)
    return f"**A short run**: {'; '.join(less)}.\n\n" if less else ""


def _fewer(what: str, tried: int, wanted: int) -> list[str]:
    return [f"{what}: {tried:,} of {wanted:,}"] if tried < wanted else []
