"""What the validator found wrong in a policy document -> the key's path, and words for its owner."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from server.errors import shown

if TYPE_CHECKING:
    from pydantic import ValidationError

_ALLOWED = 'allowed: an integer fraction from 0 to 1 in text, such as "1/5"'


def told(invalid: ValidationError, known: Sequence[str]) -> tuple[str, str]:
    """(key, what is wrong with it) of the error to mend first; `known` are all keys there are."""
    # A misspelt key is told before the key that it leaves missing.
    first: Any = min(invalid.errors(), key=lambda error: error["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        return key, f"unknown key{f'; did you mean {near[0]!r}?' if near else ''}"
    if first["type"] == "missing":
        return key, "is missing"
    message = first["msg"].removeprefix("Value error, ")
    words = f"got {shown(first['input'])}; {message}"
    number = first["input"]
    if first["type"] == "string_type" and isinstance(number, int | float):
        # Only proportions are numbers that must be written as text.
        words += f"; {_ALLOWED}"
        if isinstance(number, float) and 0 <= number <= 1:
            nearest = Fraction(number).limit_denominator(100)
            words += f'; here "{nearest.numerator}/{nearest.denominator}"'
    return key, words
