"""One line of a proof: what was checked, how often, and what did not hold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[float], None]
"""Takes the share of the work that is done, 0 to 1."""


@dataclass
class Line:
    """A check's count. instances: what it was tried on; mismatches: where it did not hold.

    example: the first mismatch, in words that find it again. note: what else was counted.
    """

    check: str
    instances: int = 0
    mismatches: int = 0
    example: str = ""
    note: str = ""
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic, repr=False)

    def add(self, instances: int, mismatches: int, example: str = "") -> None:
        """Count more of them; the first example stays."""
        self.instances += instances
        self.mismatches += mismatches
        if mismatches and not self.example:
            self.example = example

    def done(self, note: str = "") -> Line:
        """Close the line: its time ends here."""
        self.note = note
        self.seconds = round(time.monotonic() - self._started, 1)
        return self
