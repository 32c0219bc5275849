"""How long the supervisor waits before it starts another worker."""

from __future__ import annotations

FIRST_S = 0.2
LONGEST_S = 10.0


class Backoff:
    """Doubles with each death right after the start; the first replacement is always at once.

    Times are seconds of any steady clock.

    >>> backoff = Backoff()
    >>> for _ in range(4):
    ...     backoff.died(100.0, settled=False)
    ...     print(round(backoff.not_before_s - 100.0, 1))
    0.0
    0.2
    0.4
    0.8
    >>> backoff.died(100.0, settled=True)
    >>> backoff.not_before_s
    100.0
    """

    def __init__(self) -> None:
        self._deaths = 0
        self.not_before_s = float("-inf")

    def died(self, now_s: float, *, settled: bool) -> None:
        """A worker died. settled: it had run for a while, so that its start was not to blame."""
        self._deaths = 0 if settled else self._deaths + 1
        wait_s = 0.0 if self._deaths < 2 else FIRST_S * 2.0 ** min(self._deaths - 2, 30)
        self.not_before_s = now_s + min(wait_s, LONGEST_S)
