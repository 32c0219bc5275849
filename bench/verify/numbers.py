"""A request that names items by number, as one that names them by id: what is verified reads ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.refused import InputRefused
from equipoise.v1 import recommendation_pb2 as pb

Ids = Callable[[str], Sequence[str]]
"""The ids of a bundle's items, in the order of their numbers, by the bundle's id."""


def by_ids(asked: pb.RecommendRequest, source: Path, ids_of: Ids | None) -> pb.RecommendRequest:
    """The same request without numbers.

    Raises:
        InputRefused: the bundle is not at hand, or has no item of a number.
    """
    if not asked.numbers_of:
        return asked
    if ids_of is None:
        raise InputRefused(str(source), "", "names items by number: give --bundle")
    ids = ids_of(asked.numbers_of)
    packed = asked.packed_history
    numbers = (*asked.candidate_numbers, *packed.item_numbers)
    if numbers and max(numbers) >= len(ids):
        why = f"names item {max(numbers)}, the bundle has items 0 to {len(ids) - 1}"
        raise InputRefused(str(source), "", why)
    plain = pb.RecommendRequest()
    plain.CopyFrom(asked)
    for field in ("numbers_of", "candidate_numbers", "packed_history"):
        plain.ClearField(field)
    plain.candidate_item_ids.extend(ids[number] for number in asked.candidate_numbers)
    for place, (number, time_ms) in enumerate(
        zip(packed.item_numbers, packed.times_unix_ms, strict=True)
    ):
        plain.history.add(
            item_id=ids[number],
            time_unix_ms=time_ms,
            kind=pb.EventKind.ValueType(packed.kinds[place]) if packed.kinds else 0,
            quantity=packed.quantities[place] if packed.quantities else 0,
        )
    return plain
