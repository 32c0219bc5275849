"""A bundle -> its catalogue, as far as claims rest on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.refused import InputRefused
from bench.verify.bounds import Known
from bench.verify.vectors import Weights
from equipoise.v1 import recommendation_pb2 as pb
from server.bundle import Bundle, load_bundle


def read_known(bundle: Path, bundle_id: str) -> Known:
    """The catalogue of a bundle that must be the one with this id.

    Raises:
        InputRefused: it is another.
        BundleRefused: it is none.
    """
    held = _held(bundle, bundle_id, "the answer is of")
    return Known(
        {
            name: dict(zip(table.labels, table.sizes.items.tolist(), strict=True))
            for name, table in held.groups.items()
        },
        {},
        {
            name: {
                item: table.labels[code]
                for item, code in zip(held.items.ids, table.codes.tolist(), strict=True)
            }
            for name, table in held.groups.items()
        },
        frozenset(
            pb.EventKind.Value(f"EVENT_KIND_{kind.upper()}")
            for kind in held.manifest.positive_kinds
        ),
        held.manifest.data.until_unix_ms,
        frozenset(held.items.ids),
        held.manifest.model.digest,
        Weights(
            held.items.index,
            held.state.cosine.row_ptr,
            held.state.cosine.items,
            held.state.cosine.weights,
            held.state.category,
        ),
    )


def read_ids(bundle: Path, bundle_id: str) -> Sequence[str]:
    """The ids of the bundle's items, in the order of their numbers; raises as `read_known`."""
    return _held(bundle, bundle_id, "the request's numbers are of").items.ids


def _held(bundle: Path, bundle_id: str, told: str) -> Bundle:
    held = load_bundle(bundle)
    if held.manifest.bundle_id != bundle_id:
        raise InputRefused(
            "--bundle", str(bundle), f"is {held.manifest.bundle_id}, {told} {bundle_id}"
        )
    return held
