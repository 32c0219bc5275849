"""MLPerf's own loadgen as oracle of the percentile's upper end: what it says of n real queries."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.gate.intervals import percentile_limits

pytestmark = pytest.mark.slow

# A process of its own: loadgen keeps threads and logs that outlive a test.
RUN = """
import os, sys
import mlperf_loadgen as loadgen

settings = loadgen.TestSettings()
settings.scenario = loadgen.TestScenario.SingleStream
settings.mode = loadgen.TestMode.PerformanceOnly
settings.min_query_count = settings.max_query_count = int(sys.argv[2])
settings.min_duration_ms = 0
settings.single_stream_expected_latency_ns = 100_000

def answer(queries):
    loadgen.QuerySamplesComplete(
        [loadgen.QuerySampleResponse(query.id, 0, 0) for query in queries])

server = loadgen.ConstructSUT(answer, lambda: None)
library = loadgen.ConstructQSL(8, 8, lambda _: None, lambda _: None)
output = loadgen.LogOutputSettings()
output.outdir = sys.argv[1]
output.copy_summary_to_stdout = False
log = loadgen.LogSettings()
log.log_output = output
log.enable_trace = False
loadgen.StartTestWithLogSettings(server, library, settings, log)
os._exit(0)
"""


def told_by_loadgen(folder: Path, n: int) -> str:
    folder.mkdir()
    subprocess.run([sys.executable, "-c", RUN, str(folder), str(n)], check=True, timeout=60)
    summary = (folder / "mlperf_log_summary.txt").read_text()
    return re.sub(r"\s+", " ", summary)


@pytest.mark.parametrize("n", [65, 100, 197, 500, 1246, 5000])
def test_loadgen_discards_one_query_less_than_the_exact_limit_does(n: int, tmp_path: Path) -> None:
    """Its estimate is the order statistic one rank above the exact one, at P <= .01."""
    told = told_by_loadgen(tmp_path / "log", n)
    found = re.search(r"Would discard (\d+) highest latency queries", told)
    assert found is not None, told
    rank = n - int(found[1])
    _, high = percentile_limits(np.arange(1.0, n + 1), 0.9, 0.01, 0.01)
    assert high == rank - 1


def test_loadgen_asks_for_as_many_queries_as_the_rule_does(tmp_path: Path) -> None:
    told = told_by_loadgen(tmp_path / "log", 100)
    found = re.search(
        r"99.0th percentile early stopping estimate \(would need .*? least (\d+)", told
    )
    assert found is not None, told
    least = int(found[1])
    # One rank below what it would then tell, for the first n at which it tells anything.
    for n, ranks in ((least - 1, 0), (least, 1)):
        _, high = percentile_limits(np.arange(1.0, n + 1), 0.99, 0.01, 0.01)
        assert n - high == ranks
