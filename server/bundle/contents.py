"""What a bundle holds once it is loaded, and what its writer takes: frozen, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle.manifest import DataInfo, Manifest, MeasuredBatch, Quantised, Retrieval
from server.fairness import CompiledPolicy, TableGroups
from server.features import FeatureState
from server.features.types import History
from server.model import Feed

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class ItemTable:
    """The items, sorted by id: index order is id order.

    attributes: named columns (商品属性) such as category, department, provider, brand, each with
    one text per item.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]

    @cached_property
    def index(self) -> dict[str, int]:
        """Item id -> index."""
        return {item: place for place, item in enumerate(self.ids)}


@dataclass(frozen=True)
class GroupTable:
    """A partition of the items: `codes [n_items] int32` are rows of `labels`."""

    name: str
    labels: tuple[str, ...]
    codes: Int32

    @cached_property
    def sizes(self) -> TableGroups:
        """How many items each group has, as policies are compiled against."""
        return TableGroups(self.labels, np.bincount(self.codes, minlength=len(self.labels)))


@dataclass(frozen=True)
class Warmup:
    """A request drawn from item statistics, and the items that the served path ranks first."""

    history: History
    now_ms: int
    expected_top: Int32


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    golden_inputs (by name, with a batch axis), golden_outputs `[b, n] float32`: what the model was
    fed and gave when the bundle was made.
    """

    manifest: Manifest
    items: ItemTable
    groups: Mapping[str, GroupTable]
    policies: Mapping[str, CompiledPolicy]
    state: FeatureState
    model: bytes
    golden_inputs: Feed
    golden_outputs: Float32
    warmups: tuple[Warmup, ...]
    retrieval: bytes | None = None


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is made of; `policies` are the TOML documents by name.

    A model that reads the history has a `history_length`, one that reads pair features their names.
    """

    name: str
    created_unix_ms: int
    data: DataInfo
    family: str
    model: bytes
    opset: int
    feature_names: tuple[str, ...]
    best_batch: int
    n_novel: int
    state: FeatureState
    items: ItemTable
    groups: tuple[GroupTable, ...]
    policies: Mapping[str, str]
    default_policy: str
    golden_inputs: Feed
    golden_outputs: Float32
    warmups: tuple[Warmup, ...]
    model_card: str
    horizon_days: int
    quality: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)
    measured_batches: tuple[MeasuredBatch, ...] = ()
    positive_kinds: tuple[str, ...] = ("purchase",)
    history_length: int = 0
    n_popular: int = 0
    quantised: Quantised | None = None
    retrieval: tuple[Retrieval, bytes] | None = None
