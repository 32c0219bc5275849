"""The release record: what was compared, and the verdict, so that it can be checked later.

Owns the form, its digest, and the check. A record names every file that the verdict rests on with its
SHA-256, the budgets' digest and the verdict itself; its own digest is over the canonical JSON of the rest
(RFC 8785). To check one: the digest must fit, the files must be the same, and the same verdict must come
of them, decided as of the record's day.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import rfc8785

from bench.gate.budgets import read_budgets
from bench.gate.report import as_json
from bench.gate.results import Result, read_results
from bench.gate.seal import read_seal
from bench.gate.verdict import Verdict, evaluate
from bench.refused import InputRefused

KIND = "release-record"
SCHEMA_VERSION = 1
BESIDE = ("samples", "per_user_file")
"""Keys of a result that name a file beside it."""


@dataclass(frozen=True)
class Inputs:
    """The files of a decision, and how it was asked for."""

    budgets: Path
    results: tuple[Path, ...]
    baseline: tuple[Path, ...] = ()
    last_release: Path | None = None
    seal: str | None = None
    bundle_id: str | None = None
    look: int = 1
    today: date = date.min

    @cached_property
    def read(self) -> list[Result]:
        """The results; read once, since samples are large."""
        return read_results(self.results)

    def verdict(self) -> Verdict:
        """Decide.

        Raises:
            InputRefused: a file is unreadable or makes no sense.
        """
        return evaluate(
            read_budgets(self.budgets),
            self.read,
            today=self.today,
            bundle_id=self.bundle_id,
            baseline=read_results(self.baseline) if self.baseline else (),
            look=self.look,
            seal=read_seal(self.seal) if self.seal else None,
            last_release=read_budgets(self.last_release) if self.last_release else None,
        )


def record_of(inputs: Inputs, verdict: Verdict, machine: Mapping[str, str | int], made_unix_ms: int) -> dict[str, Any]:  # fmt: skip
    """The record of a decision, with its digest."""
    body = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "made_unix_ms": made_unix_ms,
        "machine": dict(machine),
        "asked": {
            "budgets": _file(inputs.budgets),
            "results": [_file(path) for path in inputs.results],
            "baseline": [_file(path) for path in inputs.baseline],
            "last_release": None if inputs.last_release is None else _file(inputs.last_release),
            "seal": _seal(inputs.seal),
            "bundle_id": inputs.bundle_id,
            "look": inputs.look,
            "today": inputs.today.isoformat(),
        },
        "verdict": as_json(verdict),
    }
    return body | {"record_sha256": digest_of(body)}


def digest_of(body: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of all but the digest."""
    rest = {name: value for name, value in body.items() if name != "record_sha256"}
    return hashlib.sha256(rfc8785.dumps(rest)).hexdigest()


def _seal(seal: str | None) -> dict[str, Any] | str | None:
    """A digest as it is; a file as every other."""
    return seal if seal is None or not Path(seal).is_file() else _file(Path(seal))


def _file(path: Path) -> dict[str, Any]:
    """A file and those that it names beside it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputRefused(str(path), "", error.strerror or str(error)) from error
    beside = {}
    if path.suffix == ".json":
        document = json.loads(content)
        for key in BESIDE:
            name = document.get(key) if isinstance(document, dict) else None
            if isinstance(name, str) and (path.parent / name).is_file():
                beside[name] = hashlib.sha256((path.parent / name).read_bytes()).hexdigest()
    return {"path": str(path), "sha256": hashlib.sha256(content).hexdigest(), "beside": beside}


def read_record(path: Path) -> dict[str, Any]:
    """A record from its file.

    Raises:
        InputRefused: unreadable, or none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputRefused(str(path), "", error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise InputRefused(str(path), "", f"not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise InputRefused(str(path), "kind", f"allowed: {KIND!r}")
    if document.get("schema_version") != SCHEMA_VERSION:
        told = f"got {document.get('schema_version')!r}, allowed: {SCHEMA_VERSION}"
        raise InputRefused(str(path), "schema_version", told)
    return document


def checked(record: Mapping[str, Any], folder: Path) -> list[tuple[bool, str]]:
    """Each check, and whether it holds; relative paths are looked for in `folder`.

    The verdict is decided again only where every file is the one of then.
    """
    own = digest_of(record) == record.get("record_sha256")
    told = [
        (
            own,
            "the record is as it was written"
            if own
            else "the record was changed since it was written",
        )
    ]
    if not own:
        return told
    asked = record["asked"]
    files = [asked["budgets"], *asked["results"], *asked["baseline"]]
    files += [asked["last_release"]] if asked["last_release"] else []
    seal = asked["seal"]
    if isinstance(seal, dict):
        files.append(seal)
        seal = str(folder / seal["path"])
    for file in files:
        told += _same(file, folder)
    if not all(ok for ok, _ in told):
        return told
    inputs = Inputs(
        budgets=folder / asked["budgets"]["path"],
        results=tuple(folder / one["path"] for one in asked["results"]),
        baseline=tuple(folder / one["path"] for one in asked["baseline"]),
        last_release=None
        if asked["last_release"] is None
        else folder / asked["last_release"]["path"],
        seal=seal,
        bundle_id=asked["bundle_id"],
        look=asked["look"],
        today=date.fromisoformat(asked["today"]),
    )
    again = as_json(inputs.verdict())
    same = _plain(again) == _plain(record["verdict"])
    what = f"the same verdict comes of them: {again['status']}"
    return [*told, (same, what if same else f"another verdict comes of them: {again['status']}")]


def _same(file: Mapping[str, Any], folder: Path) -> list[tuple[bool, str]]:
    path = folder / str(file["path"])
    told = []
    for name, wanted in (
        (path, file["sha256"]),
        *((path.parent / n, d) for n, d in file["beside"].items()),
    ):
        try:
            same = hashlib.sha256(name.read_bytes()).hexdigest() == wanted
            told.append((same, f"{name} is {'the file of then' if same else 'another file'}"))
        except OSError:
            told.append((False, f"{name} is not there"))
    return told


def _plain(verdict: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(verdict))
