"""A load, described once: what arrives when, who asks for what, how callers behave. TOML.

Both drivers read it: locust (closed loop, or the open one) and the open loop's own client. Owns the
form, and refuses what cannot mean anything. Knows no server.

>>> scenario = parse_scenario('''
... schema_version = 1
... name = "evening"
... seed = 7
... [[stage]]
... kind = "poisson"
... rate_rps = 200
... duration_s = 30
... ''', "example")
>>> scenario.duration_s, scenario.stage[0].to_rps
(30.0, 200.0)
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from bench.refused import InputRefused, refusal

SCHEMA_VERSION = 1
MAX_REQUESTS = 5_000_000
MAX_S = 86_400.0

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Rate = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=MAX_S, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Stage(_Part):
    """A while of arrivals. In a closed loop `users` ask, each waiting for its answer."""

    kind: Literal["poisson", "constant", "bursts", "trace"] = "poisson"
    """poisson: independent callers. constant: evenly spaced. bursts: `size` at once, `rate_rps` on
    average. trace: at the times of `file`."""

    rate_rps: Rate | None = None
    """Requests a second."""

    to_rps: Rate | None = None
    """Of poisson and constant: the rate that it has grown or fallen to, evenly, at the end."""

    duration_s: Seconds
    """How long the stage is."""

    size: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Of bursts: requests that come at the same instant."""

    file: Path | None = None
    """Of trace: one time a line, seconds since its start, not falling; those within `duration_s`."""

    speed: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Of trace: how many times as fast it is replayed."""

    users: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Of a closed loop: how many ask at a time; of an open one nothing."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "trace":
            if self.file is None:
                raise ValueError("a trace needs a file")
            if self.rate_rps is not None or self.to_rps is not None:
                raise ValueError("a trace has its own rate: leave rate_rps and to_rps out")
        elif self.file is not None:
            raise ValueError(f"file belongs to kind trace, not to {self.kind}")
        elif self.rate_rps is None and self.users is None:
            raise ValueError(f"{self.kind} needs rate_rps (or users, of a closed loop)")
        # Read again from what was written of it, it has its own rate there.
        if self.kind == "bursts" and self.to_rps not in (None, self.rate_rps):
            raise ValueError("bursts keep one rate: leave to_rps out")
        if self.to_rps is None and self.rate_rps is not None:
            return self.model_copy(update={"to_rps": self.rate_rps})
        return self


class Asked(_Part):
    """Who asks for what."""

    file: Path | None = None
    """Request file (`equipoise load sample` makes one); without, histories of the server's items."""

    zipf: Annotated[float, Field(ge=0, le=4)] = 0.0
    """How unevenly callers come back: the r-th of a seeded order asks in proportion to r to the -zipf."""

    cold_share: Share = 0.0
    """The share of requests of somebody whom nobody knows: no history, a new id each time."""


class Check(_Part):
    """Right answers under load."""

    share: Share = 0.05
    """Of answers that are compared, byte for byte, with what the server said when nothing else was asked
    of it."""

    repeats: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Asked after the load: one request so often, and as many different ones, to expose a cache."""


class Scenario(_Part):
    """One load."""

    schema_version: Literal[1]
    name: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    """Of arrivals, of who asks, and of which answers are compared."""

    loop: Literal["open", "closed"] = "open"
    """open: requests come when they are due, whatever became of others. closed: users wait."""

    deadline_ms: Annotated[int, Field(ge=1, le=600_000)] = 1000
    """Of each call."""

    retries: bool = False
    """Callers follow the shipped gRPC service config: what fails may be tried again."""

    connections: Annotated[int, Field(ge=1, le=10_000)] = 4
    """Of an open loop; closed, each user has his own."""

    steady: bool = True
    """The server is to be in one state throughout, which is then tested: not of ramps and bursts."""

    stage: Annotated[tuple[Stage, ...], Field(min_length=1)]
    """One after the other."""

    requests: Asked = Asked()
    check: Check = Check()

    @model_validator(mode="after")
    def _one_loop(self) -> Self:
        for number, stage in enumerate(self.stage):
            missing = stage.users is None if self.loop == "closed" else stage.kind != "trace" and (
                stage.rate_rps is None
            )  # fmt: skip
            if missing:
                needed = "users" if self.loop == "closed" else "rate_rps"
                raise ValueError(f"stage {number + 1} of the {self.loop} loop needs {needed}")
        expected = sum(
            stage.duration_s * max(stage.rate_rps or 0, stage.to_rps or 0) for stage in self.stage
        )
        if self.loop == "open" and expected > MAX_REQUESTS:
            raise ValueError(f"asks for some {expected:,.0f} requests, allowed: {MAX_REQUESTS:,}")
        return self

    @property
    def duration_s(self) -> float:
        """Of all stages."""
        return sum(stage.duration_s for stage in self.stage)


def parse_scenario(document: str, source: str) -> Scenario:
    """Read a scenario from the text of its TOML document; `source` names it in errors.

    Raises:
        InputRefused: not TOML, an unknown key, or a value that is not allowed.
    """
    try:
        found = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        raise InputRefused(source, "", f"not TOML: {error}") from error
    return scenario_of(found, source)


def scenario_of(document: dict[str, Any], source: str) -> Scenario:
    """A scenario from its parsed form.

    Raises:
        InputRefused: an unknown key, or a value that is not allowed.
    """
    try:
        return Scenario.model_validate(document)
    except ValidationError as invalid:
        parts = (Scenario, Stage, Asked, Check)
        known = [name for part in parts for name in part.model_fields]
        raise refusal(source, invalid, known) from invalid


def read_scenario(path: Path) -> Scenario:
    """The scenario of a file; the files that it names are looked for beside it.

    Raises:
        InputRefused: as `parse_scenario`, or it cannot be read.
    """
    try:
        document = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputRefused(str(path), "", why or str(error)) from error
    scenario = parse_scenario(document, str(path))
    asked = scenario.requests
    if asked.file is not None:
        asked = asked.model_copy(update={"file": path.parent / asked.file})
    stages = tuple(
        stage if stage.file is None else stage.model_copy(update={"file": path.parent / stage.file})
        for stage in scenario.stage
    )
    return scenario.model_copy(update={"requests": asked, "stage": stages})
