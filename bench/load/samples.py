"""The raw samples of a load: one row a request, kept in an .npz file.

Owns the columns and the file. `outcome` is "OK", the name of a gRPC status, or
the name of what was wrong with an answer (`bench.load.answers`); all but "OK"
are failures, and a failure is infinitely slow.

>>> recorder = Recorder()
>>> recorder.add(Sample(10, 2_000_000, "Recommend", "OK", 20, 1, "r-1"))
>>> recorder.samples().latencies_ms().tolist()
[2.0]
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.whole import write_whole

OK = "OK"
REQUEST_ID_BYTES = 64
COLUMNS = (
    "start_ns",
    "latency_ns",
    "method",
    "outcome",
    "items",
    "receipt",
    "request_id",
    "methods",
    "outcomes",
)


class SamplesRefused(Exception):
    """A file that holds no samples, or columns that do not fit together."""


class Sample(NamedTuple):
    """One request: when it was sent (Unix ns), how long it took (ns, monotonic clock), which
    method, what came of it, how many items it brought, its receipt status (a value of
    `equipoise.v1.ReceiptStatus`), its request id."""

    start_ns: int
    latency_ns: int
    method: str
    outcome: str
    items: int
    receipt: int
    request_id: str


class Samples:
    """Columns of equal length n: start_ns, latency_ns `[n] int64`, method, outcome `[n] int16`
    (places in `methods` and `outcomes`), items `[n] int32`, receipt `[n] int8`, request_id
    `[n] bytes`."""

    def __init__(self, columns: dict[str, NDArray[np.generic]]) -> None:
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise SamplesRefused(f"has no column {missing[0]!r}")
        rows = [columns[name] for name in COLUMNS[:7]]
        sizes = {len(row) for row in rows}
        if len(sizes) != 1 or any(row.ndim != 1 for row in rows):
            raise SamplesRefused("its columns differ in length")
        self._columns = columns
        self.outcomes = tuple(str(name) for name in columns["outcomes"])
        codes = columns["outcome"]
        if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < len(self.outcomes):
            raise SamplesRefused("a row names an outcome that the file does not list")

    def __len__(self) -> int:
        return len(self._columns["start_ns"])

    def column(self, name: str) -> NDArray[np.generic]:
        """One column."""
        return self._columns[name]

    def succeeded(self) -> NDArray[np.bool_]:
        """`[n] bool`: the answer came, and it was right."""
        code = self.outcomes.index(OK) if OK in self.outcomes else -1
        found: NDArray[np.bool_] = np.asarray(self._columns["outcome"] == code, np.bool_)
        return found

    def latencies_ms(self) -> NDArray[np.float64]:
        """`[n] float64`, +inf for a failure."""
        taken = self._columns["latency_ns"].astype(np.float64) / 1e6
        return np.where(self.succeeded(), taken, np.inf)

    def by_outcome(self) -> dict[str, int]:
        """How many requests had each outcome."""
        counts = Counter(self.outcomes[int(code)] for code in self._columns["outcome"])
        return dict(counts.most_common())

    def to_bytes(self) -> bytes:
        """The content of the .npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **self._columns)
        return buffer.getvalue()

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_whole(path, self.to_bytes())


class Recorder:
    """Collects samples; appending is all that it does while a load runs."""

    def __init__(self) -> None:
        self._rows: list[Sample] = []

    def add(self, sample: Sample) -> None:
        """Keep one sample."""
        self._rows.append(sample)

    def samples(self) -> Samples:
        """What was collected so far, in columns."""
        rows = self._rows
        methods = sorted({row.method for row in rows})
        outcomes = sorted({row.outcome for row in rows})
        method_code = {name: code for code, name in enumerate(methods)}
        outcome_code = {name: code for code, name in enumerate(outcomes)}
        return Samples(
            {
                "start_ns": np.array([row.start_ns for row in rows], np.int64),
                "latency_ns": np.array([row.latency_ns for row in rows], np.int64),
                "method": np.array([method_code[row.method] for row in rows], np.int16),
                "outcome": np.array([outcome_code[row.outcome] for row in rows], np.int16),
                "items": np.array([row.items for row in rows], np.int32),
                "receipt": np.array([row.receipt for row in rows], np.int8),
                "request_id": np.array(
                    [row.request_id.encode() for row in rows], f"S{REQUEST_ID_BYTES}"
                ),
                "methods": np.array(methods, np.str_),
                "outcomes": np.array(outcomes, np.str_),
            }
        )


def read_samples(path: Path) -> Samples:
    """Read a file of samples.

    Raises:
        SamplesRefused: not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return Samples({name: archive[name] for name in archive.files})
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        raise SamplesRefused(f"is not a file of samples: {error}") from error
