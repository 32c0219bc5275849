"""A bundle is checked in another process: whatever it does there is a refusal here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.bundle import load_bundle
from server.engine import apart
from server.engine.apart import check_apart
from server.errors import BundleRefused
from strategies.bundles import tiny_bundle

pytestmark = pytest.mark.slow


def test_a_good_bundle_tells_its_id(bundle_path: Path) -> None:
    assert check_apart(bundle_path) == load_bundle(bundle_path).manifest.bundle_id


def test_a_damaged_one_tells_the_file_and_why(tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "b")
    (tmp_path / "b" / "items.json").write_text("x")
    with pytest.raises(BundleRefused, match=r"items\.json: 1 bytes, the manifest says") as refused:
        check_apart(tmp_path / "b")
    assert refused.value.file == "items.json"


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="does not exist"):
        check_apart(tmp_path / "none")


def instead(code: str) -> Callable[..., Any]:
    """`subprocess.run` of other code in the place of the check."""
    run = subprocess.run

    def other(command: list[str], **flags: Any) -> Any:
        return run([sys.executable, "-c", code], **flags)

    return other


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", "was ended by SIGSEGV"),
        ("import sys; print('out of memory', file=sys.stderr); sys.exit(1)", "out of memory"),
        ("print('no json')", "its check failed"),
        ("import sys; print('{}'); sys.exit(2)", "its check failed"),
    ],
)
def test_a_check_that_crashes_is_a_refusal(
    bundle_path: Path, code: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart.subprocess, "run", instead(code))
    with pytest.raises(BundleRefused, match=told):
        check_apart(bundle_path)


def test_a_check_that_hangs_is_stopped(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart.subprocess, "run", instead("import time; time.sleep(600)"))
    with pytest.raises(BundleRefused, match="took longer than 1 s and was stopped"):
        check_apart(bundle_path, timeout_s=1)


def test_the_check_has_limits_and_gives_way_to_others(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in a child, since the limits are for good."""
    code = (
        "import json, os, resource, sys\n"
        "from server.engine import apart\n"
        "apart._main()\n"
        "limits = [resource.getrlimit(one)[0] for one in "
        "(resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)]\n"
        "print(json.dumps([*limits, os.nice(0)]), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle_path), "200"],
        capture_output=True, text=True, check=True, env=dict(os.environ),
    )  # fmt: skip
    assert done.stderr.strip() == str(
        [apart.MEMORY_BYTES, apart.CPU_S, 0, min(19, os.nice(0) + apart.NICE)]
    )
