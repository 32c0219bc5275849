"""Which policies go into a bundle, and which of them is the default.

Owns the choice. A folder of the user's own must fit the data to the last group: a policy
that was dropped for a misspelt name would be found by nobody. Of the policies that come
with Equipoise those that the data has no groups for are left out, and that is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.bundle import GroupTable
from server.errors import PolicyRefused, Refused, listed
from server.fairness import compile_tables, parse_policy

SHOP_POLICIES = Path(__file__).parent / "policies"
SHOP_DEFAULT = "provider-tiers"
NONE = "none"


@dataclass(frozen=True)
class ChosenPolicies:
    """documents: by policy name. left_out: policy name -> why."""

    documents: dict[str, str]
    default: str
    left_out: dict[str, str]


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
    for path in sorted((folder or SHOP_POLICIES).glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        policy = parse_policy(text, str(path))
        if policy.name in documents:
            raise Refused(f"{path}: another file of this folder holds policy {policy.name!r} too")
        try:
            compile_tables(policy, tables)
        except PolicyRefused as unfit:
            if folder is not None:
                raise
            left_out[policy.name] = str(unfit)
            continue
        documents[policy.name] = text
    if not documents:
        raise Refused(f"{folder or SHOP_POLICIES}: no policy (*.toml) in it")
    # Every bundle can serve the plain order: evaluation compares with it.
    none = (SHOP_POLICIES / f"{NONE}.toml").read_text(encoding="utf-8")
    documents.setdefault(NONE, none)
    return ChosenPolicies(documents, _default(default, documents, folder is not None), left_out)


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
