"""`mutants`: faults planted one at a time in the fair stage, to see whether its tests notice.

Cosmic Ray's operators make the mutants; each is tried in a copy of the sources, one copy a core,
with the kernels as plain Python (NUMBA_DISABLE_JIT), until the first test fails. What is tried with
what is `[tool.equipoise-mutants]` of pyproject.toml. A mutant that changes nothing which can be seen
is told in equivalent.toml, with the reason.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.fairness.compiled import CORES, in_threads
from bench.fairness.lines import Progress
from bench.whole import write_whole
from server.errors import EquipoiseError

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
COPIED = ("server", "training", "tests", "bench", "proto", "pyproject.toml")
# A mutant that loops for ever is as dead as one that fails a test.
LIMIT_S = 60
GOAL = 0.95


class MutantsFailed(EquipoiseError):
    """The tests fail without a mutant, or do not notice a module that raises."""


@dataclass(frozen=True)
class Settings:
    """modules: to plant faults in. tests: that should notice. leave_out: operators, as patterns."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    leave_out: tuple[str, ...]

    @classmethod
    def read(cls, path: Path = ROOT / "pyproject.toml") -> Settings:
        """From the project's own settings."""
        own = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["equipoise-mutants"]
        return cls(tuple(own["modules"]), tuple(own["tests"]), tuple(own["leave-out"]))


@dataclass(frozen=True)
class Mutant:
    """One fault: the line before and after it, and where."""

    module: str
    operator: str
    occurrence: int
    line: int
    was: str
    becomes: str


@dataclass(frozen=True)
class Fate:
    """How a mutant fared: killed, survived or equivalent."""

    mutant: Mutant
    fate: str


def _changed(source: str, mutated: str) -> tuple[int, str, str]:
    """(line from 1, its text, the mutant's), several lines joined."""
    old, new = source.splitlines(), mutated.splitlines()
    for tag, i, k, j, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            was = " ".join(line.strip() for line in old[i:k])
            return i + 1, was, " ".join(line.strip() for line in new[j:m])
    return 0, "", ""


def mutants_of(module: str, settings: Settings) -> Iterator[tuple[Mutant, str]]:
    """Every mutant of a module that Cosmic Ray makes, with its source."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / module).read_text(encoding="utf-8")
    for name in sorted(operator_names()):
        if any(re.search(pattern, name) for pattern in settings.leave_out):
            continue
        kind = get_operator(name)
        # Operators that want arguments are for what a project names itself.
        if kind.arguments():
            continue
        occurrence = 0
        while (mutated := mutate_code(source, kind(), occurrence)) is not None:
            line, was, becomes = _changed(source, mutated)
            # Types are strings that nobody reads.
            if was and not was.startswith(("def ", ") -> ", "tie_break: ")):
                yield Mutant(module, name, occurrence, line, was, becomes), mutated
            occurrence += 1


class Workplaces:
    """Copies of the sources, one a core, in which the tests run."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._settings = settings
        self._free: queue.Queue[Path] = queue.Queue()
        for core in range(CORES):
            place = folder / f"copy-{core}"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            for name in COPIED:
                source = ROOT / name
                if source.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(source, place / name, ignore=ignored)
                else:
                    shutil.copy(source, place / name)
            self._free.put(place)

    def passes(self, module: str, source: str) -> bool:
        """Whether every test passes with this source in the module's place."""
        place = self._free.get()
        path = place / module
        original = path.read_text(encoding="utf-8")
        path.write_text(source, encoding="utf-8")
        try:
            return self._run(place).returncode == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            path.write_text(original, encoding="utf-8")
            self._free.put(place)

    def _run(self, place: Path) -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "NUMBA_DISABLE_JIT": "1",
            # A stale .pyc would hide the next mutant of the same second.
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([str(place), str(place / "proto")]),
        }
        command = [
            sys.executable, "-m", "pytest", "-x", "--hypothesis-profile", "mutants",
            "-p", "no:cacheprovider", *self._settings.tests,
        ]  # fmt: skip
        return subprocess.run(
            command, cwd=place, env=environment, capture_output=True, timeout=LIMIT_S, check=False
        )


def known_equivalent(path: Path = EQUIVALENT) -> dict[tuple[str, str, str], str]:
    """(module, line before, line after) of mutants that change nothing -> the reason."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("mutant", [])
    return {(one["module"], one["was"], one["becomes"]): one["reason"] for one in entries}


def _state(settings: Settings) -> str:
    """What decides a mutant's fate: the modules and the tests."""
    read = hashlib.sha256(repr(settings).encode())
    for folder in ("server/fairness", "tests/server/fairness", "tests/strategies"):
        for path in sorted((ROOT / folder).glob("*.py")):
            read.update(path.read_bytes())
    return read.hexdigest()


def _kept(path: Path, state: str) -> dict[str, str]:
    """Fates of an earlier run that was interrupted, by mutant."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    fates: dict[str, str] = kept["fates"] if kept.get("state") == state else {}
    return fates


def hunt(
    settings: Settings, folder: Path, modules: Sequence[str], progress: Progress
) -> list[Fate]:
    """Try every mutant of the modules; goes on where it was interrupted.

    Raises:
        MutantsFailed: the tests fail without a mutant, or pass with a module that raises.
    """
    places, equivalent = Workplaces(folder, settings), known_equivalent()
    first = modules[0]
    source = (ROOT / first).read_text(encoding="utf-8")
    if not places.passes(first, source):
        raise MutantsFailed("the tests fail without a mutant: see `tool.equipoise-mutants`")
    if places.passes(first, "raise RuntimeError\n"):
        raise MutantsFailed(f"the tests pass although {first} raises: they read another copy")
    every = [made for module in modules for made in mutants_of(module, settings)]
    path, state = folder / "fates.json", _state(settings)
    known = _kept(path, state)

    def try_one(mutant: Mutant, mutated: str) -> tuple[Mutant, str]:
        key = (mutant.module, mutant.was, mutant.becomes)
        if key in equivalent:
            return mutant, "equivalent"
        return mutant, "survived" if places.passes(mutant.module, mutated) else "killed"

    jobs = [(mutant, mutated) for mutant, mutated in every if repr(mutant) not in known]
    for mutant, fate in in_threads(try_one, jobs):
        known[repr(mutant)] = fate
        write_whole(path, json.dumps({"state": state, "fates": known}) + "\n")
        progress(len(known) / len(every))
    # Reasons may have been added since.
    return [
        Fate(mutant, "equivalent" if (mutant.module, mutant.was, mutant.becomes) in equivalent
             else known[repr(mutant)])
        for mutant, _ in every
    ]  # fmt: skip


def scored(fates: Sequence[Fate]) -> Mapping[str, Any]:
    """Counts by module and in all, and the survivors."""
    parts: dict[str, dict[str, int]] = {}
    for fate in fates:
        counts = parts.setdefault(fate.mutant.module, {"killed": 0, "survived": 0, "equivalent": 0})
        counts[fate.fate] += 1
    killed = sum(counts["killed"] for counts in parts.values())
    survived = sum(counts["survived"] for counts in parts.values())
    return {
        "kind": "fairness_mutants",
        "schema_version": 1,
        "score": killed / max(killed + survived, 1),
        "goal": GOAL,
        "modules": parts,
        "survivors": [asdict(fate.mutant) for fate in fates if fate.fate == "survived"],
    }
