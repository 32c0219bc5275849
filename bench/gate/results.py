"""Result files: what evaluation, load and invariants measured, as the gate reads them.

Owns reading and the header that every kind has: kind, schema_version, bundle_id.
The rest of a document is looked into by `bench.gate.measures`. A load result
brings its raw samples in a file beside it, an evaluation its per-user arrays.
Of loads there may be several, all of one bundle.

    results = read_results([Path("out/load/load.json")])
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from bench.gate.user_arrays import UserArrays, read_user_arrays
from bench.load.samples import Samples, SamplesRefused, read_samples
from bench.load.summary import receipt_counts
from bench.refused import InputRefused, refusal

Kind = Literal["quality", "load", "invariants"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ONE_OF: tuple[Kind, ...] = ("quality", "invariants")


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True)
    kind: Kind
    schema_version: Literal[1]
    bundle_id: Annotated[str, StringConstraints(min_length=1)]
    model_digest: str = ""


@dataclass(frozen=True)
class Result:
    """One result file.

    document: the whole JSON object. latencies_ms: `[requests] float64` of a load result, +inf
    for a request that failed; starts_ns: `[requests] int64`, when each was due (Unix); None where
    there are no samples. service_ms: the same from when each was sent. refused: `[requests] bool`, for want
    of room. groups: attribute -> `[requests]` labels of the callers, "" where unknown. exposure: group
    table -> group of items -> `[requests]`, what the asked list would give it, NaN where unknown. users: the
    per-user arrays of an evaluation, None where they do not lie beside it.
    """

    kind: Kind
    bundle_id: str
    model_digest: str = ""
    document: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    latencies_ms: NDArray[np.float64] | None = None
    starts_ns: NDArray[np.int64] | None = None
    service_ms: NDArray[np.float64] | None = None
    refused: NDArray[np.bool_] | None = None
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    exposure: Mapping[str, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)
    users: UserArrays | None = None


def parse_result(document: Any, source: str) -> Result:
    """A result from its parsed JSON, without samples.

    Raises:
        InputRefused: not an object, an unknown kind, another schema version, or no bundle.
    """
    if not isinstance(document, dict):
        raise InputRefused(source, "", "not a JSON object")
    try:
        header = _Header.model_validate(document)
    except ValidationError as invalid:
        raise refusal(source, invalid, list(_Header.model_fields)) from invalid
    return Result(header.kind, header.bundle_id, header.model_digest, document, source)


def _samples(document: Mapping[str, Any], path: Path) -> Samples | None:
    """Every request of a load."""
    name = document.get("samples")
    if not isinstance(name, str) or not name:
        return None
    file = path.parent / name
    if not file.is_file():
        raise InputRefused(str(file), "", f"the samples of {path.name} are not there")
    if _sha256(file) != document.get("samples_sha256"):
        raise InputRefused(str(file), "", f"is not the file that {path.name} was made from")
    try:
        samples = read_samples(file)
    except SamplesRefused as refused:
        raise InputRefused(str(file), "", str(refused)) from refused
    if len(samples) != document.get("requests"):
        raise InputRefused(
            str(file), "", f"holds {len(samples)} requests, {path.name} says "
            f"{document.get('requests')}",
        )  # fmt: skip
    receipts = document.get("receipts")
    told = {k: n for k, n in receipts.items() if n} if isinstance(receipts, dict) else receipts
    counted = {status: n for status, n in receipt_counts(samples).items() if n}
    if told != counted:
        raise InputRefused(str(file), "", f"has receipts {counted}, {path.name} says {told}")
    return samples


def _users(document: Mapping[str, Any], path: Path) -> UserArrays | None:
    name, digest = document.get("per_user_file"), document.get("per_user_sha256")
    if not isinstance(name, str) or not name:
        return None
    if not (path.parent / name).is_file():
        if digest is None:
            return None
        raise InputRefused(str(path.parent / name), "", f"the arrays of {path.name} are not there")
    # Results of before the digest was told have none.
    if digest is not None and _sha256(path.parent / name) != digest:
        told = f"is not the file that {path.name} was made with"
        raise InputRefused(str(path.parent / name), "", told)
    return read_user_arrays(path.parent / name)


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputRefused(str(file), "", error.strerror or str(error)) from error


def read_result(path: Path) -> Result:
    """Read one result file, with its samples where they lie beside it.

    Raises:
        InputRefused: unreadable or malformed.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputRefused(str(path), "", error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise InputRefused(str(path), "", f"not JSON: {error}") from error
    result = parse_result(document, str(path))
    if result.kind == "quality":
        return replace(result, users=_users(result.document, path))
    samples = _samples(result.document, path) if result.kind == "load" else None
    if samples is None:
        return result
    began = result.document.get("started_unix_ms")
    if isinstance(began, bool) or not isinstance(began, int):
        raise InputRefused(str(path), "started_unix_ms", f"got {began!r}, allowed: a whole number")
    starts_ns = began * 1_000_000 + samples.numbers("due_ns")
    return replace(
        result, latencies_ms=samples.latencies_ms(), starts_ns=starts_ns,
        service_ms=samples.service_ms(),
        refused=samples.refused(),
        groups={attribute: samples.groups(attribute) for attribute in samples.attributes},
        exposure=samples.exposure(),
    )  # fmt: skip


def read_results(paths: Sequence[Path]) -> list[Result]:
    """Read result files, at most one of a kind but for loads.

    Raises:
        InputRefused: one is unreadable or malformed, two are of one kind, or there is none.
    """
    results = [read_result(path) for path in paths]
    check_kinds(results)
    return results


def check_kinds(results: Sequence[Result]) -> None:
    """Refuse no result at all, and two of one kind: a line could not say which it means.

    Loads may be several: their requests are one sample, and runs by turns come in pairs.

    Raises:
        InputRefused: that.
    """
    if not results:
        raise InputRefused("results", "", "there is none; give at least one result file")
    for kind in ONE_OF:
        same = [result.source or kind for result in results if result.kind == kind]
        if len(same) > 1:
            raise InputRefused(same[1], "kind", f"is {kind!r}, as {same[0]} is; give one of a kind")
    digests: dict[str, str] = {}
    for result in results:
        digest = result.document.get("samples_sha256")
        if result.kind == "load" and isinstance(digest, str) and digest:
            if digest in digests:
                told = f"is that of {digests[digest]}; the same requests count once"
                raise InputRefused(result.source, "samples_sha256", told)
            digests[digest] = result.source
