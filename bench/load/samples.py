"""The raw samples of a load: one row a request, kept as Parquet.

Owns the columns and the file. `outcome` is "OK", the name of a gRPC status, or the name of what was
wrong with an answer (`bench.load.answers`); all but "OK" are failures, and a failure is infinitely
slow. Times are of one monotonic clock, from the start of the run on.

    due_ns      when the request should have gone out; in a closed loop, when it did
    sent_ns     when it went out
    ended_ns    when its answer was there, or its failure
    method, outcome, request_id, group.ATTRIBUTE: text
    items, receipt (a value of `equipoise.v1.ReceiptStatus`), request (place in the request file, -1
    is nobody), stage, process: numbers; checked: whether its answer was compared
    exposure/TABLE/GROUP: what the list that was asked for would give this group of items, as the quiet
    server answered; NaN where that is not known

>>> recorder = Recorder()
>>> recorder.add(Sample(0, 500_000, 2_000_000, "Recommend", "OK", 20, 1, 7, "r-1"))
>>> samples = recorder.samples()
>>> samples.latencies_ms().tolist(), samples.service_ms().tolist()
([2.0], [1.5])
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.whole import write_whole

OK = "OK"
GROUP = "group."
EXPOSURE = "exposure/"
REFUSED = ("RESOURCE_EXHAUSTED", "CANCELLED")
"""By the server for want of room, and by gRPC itself at its door."""
SCHEMA: dict[str, type[pl.DataType]] = {
    "due_ns": pl.Int64,
    "sent_ns": pl.Int64,
    "ended_ns": pl.Int64,
    "method": pl.String,
    "outcome": pl.String,
    "items": pl.Int32,
    "receipt": pl.Int16,
    "request": pl.Int32,
    "request_id": pl.String,
    "stage": pl.Int16,
    "checked": pl.Boolean,
    "process": pl.Int16,
}


class SamplesRefused(Exception):
    """A file that holds no samples, or columns that do not fit together."""


class Sample(NamedTuple):
    """One request; see the columns above."""

    due_ns: int
    sent_ns: int
    ended_ns: int
    method: str
    outcome: str
    items: int
    receipt: int
    request: int
    request_id: str
    stage: int = 0
    checked: bool = False
    process: int = 0


class Samples:
    """All requests of a run, in the order in which they were due."""

    def __init__(self, frame: pl.DataFrame) -> None:
        for name, kind in SCHEMA.items():
            if name not in frame.columns:
                raise SamplesRefused(f"has no column {name!r}")
            if frame[name].dtype != kind or frame[name].null_count():
                raise SamplesRefused(
                    f"column {name!r} is {frame[name].dtype} with {frame[name].null_count()} nulls, "
                    f"allowed: {kind.__name__} without"
                )
        self.frame = frame.sort("due_ns", maintain_order=True)

    def __len__(self) -> int:
        return len(self.frame)

    def numbers(self, name: str) -> NDArray[np.int64]:
        """A column of numbers, `[n]`."""
        return self.frame[name].cast(pl.Int64).to_numpy()

    def texts(self, name: str) -> list[str]:
        """A column of texts, `[n]`."""
        found: list[str] = self.frame[name].to_list()
        return found

    @property
    def attributes(self) -> tuple[str, ...]:
        """Those that callers have groups of."""
        return tuple(
            name.removeprefix(GROUP) for name in self.frame.columns if name.startswith(GROUP)
        )

    def groups(self, attribute: str) -> NDArray[np.str_]:
        """Each caller's group, `[n]`; "" where it is not known."""
        return np.array(self.frame[f"{GROUP}{attribute}"].fill_null("").to_list(), np.str_)

    def with_groups(self, groups: Sequence[Mapping[str, str]]) -> Samples:
        """The same with the groups of the request file's lines."""
        attributes = sorted({attribute for line in groups for attribute in line})
        requests = self.numbers("request")
        columns = []
        for attribute in attributes:
            known = np.array([line.get(attribute, "") for line in groups] + [""], np.str_)
            # Nobody, -1, is the last.
            columns.append(pl.Series(f"{GROUP}{attribute}", known[requests].tolist(), pl.String))
        return Samples(self.frame.with_columns(columns))

    def exposure(self) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Group table -> group of items -> `[n]`; see the columns."""
        found: dict[str, dict[str, NDArray[np.float64]]] = {}
        for name in self.frame.columns:
            if name.startswith(EXPOSURE):
                _, table, group = name.split("/", 2)
                found.setdefault(table, {})[group] = self.frame[name].to_numpy()
        return found

    def with_exposure(self, exposure: Mapping[int, Mapping[str, Mapping[str, float]]]) -> Samples:
        """The same with what each request's list would give: place in the request file -> table -> group."""
        tables = sorted({(t, g) for one in exposure.values() for t in one for g in one[t]})
        requests = self.numbers("request")
        columns = []
        for table, group in tables:
            # Nobody, -1, is the last.
            given = np.full(max([*exposure, *requests.tolist()]) + 2, np.nan)
            for place, one in exposure.items():
                if table in one:
                    given[place] = one[table].get(group, 0.0)
            columns.append(pl.Series(f"{EXPOSURE}{table}/{group}", given[requests], pl.Float64))
        return Samples(self.frame.with_columns(columns))

    def succeeded(self) -> NDArray[np.bool_]:
        """`[n] bool`: the answer came, and it was right."""
        return (self.frame["outcome"] == OK).to_numpy()

    def refused(self) -> NDArray[np.bool_]:
        """`[n] bool`: turned away for want of room."""
        return self.frame["outcome"].is_in(REFUSED).to_numpy()

    def latencies_ms(self) -> NDArray[np.float64]:
        """From when it was due, `[n] float64`, +inf for a failure."""
        return self._since("due_ns")

    def service_ms(self) -> NDArray[np.float64]:
        """From when it was sent, as a closed loop sees it, `[n] float64`, +inf for a failure."""
        return self._since("sent_ns")

    def _since(self, name: str) -> NDArray[np.float64]:
        taken = (self.numbers("ended_ns") - self.numbers(name)) / 1e6
        return np.where(self.succeeded(), taken, np.inf)

    def by_outcome(self) -> dict[str, int]:
        """How many requests had each outcome, the most first."""
        return self._counts("outcome")

    def _counts(self, name: str) -> dict[str, int]:
        counts = self.frame[name].value_counts().sort(["count", name], descending=[True, False])
        return dict(counts.iter_rows())

    def to_bytes(self) -> bytes:
        """The content of the Parquet file."""
        buffer = io.BytesIO()
        self.frame.write_parquet(buffer, compression="zstd")
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
        """What was collected so far."""
        columns = (
            dict(zip(SCHEMA, zip(*self._rows, strict=True), strict=True)) if self._rows else {}
        )
        return Samples(pl.DataFrame(columns, schema=SCHEMA))


def merged(parts: Sequence[Samples]) -> Samples:
    """The samples of several processes as one."""
    return Samples(pl.concat([part.frame for part in parts]))


def read_samples(path: Path) -> Samples:
    """Read a file of samples.

    Raises:
        SamplesRefused: not such a file.
    """
    try:
        frame = pl.read_parquet(path.read_bytes())
    except (OSError, pl.exceptions.PolarsError, ValueError) as error:
        raise SamplesRefused(f"is not a file of samples: {error}") from error
    return Samples(frame)
