"""Kernels start and work wherever their compiled code can or cannot be kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOURCE = """
from server.jit import kernel

@kernel
def total(values):
    found = 0
    for value in values:
        found += value
    return found
"""
ONE = """
from server.jit import kernel

@kernel
def one():
    return {value}
"""
CALLS_ONE = SOURCE.replace("import kernel", "import kernel\nfrom one import one").replace(
    "return found", "return found + one() - 1"
)
START = """
import json, resource, sys
import numpy as np
if "full" in sys.argv:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # every write fails, as on a full disk
import sums
print(json.dumps({
    "total": int(sums.total(np.arange(5))),
    "folder": str(sums.total.stats.cache_path),
    "hits": sum(sums.total.stats.cache_hits.values()),
}))
"""
ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "/dev/null/nowhere"  # below a file: no user, not even root, can make it


class Machine:
    """A package with one kernel, and processes that start on it."""

    def __init__(self, root: Path) -> None:
        self.package, self.temporary = root / "package", root / "temporary"
        self.package.mkdir()
        self.temporary.mkdir()
        (self.package / "sums.py").write_text(SOURCE)

    def forbid_package(self) -> None:
        """Nobody can keep anything beside the source: a file is where the folder would be."""
        (self.package / "__pycache__").write_text("")

    def start(
        self, *arguments: str, home: str = NOWHERE, total: int = 10, **environment: str
    ) -> dict[str, object]:
        known = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        run = subprocess.run(
            [sys.executable, "-B", "-c", START, *arguments],
            env={
                **known,
                "PYTHONPATH": f"{self.package}{os.pathsep}{ROOT}",
                "HOME": home,
                "XDG_CACHE_HOME": home,
                "TMPDIR": str(self.temporary),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        told: dict[str, object] = json.loads(run.stdout)
        assert told["total"] == total
        return told

    def kept(self, ending: str) -> list[Path]:
        return sorted(self.temporary.rglob(f"*{ending}"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_compiled_code_is_kept_beside_the_source_where_it_may_be(machine: Machine) -> None:
    assert machine.start()["folder"] == str(machine.package / "__pycache__")
    assert machine.start()["hits"] == 1


def test_where_neither_package_nor_home_is_writable_a_private_folder_keeps_it(
    machine: Machine,
) -> None:
    machine.forbid_package()
    folder = Path(str(machine.start()["folder"]))
    private = machine.temporary / f"equipoise-kernels-{os.getuid()}"
    assert private in (folder, *folder.parents)
    assert private.stat().st_mode & 0o777 == 0o700
    assert machine.start()["hits"] == 1


def test_an_unwritable_cache_setting_does_not_stop_the_start(machine: Machine) -> None:
    machine.forbid_package()
    machine.start(NUMBA_CACHE_DIR=NOWHERE)
    assert machine.start(NUMBA_CACHE_DIR=NOWHERE)["hits"] == 1


def test_a_folder_that_others_can_write_is_not_trusted(machine: Machine) -> None:
    machine.forbid_package()
    trap = machine.temporary / f"equipoise-kernels-{os.getuid()}"
    trap.mkdir()
    trap.chmod(0o777)
    assert machine.start()["hits"] == 0
    assert list(trap.iterdir()) == []


def test_a_full_disk_costs_a_compilation_and_no_start(machine: Machine) -> None:
    machine.forbid_package()
    machine.start("full")
    assert machine.start()["hits"] == 0
    assert machine.start()["hits"] == 1


def test_code_is_old_where_a_kernel_that_it_calls_in_another_file_has_changed(
    machine: Machine,
) -> None:
    (machine.package / "one.py").write_text(ONE.format(value=1))
    (machine.package / "sums.py").write_text(CALLS_ONE)
    machine.start()
    assert machine.start()["hits"] == 1
    (machine.package / "one.py").write_text(ONE.format(value=11))
    assert machine.start(total=20)["hits"] == 0
    assert machine.start(total=20)["hits"] == 1


@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_truncated_cache_file_is_made_anew(machine: Machine, ending: str) -> None:
    machine.forbid_package()
    machine.start()
    for path in machine.kept(ending):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    assert machine.start()["hits"] == 0
    assert machine.start()["hits"] == 1
