"""Per-user arrays of an evaluation: read, joined by user, cut into groups.

Owns the file that `equipoise evaluate` names in `per_user_file`: one entry per
user, `user_id`, METRIC, BASELINE/METRIC, POLICY/METRIC, group/ATTRIBUTE.

    arrays = read_user_arrays(Path("out/quality/per_user.npz"))
    arrays.column("ndcg_at_20")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.gate.measured import Broken
from bench.refused import InputRefused, near_miss

_GROUP = "group/"
_CROSS = "+"
CROSSED_LABEL = " & "


@dataclass(frozen=True)
class UserArrays:
    """ids: `[users] str`, each once. values: name -> `[users] float64`, NaN for a user without a
    value. groups: attribute -> `[users] str` labels."""

    ids: NDArray[np.str_]
    values: Mapping[str, NDArray[np.float64]]
    groups: Mapping[str, NDArray[np.str_]]

    def column(self, name: str) -> NDArray[np.float64]:
        """One array. Raises Broken: there is none of that name, or it holds an infinite value."""
        if name not in self.values:
            raise Broken(f"the per-user arrays have no {name!r}{near_miss(name, self.values)}")
        found = self.values[name]
        if np.isinf(found).any():
            raise Broken(f"a user's {name} is infinite")
        return found

    def labels(self, attribute: str) -> NDArray[np.str_] | None:
        """Every user's label; "a+b" are the crossed labels of two attributes. None: no such."""
        if attribute in self.groups:
            return self.groups[attribute]
        parts = attribute.split(_CROSS)
        if len(parts) < 2 or any(part not in self.groups for part in parts):
            return None
        labels = self.groups[parts[0]]
        for part in parts[1:]:
            labels = np.char.add(np.char.add(labels, CROSSED_LABEL), self.groups[part])
        return labels

    def attributes(self) -> list[str]:
        """The attributes, and every two of them crossed."""
        own = list(self.groups)
        return own + [f"{a}{_CROSS}{b}" for a in own for b in own if a != b]


def read_user_arrays(path: Path) -> UserArrays:
    """Read the arrays of an evaluation.

    Raises:
        InputRefused: not such a file, arrays of different lengths, or a user twice.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    # What numpy, zipfile, zlib and tokenize raise over a wrong byte is no closed list.
    except Exception as error:
        told = " ".join(str(error).split())
        raise InputRefused(str(path), "", f"is not a file of per-user arrays: {told}") from error
    return user_arrays(arrays, str(path))


def user_arrays(arrays: Mapping[str, NDArray[np.generic]], source: str) -> UserArrays:
    """The arrays by their names in the file.

    Raises:
        InputRefused: no `user_id`, another length than it has, a user twice, or no numbers.
    """
    if "user_id" not in arrays:
        raise InputRefused(source, "user_id", "is missing")
    ids = arrays["user_id"].astype(np.str_)
    if len(set(ids.tolist())) != len(ids):
        raise InputRefused(source, "user_id", "names a user twice; the unit is the user")
    values, groups = {}, {}
    for name, array in arrays.items():
        if array.shape != ids.shape:
            raise InputRefused(source, name, f"has {array.shape} entries for {len(ids)} users")
        if name.startswith(_GROUP):
            groups[name.removeprefix(_GROUP)] = array.astype(np.str_)
        elif name != "user_id":
            if array.dtype.kind not in "fiub":
                raise InputRefused(source, name, f"holds {array.dtype}, not numbers")
            values[name] = array.astype(np.float64)
    return UserArrays(ids, values, groups)


def joined(
    candidate: UserArrays, baseline: UserArrays
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places in either's arrays so that users stand beside themselves.

    Raises:
        Broken: a user is on one side only; dropping such would let a release choose its users.
    """
    ours, theirs = set(candidate.ids.tolist()), set(baseline.ids.tolist())
    if ours != theirs:
        told = [
            f"{len(lone)} users are only in the {side}'s arrays, such as {min(lone)!r}"
            for side, lone in (("candidate", ours - theirs), ("baseline", theirs - ours))
            if lone
        ]
        raise Broken(f"{' and '.join(told)}; a paired difference needs every user on both sides")
    return np.argsort(candidate.ids, kind="stable"), np.argsort(baseline.ids, kind="stable")
