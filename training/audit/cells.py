"""Groups of users and their intersections: who is in which cell, and which cells can be measured.

Owns the k-anonymity floor: of fewer users than it nothing but their number is told. A cell is
one label of one attribute, or one label of each of two; every combination of labels is a
cell, also one that nobody is in.

>>> groups = {"age": np.array(["young", "old", "old"]), "sex": np.array(["f", "f", "m"])}
>>> for cell in cells_of(groups, np.array([1, 0, 2]), min_users=2):
...     print(cell.name, cell.status)
age=old measured
age=young too few (n=1)
sex=f measured
sex=m too few (n=1)
age=old, sex=f too few (n=1)
age=old, sex=m too few (n=1)
age=young, sex=f too few (n=1)
age=young, sex=m empty (n=0)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from training.data.schema import UNKNOWN
from training.user_groups import Groups


@dataclass(frozen=True)
class Cell:
    """Users with the same label of each attribute.

    labels: (attribute, label). members: `[T] bool`. targets: how many items they bought after the
    cut; None below the k-anonymity floor: of one user it is what that user bought. status:
    "measured", or why not, with the number of users.
    """

    labels: tuple[tuple[str, str], ...]
    members: NDArray[np.bool_]
    targets: int | None
    status: str

    @property
    def name(self) -> str:
        """Such as "age=25-34, income=75K+"."""
        return ", ".join(f"{attribute}={label}" for attribute, label in self.labels)

    @property
    def users(self) -> int:
        """How many users are in it."""
        return int(self.members.sum())

    @property
    def known(self) -> bool:
        """Whether every label is told: users of whom nothing is known are no group of people."""
        return all(label != UNKNOWN for _, label in self.labels)


def cells_of(groups: Groups, targets: NDArray[np.integer], min_users: int) -> list[Cell]:
    """The cells of every attribute, then of every pair of attributes.

    targets: `[T]`, items that each user bought after the cut. min_users: the k-anonymity floor.
    """
    labels = {name: sorted(set(values.tolist())) for name, values in groups.items()}
    found = []
    for chosen in [*((name,) for name in groups), *combinations(groups, 2)]:
        for combined in product(*(labels[name] for name in chosen)):
            members = np.ones(len(targets), np.bool_)
            for name, label in zip(chosen, combined, strict=True):
                members &= groups[name] == label
            users, bought = int(members.sum()), int(targets[members].sum())
            status = _status(users, bought, min_users)
            told = bought if users >= min_users else None
            found.append(Cell(tuple(zip(chosen, combined, strict=True)), members, told, status))
    return found


def _status(users: int, targets: int, min_users: int) -> str:
    if users == 0:
        return "empty (n=0)"
    if users < min_users:
        return f"too few (n={users})"
    return "measured" if targets else f"bought nothing (n={users})"
