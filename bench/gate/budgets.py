"""What a release must keep: a versioned TOML file, each line with its reason.

Owns the form of budgets and refuses what cannot mean anything: an unknown key
(with the near miss), a line without a bound or a reason, a file without lines.
Must not know how a metric is found or decided.

>>> budgets = parse_budgets('''
... schema_version = 1
... name = "example"
... [[budget]]
... metric = "load.latency_ms.p99"
... at_most = 50
... decide_on = "interval"
... min_n = 1000
... reason = "The page waits 60 ms for us."
... ''', "example")
>>> budgets.budget[0].bound
'<= 50'
"""

from __future__ import annotations

import tomllib
from datetime import date
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from bench.refused import InputRefused, refusal

Bound = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]


class Budget(BaseModel):
    """One line: a metric and the bound that it must keep."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    metric: Annotated[str, StringConstraints(pattern=r"^(quality|load|invariants)\.\S.*$")]
    """Where the metric stands: KIND.PATH, such as load.latency_ms.p99 or
    quality.groups.income.recall_at_20.worst_ratio."""

    at_least: Bound | None = None
    """The lowest value allowed."""

    at_most: Bound | None = None
    """The highest value allowed."""

    decide_on: Literal["interval", "value"]
    """interval: pass or fail only if the whole interval stands on that side. value: for hard
    counts and ratios that are exact for what was run; noise decides near the bound."""

    min_n: Annotated[int, Field(strict=True, ge=1)]
    """The least evidence (users, requests or checks; for groups, of the smallest) to decide on."""

    leave_out: tuple[Text, ...] = ()
    """Groups that a worst or worst_ratio does not look at; say in the reason why."""

    reason: Text
    """Why the bound stands where it stands."""

    owner: str = ""
    """Whom to ask before it is weakened."""

    expires: date | None = None
    """After this day the line fails until somebody decides anew."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a line needs at_least or at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}")
        return self

    @property
    def bound(self) -> str:
        """The bound as a reader sees it."""
        low = f">= {self.at_least:g}" if self.at_least is not None else ""
        high = f"<= {self.at_most:g}" if self.at_most is not None else ""
        return " and ".join(part for part in (low, high) if part)


class Budgets(BaseModel):
    """All lines of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    schema_version: Literal[1]
    """The version of this form."""

    name: Text
    """What the budgets are for."""

    confidence: Annotated[float, Field(strict=True, ge=0.8, lt=1)] = 0.95
    """Of the intervals that the gate computes itself (percentiles, ratios of counts). Quality
    results bring their own; one made with less than this is not evidence enough."""

    budget: Annotated[tuple[Budget, ...], Field(min_length=1)]
    """The lines."""


def parse_budgets(document: str, source: str) -> Budgets:
    """Read budgets from the text of their TOML document; `source` names it in errors.

    Raises:
        InputRefused: not TOML, an unknown key, a value that is not allowed, or no line at all.
    """
    try:
        return Budgets.model_validate(tomllib.loads(document))
    except tomllib.TOMLDecodeError as error:
        raise InputRefused(source, "", f"not TOML: {error}") from error
    except ValidationError as invalid:
        known = [*Budgets.model_fields, *Budget.model_fields]
        raise refusal(source, invalid, known) from invalid
