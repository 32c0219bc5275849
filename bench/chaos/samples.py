"""What an open loop saw: a row for each request that was to be sent, none left out."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.chaos.openloop import WRONG, Spec, as_arguments
from bench.refused import InputRefused

OK, CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 0, 1, 4, 8, 14
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """Requests in the order of their times, `[n]` each; nanoseconds since the run began.

    at_ns: when each should be sent, sent_ns: when it was, ended_ns: when it had its answer. codes:
    gRPC's numbers, or `WRONG`. fallback: whether it got a fallback list.
    """

    at_ns: Int64
    sent_ns: Int64
    ended_ns: Int64
    codes: NDArray[np.int16]
    fallback: NDArray[np.bool_]
    cpu_ns: int

    def __len__(self) -> int:
        return len(self.at_ns)

    @property
    def ok(self) -> NDArray[np.bool_]:
        ok: NDArray[np.bool_] = self.codes == OK
        return ok

    @property
    def wrong(self) -> int:
        """Answers that were none."""
        return int((self.codes == WRONG).sum())

    @property
    def took_ms(self) -> Float64:
        """From the time at which it should have been sent."""
        return (self.ended_ns - self.at_ns) / 1e6

    @property
    def answered_ms(self) -> Float64:
        """From the time at which it was sent."""
        return (self.ended_ns - self.sent_ns) / 1e6

    @property
    def late_ms(self) -> Float64:
        """How much too late the caller sent it: where that is much, the run says little of a server."""
        return (self.sent_ns - self.at_ns) / 1e6

    def between(self, first_s: float, end_s: float) -> Samples:
        """Those that were to be sent in a part of the run."""
        part = (self.at_ns >= first_s * 1e9) & (self.at_ns < end_s * 1e9)
        return replace(
            self,
            at_ns=self.at_ns[part],
            sent_ns=self.sent_ns[part],
            ended_ns=self.ended_ns[part],
            codes=self.codes[part],
            fallback=self.fallback[part],
        )

    def by_code(self) -> dict[int, int]:
        """How many ended with each code."""
        codes, counts = np.unique(self.codes, return_counts=True)
        return dict(zip(codes.tolist(), counts.tolist(), strict=True))


class Generator:
    """An open loop in a process of its own, ready to begin."""

    def __init__(self, process: subprocess.Popen[str], spec: Spec) -> None:
        self._process = process
        self._spec = spec

    def begin(self) -> None:
        """Start sending, now."""
        self._say()

    def stop(self) -> None:
        """Send no more, however much was to be sent still."""
        self._say()

    def _say(self) -> None:
        assert self._process.stdin is not None
        # One that has sent all may be gone.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def end(self) -> Samples:
        """Stop sending, and wait for the last answer."""
        self.stop()
        return self.samples()

    def samples(self) -> Samples:
        """Wait for the last answer."""
        if self._process.wait(self._spec.seconds * 3 + 60):
            raise RuntimeError("the caller failed; its words are above")
        with np.load(self._spec.out) as found:
            return Samples(
                found["at_ns"],
                found["sent_ns"],
                found["ended_ns"],
                found["codes"],
                found["fallback"],
                int(found["cpu_ns"]),
            )


@contextmanager
def generator(spec: Spec) -> Iterator[Generator]:
    """A caller that is connected and waits for `begin`; `spec.out` is chosen here."""
    with tempfile.TemporaryDirectory() as folder:
        own = replace(spec, out=str(Path(folder) / "samples.npz"))
        process = subprocess.Popen(
            as_arguments(own), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise InputRefused("target", spec.target, "the caller could not connect")
            yield Generator(process, own)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def asked(spec: Spec) -> Samples:
    """The whole run."""
    with generator(spec) as ready:
        ready.begin()
        return ready.samples()
