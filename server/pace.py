"""How long a piece of work takes, most of the time: a running percentile that keeps no samples.

It decides whether a deadline leaves room for the work. Fast to rise and slow to fall, so that a
server that has become slow refuses in time, and one that was slow for a moment recovers.
"""

from __future__ import annotations

SHARE = 0.9
"""The share of the work that takes no longer."""
STEP = 0.1


class Pace:
    """Nanoseconds of a piece of work, of which `SHARE` takes less.

    Each observation moves the figure by a share of itself: up by STEP x SHARE where the work took
    longer, else down by STEP x (1 - SHARE). So it stands still where one in ten is above it
    (Robbins and Monro 1951, for a quantile).

    >>> pace = Pace()
    >>> pace.ns
    0
    >>> pace.took(1000)
    >>> pace.took(5000)
    >>> pace.ns
    1090
    """

    __slots__ = ("_ns",)

    def __init__(self) -> None:
        self._ns = 0.0

    @property
    def ns(self) -> int:
        """0 as long as nothing was observed."""
        return round(self._ns)

    def took(self, spent_ns: float) -> None:
        """The work was done once more."""
        if self._ns <= 0:
            self._ns = max(spent_ns, 1.0)
        elif spent_ns > self._ns:
            self._ns *= 1 + STEP * SHARE
        else:
            self.relax()

    def relax(self) -> None:
        """Work was refused for want of time: a figure that is never tried again must not last."""
        self._ns *= 1 - STEP * (1 - SHARE)
