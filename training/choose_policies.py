"""Which policies go into a bundle, and which of them is the default.

Owns the choice. A folder of the user's own must fit the data to the last group: a policy
that was dropped for a misspelt name would be found by nobody. Of the policies that come
with Equipoise those that the data has no groups for are left out, and that is told; so are those
that no list of this catalogue can keep, which are worth nothing. One of the user's own that cannot
be kept stays, with a warning: it says what is wanted, and the catalogue may grow.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from server.bundle import GroupTable
from server.errors import PolicyRefused, Refused, listed
from server.fairness import CompiledPolicy, compile_tables, parse_policy
from server.fairness.feasible import check_on_catalogue, where
from server.features.types import Int32

SHOP_POLICIES = Path(__file__).parent / "policies"
SHOP_DEFAULT = "provider-tiers"
NONE = "none"
PLACES = 20
"""The list that a policy is checked for: as long as those that are evaluated."""


@dataclass(frozen=True)
class ChosenPolicies:
    """documents: by policy name. left_out: policy name -> why.

    never_met: of the documents those that a list of `PLACES` of the catalogue does not keep -> why.
    """

    documents: dict[str, str]
    default: str
    left_out: dict[str, str]
    never_met: dict[str, str]


def choose_policies(
    folder: Path | None, default: str | None, groups: tuple[GroupTable, ...]
) -> ChosenPolicies:
    """The policies of `folder`, or those that come along and fit; checked against the groups.

    default: the policy for requests that name none. None: the only one of a user's own
    folder; of those that come along `provider-tiers`, and `none` where that does not fit.

    Raises:
        PolicyRefused: a document makes no sense, or one of the user's own names a group or a
            table that the data does not have.
        Refused: there is no policy, two of one name, or no telling which is the default.
    """
    tables = {table.name: table.sizes for table in groups}
    documents: dict[str, str] = {}
    left_out: dict[str, str] = {}
    never_met: dict[str, str] = {}
    for path in sorted((folder or SHOP_POLICIES).glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        policy = parse_policy(text, str(path))
        if policy.name in documents:
            raise Refused(f"{path}: another file of this folder holds policy {policy.name!r} too")
        try:
            compiled = compile_tables(policy, tables)
        except PolicyRefused as unfit:
            if folder is not None:
                raise
            left_out[policy.name] = str(unfit)
            continue
        check = check_on_catalogue(compiled, _rows(compiled, groups), PLACES)
        if check.bad is not None:
            why = where(check.bad, check.room)
            if check.proven and folder is None:
                left_out[policy.name] = f"no list of {PLACES} of this catalogue can keep it: {why}"
                continue
            told = "cannot be met" if check.proven else "no list that keeps it was found"
            never_met[policy.name] = f"{told} on this catalogue at {PLACES} places: {why}"
        documents[policy.name] = text
    if not documents:
        raise Refused(f"{folder or SHOP_POLICIES}: no policy (*.toml) in it")
    # Every bundle can serve the plain order: evaluation compares with it.
    none = (SHOP_POLICIES / f"{NONE}.toml").read_text(encoding="utf-8")
    documents.setdefault(NONE, none)
    if default in left_out:
        raise Refused(f"--default-policy {default!r} is left out: {left_out[default]}")
    chosen = _default(default, documents, folder is not None)
    return ChosenPolicies(documents, chosen, left_out, never_met)


def _rows(compiled: CompiledPolicy, groups: tuple[GroupTable, ...]) -> Int32:
    """`[A, n_items]`: each item's row in each of the policy's tables."""
    codes = {table.name: table.codes for table in groups}
    own = [
        codes[name] + start
        for name, start in zip(compiled.policy.tables, compiled.starts, strict=False)
    ]
    n_items = max((len(rows) for rows in codes.values()), default=0)
    return np.array(own, np.int32).reshape(len(own), n_items)


def _default(wanted: str | None, documents: dict[str, str], own: bool) -> str:
    if wanted is not None:
        if wanted not in documents:
            raise Refused(f"--default-policy {wanted!r}: there are {listed(documents)}")
        return wanted
    if SHOP_DEFAULT in documents:
        return SHOP_DEFAULT
    named = [name for name in documents if name != NONE]
    if own and len(named) > 1:
        raise Refused(
            f"which policy is for requests that name none? Say --default-policy: {listed(named)}"
        )
    return named[0] if own and named else NONE
