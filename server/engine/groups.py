"""What one policy reads of the bundle's items: their groups, and a user's counts of them.

Owns the step from items and histories to rows of the policy's tables and back to labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from server.bundle import Bundle
from server.errors import InvalidField, listed
from server.fairness import CompiledPolicy
from server.fairness.calibrate import MAX_BOUGHT

Int32 = NDArray[np.int32]
Counts = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True)
class PolicyItems:
    """A policy together with the groups of the bundle's items.

    rows: `[A, n_items] int32`, each item's row in each of the policy's A tables.
    provider: `[n_items] int32`, each item's group in the table whose exposure is evened out, if any.
    """

    compiled: CompiledPolicy
    rows: Int32
    provider: Int32 | None

    @staticmethod
    def of(bundle: Bundle, compiled: CompiledPolicy) -> PolicyItems:
        """The groups of all items under the tables of a policy."""
        rows = np.zeros((len(compiled.policy.tables), len(bundle.items.ids)), np.int32)
        for row, start, table in zip(rows, compiled.starts, compiled.policy.tables, strict=False):
            row[:] = bundle.groups[table].codes + start
        evened = compiled.amortisation
        provider = None if evened is None else bundle.groups[evened.group_table].codes
        return PolicyItems(compiled, rows, provider)

    @cached_property
    def row_of(self) -> tuple[Mapping[str, int], ...]:
        """Label -> row, for each table."""
        labels = self.compiled.labels
        return tuple(
            {labels[row]: row for row in range(first, end)} for first, end in self.compiled.blocks
        )

    def labels_of(self, members: Int32) -> tuple[tuple[str, ...], ...]:
        """The labels of each column of `members [A, k]`."""
        label = self.compiled.labels.__getitem__
        return tuple(tuple(map(label, own)) for own in members.T.tolist())

    def bought(self, items: Int32) -> Counts:
        """How often a history of these items has each group, for each calibrated table."""
        counts = {}
        for part in self.compiled.calibrations:
            own = (
                self.rows[self.compiled.starts.index(part.start)][items[-MAX_BOUGHT:]] - part.start
            )
            counts[part.group_table] = np.bincount(own, minlength=len(part.items))
        return counts

    def told(self, bought: Counts) -> tuple[tuple[str, str, int], ...]:
        """(table, group, count) of the counts that are not 0."""
        found = []
        for part in self.compiled.calibrations:
            counts = bought.get(part.group_table)
            if counts is not None:
                found += [
                    (part.group_table, self._plain(part.start + row), int(counts[row]))
                    for row in np.flatnonzero(counts).tolist()
                ]
        return tuple(found)

    def counted(self, told: Iterable[tuple[str, str, int]]) -> Counts:
        """What a caller told, as counts.

        Raises:
            InvalidField: a table that the policy does not calibrate, or a group that it lacks.
        """
        parts = {part.group_table: part for part in self.compiled.calibrations}
        counts: dict[str, NDArray[np.int64]] = {}
        for place, (table, group, count) in enumerate(told):
            part = parts.get(table)
            if part is None:
                calibrated = listed(parts) or "none, for this policy is not calibrated"
                raise InvalidField.of(f"bought[{place}].group_table", table, calibrated)
            rows = self.row_of[self.compiled.starts.index(part.start)]
            row = rows.get(self._qualified(table, group))
            if row is None:
                names = [self._plain(row) for row in rows.values()]
                raise InvalidField.of(f"bought[{place}].group", group, listed(names))
            own = counts.setdefault(table, np.zeros(len(part.items), np.int64))
            own[row - part.start] += count
        for table, own in counts.items():
            if own.sum() > MAX_BOUGHT:
                raise InvalidField.of(
                    "bought", f"{own.sum()} purchases of table {table!r}", f"at most {MAX_BOUGHT}"
                )
        return counts

    def _qualified(self, table: str, group: str) -> str:
        return f"{table}:{group}" if len(self.compiled.policy.tables) > 1 else group

    def _plain(self, row: int) -> str:
        label = self.compiled.labels[row]
        return label.partition(":")[2] if len(self.compiled.policy.tables) > 1 else label
