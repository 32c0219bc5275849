"""`make demo` to its end, with a small model: what the README promises first."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[1]


def test_the_demo_runs_to_its_verdict_and_leaves_its_page(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "bench.demo", "--quick", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    verdict = json.loads((out / "verdict.json").read_text())
    assert f"the release: {verdict['status']}" in done.stdout
    # Beside other work the load may be void, and its lines undecided; nothing may be broken.
    failed = {line["metric"] for line in verdict["lines"] if line["status"] == "fail"}
    assert not failed - {"load.latency_ms.p99"}
    for line in verdict["lines"]:
        assert f"{line['metric']}: " in done.stdout
    assert re.search(r"[\d,]+ requests by locust, 80 a second, .*0 failed or wrong", done.stdout)
    assert "in the next list it is at place" in done.stdout
    page = (out / "index.html").read_text()
    load = json.loads((out / "load/load.json").read_text())
    assert f"{load['requests']:,} requests by locust" in page
    assert page.count("data:image/png;base64,") >= 5
    assert verdict["bundle_id"] in page
