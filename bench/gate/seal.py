"""Budgets that are fixed before the run: the digest of what they say.

Owns the canonical form (the values, sorted, without comments, order of keys or
spelled-out defaults) and the seal file. A seal has the time at which it was
made, so that results older than it are told.

    equipoise gate seal budgets.toml --out budgets.seal.json
    equipoise gate --budgets budgets.toml --seal budgets.seal.json RESULT ...
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from bench.gate.budgets import Budgets
from bench.gate.lines import Line, Status
from bench.gate.results import Result
from bench.refused import InputRefused, refusal

FORM = 1
"""Raised where a default changes, so that an old seal does not fit a new meaning."""
SEAL_LINE = "seal"
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True)
    kind: Literal["seal"]
    schema_version: Literal[1]
    budgets: str
    budgets_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    made_unix_ms: Annotated[int, Field(strict=True, ge=0)]


@dataclass(frozen=True)
class Seal:
    """made_unix_ms: when it was made; None for a bare digest."""

    digest: str
    made_unix_ms: int | None = None


def canonical(budgets: Budgets) -> str:
    """What the budgets say, in one spelling."""
    said = budgets.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(
        {"form": FORM, "budgets": said}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def digest_of(budgets: Budgets) -> str:
    """SHA-256 of the canonical form, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(budgets).encode()).hexdigest()


def seal_document(budgets: Budgets, made_unix_ms: int) -> dict[str, Any]:
    """The seal as it stands in a file."""
    return {
        "kind": "seal",
        "schema_version": 1,
        "budgets": budgets.name,
        "budgets_sha256": digest_of(budgets),
        "made_unix_ms": made_unix_ms,
    }


def read_seal(text: str) -> Seal:
    """A seal from its file's path, or from the digest itself.

    Raises:
        InputRefused: neither a digest nor a seal file.
    """
    if _DIGEST.fullmatch(text):
        return Seal(text)
    try:
        document = json.loads(Path(text).read_text(encoding="utf-8"))
        found = _Document.model_validate(document)
    except OSError as error:
        raise InputRefused(text, "", f"no digest and no file: {error.strerror}") from error
    except ValidationError as invalid:
        raise refusal(text, invalid, list(_Document.model_fields)) from invalid
    except ValueError as error:
        raise InputRefused(text, "", f"not JSON: {error}") from error
    return Seal(found.budgets_sha256, found.made_unix_ms)


def seal_line(budgets: Budgets, seal: Seal, results: Sequence[Result]) -> Line:
    """Whether the budgets are the sealed ones, and were so before the results were made."""
    digest = digest_of(budgets)
    status, why = Status.PASS, "the budgets are those that were sealed"
    if digest != seal.digest:
        status, why = Status.FAIL, f"the budgets' digest is {digest}: they were changed since"
    elif seal.made_unix_ms is None:
        why += "; a bare digest does not tell when"
    else:
        early = [result for result in results if _made_ms(result) < seal.made_unix_ms]
        if early:
            status = Status.FAIL
            named = early[0].source or early[0].kind
            why = (
                f"{named} was made before the budgets were sealed: they may have been fitted to it"
            )
        elif timeless := [result for result in results if _made_ms(result) == np.inf]:
            status = Status.NOT_ENOUGH
            named = timeless[0].source or timeless[0].kind
            why = f"{named} does not tell when it was made; the seal file does"
    return Line(
        SEAL_LINE,
        status,
        bound=f"= {seal.digest}",
        why=why,
        reason="A bound chosen after the result is no bound.",
        n=len(results),
        unit="results",
        kind="seal",
    )


def _made_ms(result: Result) -> float:
    """When a result was made, or its first request sent; infinite where it does not tell."""
    if result.starts_ns is not None and len(result.starts_ns):
        return float(result.starts_ns.min()) / 1e6
    made = result.document.get("made_unix_ms")
    if isinstance(made, bool) or not isinstance(made, int | float):
        return float(np.inf)
    return float(made)
