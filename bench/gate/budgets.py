"""What a release must keep: a versioned TOML file, each line with its reason.

Owns the form of budgets and refuses what cannot mean anything: an unknown key
(with the near miss), a line without a bound or a reason, a bound that can never
fail, another unit than the metric's, a file without lines.
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
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from bench.gate.facts import cannot_fail, facts_of
from bench.refused import InputRefused, near_miss, refusal

Bound = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
KINDS = ("quality", "load", "invariants")


def _of_a_kind(metric: object) -> object:
    if isinstance(metric, str) and (kind := metric.partition(".")[0]) not in KINDS:
        allowed = ", ".join(f"{name}.PATH" for name in KINDS)
        raise ValueError(f"allowed: {allowed}{near_miss(kind, KINDS)}")
    return metric


Metric = Annotated[
    str,
    BeforeValidator(_of_a_kind),
    StringConstraints(pattern=rf"^({'|'.join(KINDS)})\.\S.*$"),
]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_FORM = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Budget(BaseModel):
    """One line: a metric and the bound that it must keep."""

    model_config = _FORM

    metric: Metric
    """Where the metric stands: KIND.PATH, such as load.latency_ms.p99 or
    quality.groups.income.recall_at_20.worst_ratio."""

    unit: str = ""
    """What its numbers are in (share, ms, us, count, lists/s); refused if it is not the metric's."""

    at_least: Bound | None = None
    """The lowest value allowed."""

    at_most: Bound | None = None
    """The highest value allowed."""

    margin: Positive | None = None
    """By how much the metric may be worse than the baseline's (non-inferiority)."""

    margin_is: Literal["absolute", "relative"] | None = None
    """absolute: in the metric's unit. relative: a share of the baseline's value."""

    direction: Literal["higher", "lower"] | None = None
    """Which way is better, for a margin or a worst group of a metric of which that is not known."""

    decide_on: Literal["interval", "value"]
    """interval: pass or fail only if the whole interval stands on that side. value: for hard
    counts and ratios that are exact for what was run; noise decides near the bound."""

    min_n: Count
    """The least evidence (users, requests or checks; for groups, of the smallest) to decide on."""

    min_positives: Annotated[int, Field(strict=True, ge=0)] = 10
    """Of each group: the least users with a value above 0. Below it no pass."""

    min_blocks: Annotated[int, Field(strict=True, ge=2)] | None = None
    """The least blocks of time for a latency or an error ratio to pass on. Default: 20; of a
    percentile, so many that stalls of whole blocks would have shown (p99: 368)."""

    block_s: Annotated[float, Field(strict=True, gt=0, le=600)] = 1.0
    """The length of a block of time, in seconds; longer ones are taken where neighbours depend."""

    min_pairs: Annotated[int, Field(strict=True, ge=3)] = 5
    """The least pairs of interleaved runs to compare a load with the baseline's on."""

    leave_out: tuple[Text, ...] = ()
    """Groups that a worst, worst_ratio or worst_gap does not look at; say in the reason why."""

    effect: Positive | None = None
    """How far from the bound the truth must be for the line to decide with `power`: in the
    metric's unit; relative where the margin is; of a latency, the share of late requests.
    Default: the margin; half of the late requests that a percentile allows."""

    power: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.8
    """How often the line is to decide at that effect."""

    spread: Positive | None = None
    """The standard deviation that `explain` reckons with: between users (of their paired
    differences for a margin), or between pairs of runs (of the log ratio)."""

    expected: Positive | None = None
    """The level that `explain` reckons with, for ratios and relative margins."""

    reason: Text
    """Why the bound stands where it stands."""

    owner: str = ""
    """Whom to ask before it is weakened."""

    expires: date | None = None
    """After this day the line fails until somebody decides anew."""

    weaker_because: str = ""
    """Why the line is weaker than in the last release's budgets."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least is None and self.at_most is None and self.margin is None:
            raise ValueError("a line needs at_least or at_most, or a margin against the baseline")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} is above at_most {self.at_most}")
        if (self.margin is None) != (self.margin_is is None):
            raise ValueError('margin and margin_is ("absolute" or "relative") belong together')
        if self.margin is not None and self.decide_on == "value":
            raise ValueError('a margin is decided on its interval: decide_on = "interval"')
        facts = facts_of(self.metric)
        if self.unit and facts is not None and self.unit != facts.unit:
            raise ValueError(f"unit {self.unit!r}: {self.metric} is in {facts.unit!r}")
        if vain := cannot_fail(
            self.metric, at_least=self.at_least, at_most=self.at_most, margin=self.margin,
            relative=self.margin_is == "relative",
        ):  # fmt: skip
            raise ValueError(vain)
        self._directed()
        return self

    def _directed(self) -> None:
        """A margin on the wrong side, or the best group for the worst one, would guard nothing."""
        facts = facts_of(self.metric)
        better = self.direction if facts is None else facts.better
        if self.direction not in (None, better):
            raise ValueError(f"direction {self.direction!r}: of {self.metric} {better} is better")
        worst = self.metric.endswith(".worst")
        if better is None and (self.margin is not None or worst):
            raise ValueError(
                f'it is not known which way {self.metric} is better: direction = "higher" or "lower"'
            )
        if worst and better == "lower":
            raise ValueError(
                f"{self.metric}: worst is the lowest group, and here less is better: bound each group "
                "by its label, or worst_gap"
            )

    @property
    def bound(self) -> str:
        """The absolute bound as a reader sees it."""
        low = f">= {self.at_least:g}" if self.at_least is not None else ""
        high = f"<= {self.at_most:g}" if self.at_most is not None else ""
        return " and ".join(part for part in (low, high) if part)

    @property
    def margin_text(self) -> str:
        """The margin as a reader sees it."""
        if self.margin is None:
            return ""
        told = f"{self.margin:.4g}" if self.margin_is == "absolute" else f"{self.margin:.4%}"
        told = told.rstrip("%").rstrip("0").rstrip(".") + "%" if told.endswith("%") else told
        return f"worse than the baseline by at most {told}"


class Coverage(BaseModel):
    """What a release must be judged on; what is missing is a failing line."""

    model_config = _FORM

    metrics: tuple[Metric, ...] = ()
    """Metrics that a line must decide."""

    groups: dict[str, tuple[Text, ...]] = {}
    """User attribute -> labels that a line over its groups must look at, none left out."""


class Dropped(BaseModel):
    """A line of the last release's budgets that is no more."""

    model_config = _FORM

    metric: Metric
    """Its metric."""

    weaker_because: Text
    """Why it was dropped."""


class Budgets(BaseModel):
    """All lines of one file."""

    model_config = _FORM

    schema_version: Literal[1]
    """The version of this form."""

    name: Text
    """What the budgets are for."""

    confidence: Annotated[float, Field(strict=True, ge=0.8, lt=1)] = 0.95
    """Of the intervals: a line passes by mistake in at most half of the rest, (1 - confidence) / 2.
    A result's own interval made with less is not evidence enough."""

    family_alpha: Annotated[float, Field(strict=True, gt=0, le=0.2)] = 0.05
    """How often at most any line at all fails by mistake; split over the lines that are decided
    on intervals. A pass needs no split: every line must pass."""

    looks: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    """How often the results of this release may be looked at; each look costs its share."""

    baseline_may_be_candidate: bool = False
    """Whether a baseline of the very same bundle is meant (an A/A run)."""

    weaker_because: str = ""
    """Why confidence, coverage or the file's other rules are weaker than in the last release's."""

    coverage: Coverage = Coverage()
    """What must be judged."""

    policies: dict[Text, Digest] = {}
    """Policy -> the digest that the bundle's must have, as `equipoise policy check --json` and
    receipts tell it: 64 hexadecimal digits."""

    dropped: tuple[Dropped, ...] = ()
    """Lines of the last release's budgets that are no more, each with the reason."""

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
        known = [
            *Budgets.model_fields, *Budget.model_fields, *Coverage.model_fields,
            *Dropped.model_fields,
        ]  # fmt: skip
        raise refusal(source, invalid, known) from invalid


def read_budgets(path: Path) -> Budgets:
    """Read budgets from their file.

    Raises:
        InputRefused: as `parse_budgets`, or the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(str(path), "", str(error)) from error
    return parse_budgets(text, str(path))
