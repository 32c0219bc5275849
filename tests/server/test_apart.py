"""A bundle is checked in another process: whatever it does there is a refusal here."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest

from server import apart
from server.bundle import load_bundle
from server.commands import check_apart as child
from server.errors import BundleRefused
from strategies.bundles import reseal, tiny_bundle
from strategies.hostile import endless, greedy
from strategies.workers import until

pytestmark = pytest.mark.slow


def checked(bundle: Path, **options: Any) -> str:
    return asyncio.run(apart.check_apart(bundle, **options))


def test_a_good_bundle_tells_its_id(bundle_path: Path) -> None:
    bundle_id = load_bundle(bundle_path).manifest.bundle_id
    assert checked(bundle_path) == bundle_id
    asyncio.run(apart.check_release(bundle_path, bundle_id, 200))
    with pytest.raises(BundleRefused, match=f"holds {bundle_id}, not another"):
        asyncio.run(apart.check_release(bundle_path, "another", 200))


def test_a_damaged_one_tells_the_file_and_why(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "b")
    (tmp_path / "b" / "items.json").write_text("x")
    with pytest.raises(BundleRefused, match=r"items\.json: 1 bytes, the manifest says") as refused:
        checked(tmp_path / "b")
    assert refused.value.file == "items.json"
    with pytest.raises(BundleRefused, match="does not exist"):
        checked(tmp_path / "none")


@pytest.mark.parametrize(
    ("model", "told", "timeout_s"),
    [(greedy, r"model\.onnx|memory", 100), (endless, "took longer than 8 s and was stopped", 8)],
)
def test_a_hostile_model_harms_nobody(
    model: Any, told: str, timeout_s: int, tmp_path: Path, bundle_path: Path
) -> None:
    """A real model in a bundle with the right digests: only running it tells."""
    onnx.checker.check_model(model())
    folder = Path(shutil.copytree(bundle_path, tmp_path / "b"))
    reseal(folder, {"model.onnx": model()})
    before = children()
    with pytest.raises(BundleRefused, match=told):
        checked(folder, timeout_s=timeout_s)
    assert children() == before


def children() -> set[int]:
    """The processes of this one, servers of other tests among them."""
    return {child.pid for child in psutil.Process().children()}


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run other code in the place of the check."""
    monkeypatch.setattr(apart, "_command", lambda *_: [sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", "was ended by SIGSEGV"),
        ("import sys; print('out of memory', file=sys.stderr); sys.exit(1)", "out of memory"),
        ("print('no json')", "its check failed"),
        ("print('[]')", "its check failed"),
        ("import sys; print('{}'); sys.exit(2)", "its check failed"),
        ("import sys; sys.stderr.write('x' * 10_000_000); sys.exit(1)", "its check failed: x"),
    ],
)
def test_a_check_that_crashes_is_a_refusal(
    bundle_path: Path, code: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, code)
    with pytest.raises(BundleRefused, match=told) as refused:
        checked(bundle_path)
    assert len(str(refused.value)) < 500


def test_a_check_that_is_cancelled_or_hangs_leaves_no_process(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(BundleRefused, match="took longer than 1 s and was stopped"):
        checked(bundle_path, timeout_s=1)

    before = children()

    async def cancelled() -> None:
        task = asyncio.create_task(apart.check_apart(bundle_path))
        while children() == before:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait((task,))

    asyncio.run(cancelled())
    assert children() == before


def test_a_check_whose_starter_is_gone_ends_by_itself(tmp_path: Path) -> None:
    """It sleeps, so that no limit on computing ends it."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom server.commands import check_apart\n"
        f"check_apart.limit(Path({str(tmp_path)!r}), 0.2)\ntime.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: process.poll() is not None)
    assert process.returncode == -signal.SIGALRM


def test_the_check_has_limits_and_gives_way_to_others(bundle_path: Path) -> None:
    """Run in a child, since the limits are for good."""
    code = (
        "import json, os, resource, sys\n"
        "from pathlib import Path\n"
        "from server.commands import check_apart\n"
        "check_apart.main()\n"
        "limits = [resource.getrlimit(one)[0] for one in "
        "(resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)]\n"
        "score = int(Path('/proc/self/oom_score_adj').read_text())\n"
        "print(json.dumps([*limits, os.nice(0), score]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle_path), "200", "100"],
        capture_output=True, text=True, check=True, env=dict(os.environ),
    )  # fmt: skip
    memory, *others = json.loads(done.stderr)
    assert others == [101, 0, min(19, os.nice(0) + child.NICE), 1000]
    assert child.MEMORY_BYTES < memory < 4 * child.MEMORY_BYTES
