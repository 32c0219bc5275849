"""`mutants`: faults planted one at a time in the fair stage, to see whether its tests notice.

Cosmic Ray's operators make the mutants; each is tried in a copy of the sources, one copy a core,
with the kernels as plain Python (NUMBA_DISABLE_JIT), until the first test fails. What is tried with
what is `[tool.equipoise-mutants]` of pyproject.toml. A mutant that changes nothing which can be seen
is told in equivalent.toml, with the reason.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import itertools
import json
import os
import pickle
import queue
import re
import shutil
import subprocess
import sys
import time
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
COPIED = ("server", "training", "tests", "bench", "proto", "docs", "pyproject.toml")
# On the CPU, three times what all tests take. A mutant that loops for ever is as dead as one that
# fails a test.
LIMIT_S = 40
GOAL = 0.95


class MutantsFailed(EquipoiseError):
    """The tests fail without a mutant, or do not notice a module that raises."""


@dataclass(frozen=True)
class Settings:
    """modules: to plant faults in. tests: that should notice. leave_out: operators, as patterns.

    first: of a module, the tests that notice most (paths), which are run alone before all others.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    leave_out: tuple[str, ...]
    first: Mapping[str, str]

    @classmethod
    def read(cls, path: Path = ROOT / "pyproject.toml") -> Settings:
        """From the project's own settings."""
        own = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["equipoise-mutants"]
        return cls(
            tuple(own["modules"]), tuple(own["tests"]), tuple(own["leave-out"]), own["first"]
        )


@dataclass(frozen=True)
class Mutant:
    """One fault: the line before and after it, and where; function: the one it is in, if any."""

    module: str
    operator: str
    occurrence: int
    line: int
    was: str
    becomes: str
    function: str = ""


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


def _function_at(source: str, line: int) -> str:
    """The innermost function around a line."""
    around = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return max(around, key=lambda node: node.lineno).name if around else ""


def mutants_of(module: str, settings: Settings) -> Iterator[tuple[Mutant, str]]:
    """Every mutant of a module that Cosmic Ray makes, with its source."""
    from cosmic_ray.ast import get_ast
    from cosmic_ray.mutating import MutationVisitor
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / module).read_text(encoding="utf-8")
    # A mutation changes the tree. Loading a copy takes a ninth of parsing the source again.
    tree = pickle.dumps(get_ast(source))
    for name in sorted(operator_names()):
        if any(re.search(pattern, name) for pattern in settings.leave_out):
            continue
        kind = get_operator(name)
        # Operators that want arguments are for what a project names itself.
        if kind.arguments():
            continue
        for occurrence in itertools.count():
            visitor = MutationVisitor(occurrence, kind())
            mutated = visitor.walk(pickle.loads(tree)).get_code()  # noqa: S301
            if not visitor.mutation_applied:
                break
            line, was, becomes = _changed(source, mutated)
            # Types are strings that nobody reads.
            if was and not was.startswith(("def ", ") -> ", "tie_break: ")):
                function = _function_at(source, line)
                yield Mutant(module, name, occurrence, line, was, becomes, function), mutated


class Workplace:
    """A copy of the sources, and a process that runs the tests on it."""

    def __init__(self, place: Path, settings: Settings) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, place / name, ignore=ignored)
            else:
                shutil.copy(source, place / name)
        self._place, self._first = place, settings.first
        self._second = int(time.time())
        environment = {
            **os.environ,
            "NUMBA_DISABLE_JIT": "1",
            "PYTHONPATH": os.pathsep.join([str(place), str(place / "proto")]),
        }
        command = [
            sys.executable, "-m", "bench.fairness.forked", str(LIMIT_S), "-x",
            "--hypothesis-profile", "mutants", "-p", "no:cacheprovider", *settings.tests,
        ]  # fmt: skip
        self._forks = subprocess.Popen(
            command, cwd=place, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def passes(self, module: str, source: str) -> bool:
        """Whether every test passes with this source in the module's place."""
        assert self._forks.stdin is not None
        assert self._forks.stdout is not None
        original = (self._place / module).read_text(encoding="utf-8")
        self._write(module, source)
        try:
            self._forks.stdin.write(self._first.get(module, "") + "\n")
            self._forks.stdin.flush()
            return self._forks.stdout.readline().strip() == "0"
        finally:
            self._write(module, original)

    def _write(self, module: str, source: str) -> None:
        path = self._place / module
        path.write_text(source, encoding="utf-8")
        # Python takes compiled code for fresh by the second of its source: each has its own.
        self._second += 1
        os.utime(path, (self._second, self._second))

    def close(self) -> None:
        """End its process; a fork that still runs ends at its limit."""
        self._forks.kill()
        self._forks.wait()


class Workplaces:
    """A workplace for each core, closed on leaving."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._all = [Workplace(folder / f"copy-{n}", settings) for n in range(CORES)]
        self._free: queue.Queue[Workplace] = queue.Queue()

    def __enter__(self) -> Workplaces:
        for place in self._all:
            self._free.put(place)
        return self

    def __exit__(self, *_: object) -> None:
        for place in self._all:
            place.close()

    def passes(self, module: str, source: str) -> bool:
        """As `Workplace.passes`, in one that is free."""
        place = self._free.get()
        try:
            return place.passes(module, source)
        finally:
            self._free.put(place)


@dataclass(frozen=True)
class Equivalents:
    """Why mutants change nothing. lines: by (module, line before, after); patterns: of any after;
    functions: by (module, function), of all in it; tried: but for those whose line before is of
    this pattern.
    left: why others, which do change something, were left alone; they count as survivors.
    """

    lines: Mapping[tuple[str, str, str], str]
    patterns: Mapping[str, str]
    functions: Mapping[tuple[str, str], str]
    tried: Mapping[tuple[str, str], str]
    left: Mapping[tuple[str, str, str], str]

    @classmethod
    def read(cls, path: Path = EQUIVALENT) -> Equivalents:
        """From the file of reasons."""
        known = tomllib.loads(path.read_text(encoding="utf-8"))
        functions = {(one["module"], one["name"]): one for one in known.get("function", [])}
        return cls(
            {(m["module"], m["was"], m["becomes"]): m["reason"] for m in known.get("mutant", [])},
            {one["becomes"]: one["reason"] for one in known.get("pattern", [])},
            {place: one["reason"] for place, one in functions.items()},
            {place: one["tried"] for place, one in functions.items() if "tried" in one},
            {(m["module"], m["was"], m["becomes"]): m["reason"] for m in known.get("left", [])},
        )

    def reason(self, mutant: Mutant) -> str | None:
        """Why this one changes nothing; None: it may change something."""
        place = (mutant.module, mutant.function)
        tried = place in self.tried and re.search(self.tried[place], mutant.was)
        own = None if tried else self.functions.get(place)
        own = own or self.lines.get((mutant.module, mutant.was, mutant.becomes))
        found = (why for form, why in self.patterns.items() if re.search(form, mutant.becomes))
        return own or next(found, None)

    def why_left(self, module: str, was: str, becomes: str) -> str:
        """Why one survived a run: nobody relies on it, or it turned out to change nothing."""
        own = self.left.get((module, was, becomes)) or self.lines.get((module, was, becomes))
        found = (why for form, why in self.patterns.items() if re.search(form, becomes))
        return own or next(found, "")


def _state(settings: Settings) -> str:
    """What decides a mutant's fate: the modules and the tests."""
    read = hashlib.sha256(repr(settings).encode())
    for folder in ("server/fairness", "tests/server/fairness", "tests/strategies"):
        for path in sorted((ROOT / folder).glob("*.py")):
            read.update(path.read_bytes())
    return read.hexdigest()


def _kept(path: Path, state: str) -> tuple[dict[str, str], float]:
    """(fates by mutant, seconds) of an earlier run that was interrupted."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}, 0.0
    same = kept.get("state") == state
    return (kept["fates"], kept.get("seconds", 0.0)) if same else ({}, 0.0)


def hunt(
    settings: Settings, folder: Path, modules: Sequence[str], progress: Progress
) -> tuple[list[Fate], float]:
    """Try every mutant of the modules; goes on where it was interrupted. (fates, seconds in all).

    Raises:
        MutantsFailed: the tests fail without a mutant, or pass with a module that raises.
    """
    equivalents, path, state = Equivalents.read(), folder / "fates.json", _state(settings)
    known, before_s = _kept(path, state)
    started = time.monotonic()
    every = [
        (mutant, mutated, equivalents.reason(mutant))
        for module in modules
        for mutant, mutated in mutants_of(module, settings)
    ]
    with Workplaces(folder, settings) as places:
        _check(places, modules[0])

        def try_one(mutant: Mutant, mutated: str) -> tuple[Mutant, str]:
            return mutant, "survived" if places.passes(mutant.module, mutated) else "killed"

        jobs = [(m, text) for m, text, why in every if why is None and repr(m) not in known]
        for done, (mutant, fate) in enumerate(in_threads(try_one, jobs), start=1):
            known[repr(mutant)] = fate
            seconds = before_s + time.monotonic() - started
            kept = {"state": state, "seconds": seconds, "fates": known}
            write_whole(path, json.dumps(kept) + "\n")
            progress(done / len(jobs))
    fates = [
        Fate(mutant, known[repr(mutant)] if why is None else "equivalent")
        for mutant, _, why in every
    ]
    return fates, before_s + time.monotonic() - started


def _check(places: Workplaces, module: str) -> None:
    source = (ROOT / module).read_text(encoding="utf-8")
    if not places.passes(module, source):
        raise MutantsFailed("the tests fail without a mutant: see `tool.equipoise-mutants`")
    if places.passes(module, "raise RuntimeError\n"):
        raise MutantsFailed(f"the tests pass although {module} raises: they read another copy")


def scored(fates: Sequence[Fate], seconds: float) -> Mapping[str, Any]:
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
        "seconds": round(seconds, 1),
        "score": killed / max(killed + survived, 1),
        "goal": GOAL,
        "modules": parts,
        "survivors": [asdict(fate.mutant) for fate in fates if fate.fate == "survived"],
    }
