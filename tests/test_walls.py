"""The walls between the parts hold, and serving loads nothing that only training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Not scipy: numba loads it by itself where it is installed.
FOREIGN = ("torch", "onnx", "onnxscript", "polars", "pandera", "locust", "hypothesis",
           "matplotlib", "training", "bench")  # fmt: skip


def test_the_import_contracts_are_kept() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_serving_process_loads_no_torch_onnx_locust_or_hypothesis() -> None:
    code = (
        "import sys, server.service.app, server.commands.serve, server.commands.recommend\n"
        f"print([name for name in {FOREIGN!r} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_no_test_or_proto_folder_is_a_package() -> None:
    inits = list((ROOT / "tests").rglob("__init__.py"))
    assert [*inits, *(p for p in [ROOT / "proto" / "__init__.py"] if p.exists())] == []


def test_top_level_help_imports_no_heavy_package() -> None:
    code = (
        "import sys\nfrom server.cli import command\n"
        "try:\n    command(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        f"print([n for n in {(*FOREIGN[:8], 'numba', 'onnxruntime', 'grpc')!r} if n in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"
    for name in (
        "serve",
        "recommend",
        "events",
        "bundle",
        "train",
        "evaluate",
        "audit",
        "load",
        "gate",
    ):
        assert f"\n  {name} " in run.stdout
