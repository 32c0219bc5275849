"""Counts of workers: one sum, whatever a worker is doing just then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.supervisor import counts
from server.supervisor.counts import Sums, forget_present

COUNT = """
import sys
from pathlib import Path
from server.supervisor.counts import count_in_files
count_in_files(Path(sys.argv[1]), int(sys.argv[2]))
from prometheus_client import Counter, Gauge
Counter("lists", "Lists").inc(float(sys.argv[3]))
Gauge("depth", "Depth", multiprocess_mode="livesum").set(float(sys.argv[3]))
"""


def work(folder: Path, slot: int, amount: float) -> None:
    """A worker that counts so much, and ends."""
    command = [sys.executable, "-c", COUNT, str(folder), str(slot), str(amount)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, check=True)


def shown(folder: Path) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(Sums(folder))
    return {sample.name: sample.value for metric in registry.collect() for sample in metric.samples}


@pytest.mark.slow
def test_a_replacement_goes_on_with_the_counts_of_its_slot(tmp_path: Path) -> None:
    for slot, amount in ((0, 3.0), (1, 4.0), (0, 5.0)):
        work(tmp_path, slot, amount)
    assert shown(tmp_path) == {"lists_total": 12.0, "depth": 9.0}
    files = sorted(path.name for path in tmp_path.iterdir())
    forget_present(tmp_path, 1)
    assert shown(tmp_path) == {"lists_total": 12.0, "depth": 5.0}
    assert files == ["counter_0.db", "counter_1.db", "gauge_livesum_0.db", "gauge_livesum_1.db"]


@pytest.mark.slow
def test_a_scrape_waits_for_a_file_that_a_worker_is_just_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(tmp_path, 0, 3.0)
    whole = (tmp_path / "counter_0.db").read_bytes()
    (tmp_path / "counter_1.db").touch()
    waited = []

    def meanwhile(seconds: float) -> None:
        waited.append(seconds)
        (tmp_path / "counter_1.db").write_bytes(whole)

    monkeypatch.setattr(counts.time, "sleep", meanwhile)
    assert shown(tmp_path)["lists_total"] == 6.0
    assert len(waited) == 1


FULL = """
import resource, sys
from pathlib import Path
from server.supervisor.counts import count_in_files
room = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
count_in_files(Path(sys.argv[1]), 0)
from prometheus_client import Counter, Gauge
lists = Counter("lists", "Lists", ["surface"])
for surface in range(2000):
    lists.labels(f"a surface with a long name, so that the file is soon full: {surface}").inc(1.0)
lists.labels("a surface with a long name, so that the file is soon full: 0").inc(1.0)
Gauge("depth", "Depth", multiprocess_mode="livesum").set(3.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("room", "some"), [(1000, False), (1 << 16, True)])
def test_what_the_disk_has_no_room_for_is_lost_and_told_once(
    tmp_path: Path, room: int, some: bool
) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path), str(room)]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert (done.stdout + done.stderr).count("TMPDIR has no room") == 1
    registry = CollectorRegistry()
    registry.register(Sums(tmp_path))
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    counted = [sample.value for sample in samples if sample.name == "lists_total"]
    if some:
        # What had its place goes on, and other files are not concerned.
        assert sorted(set(counted)) == [1.0, 2.0]
        assert len(counted) < 2000
        assert [sample.value for sample in samples if sample.name == "depth"] == [3.0]
    else:
        assert samples == []
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_files_of_counts_have_no_holes(tmp_path: Path) -> None:
    work(tmp_path, 0, 3.0)
    for path in tmp_path.iterdir():
        assert path.stat().st_blocks * 512 >= path.stat().st_size
