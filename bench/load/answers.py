"""Is an answer right? A server that answers fast and wrong must not look fast.

Owns the names under which wrong answers are counted, beside the gRPC statuses.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.whole import write_whole
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2

OTHER_REQUEST = "OTHER_REQUEST"
OTHER_BUNDLE = "OTHER_BUNDLE"
WRONG_LENGTH = "WRONG_LENGTH"
DUPLICATE_ITEM = "DUPLICATE_ITEM"
NO_RECEIPT = "NO_RECEIPT"
OTHER_LIST = "OTHER_LIST"
VOLATILE: tuple[Literal["request_id", "phases", "next_page_token"], ...] = (
    "request_id",
    "phases",
    "next_page_token",
)
"""What differs between two askings for one list."""


@dataclass(frozen=True)
class Served:
    """What the server said of itself when the load began."""

    bundle_id: str
    model_digest: str
    items: int

    @classmethod
    def of(cls, info: serving_pb2.GetServingInfoResponse) -> Served:
        return cls(info.bundle_id, info.model.digest, info.items)


def wrong_with(
    request_id: str, count: int, response: pb.RecommendResponse, served: Served
) -> str | None:
    """The first thing wrong with an answer, or None.

    The requests of a load exclude nothing, so a list is as long as was asked for unless the
    whole catalogue is shorter; a server cannot excuse an empty list with SHORT_LIST.
    """
    if request_id and response.request_id != request_id:
        return OTHER_REQUEST
    if (response.bundle_id, response.model_digest) != (served.bundle_id, served.model_digest):
        return OTHER_BUNDLE
    ids = [item.item_id for item in response.items]
    if len(ids) != min(count, served.items):
        return WRONG_LENGTH
    if len(set(ids)) != len(ids):
        return DUPLICATE_ITEM
    if response.receipt.status == pb.RECEIPT_STATUS_UNSPECIFIED:
        return NO_RECEIPT
    return None


def fingerprint(response: pb.RecommendResponse) -> str:
    """Of all that must not change while nothing is learned: not the call's id, its times and its token."""
    same = pb.RecommendResponse()
    same.CopyFrom(response)
    for name in VOLATILE:
        same.ClearField(name)
    return hashlib.sha256(same.SerializeToString(deterministic=True)).hexdigest()


Exposure = Mapping[str, Mapping[str, float]]
"""Group table -> group -> the exposure that a list gives it."""


def exposure_of(response: pb.RecommendResponse) -> Exposure:
    """What each group of the list's own table gets: the sum of 1 / log2(rank + 1) over its items."""
    table: dict[str, float] = {}
    for item in response.items:
        table[item.group] = table.get(item.group, 0.0) + 1 / math.log2(item.rank + 1)
    return {response.receipt.group_table: table} if response.receipt.group_table else {}


class Answers:
    """What the server answered when nothing else was asked of it: fingerprints by request.

    A request whose answer differed between two quiet askings is not compared: its policy looks at
    what was shown before. exposure: by request, what its list gives to groups of items.
    """

    def __init__(
        self, known: dict[int, str], exposure: Mapping[int, Exposure] | None = None
    ) -> None:
        self._known = known
        self.exposure: Mapping[int, Exposure] = exposure or {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, place: int) -> bool:
        return place in self._known

    def wrong_with(self, place: int, response: pb.RecommendResponse) -> str | None:
        """OTHER_LIST where the answer is not the one of before."""
        wanted = self._known.get(place)
        return OTHER_LIST if wanted is not None and fingerprint(response) != wanted else None

    def write(self, path: Path) -> None:
        """As JSON."""
        told = {"fingerprints": self._known, "exposure": self.exposure}
        write_whole(path, json.dumps(told))

    @staticmethod
    def read(path: Path) -> Answers:
        """What `write` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return Answers(
            {int(place): digest for place, digest in found["fingerprints"].items()},
            {int(place): exposure for place, exposure in found["exposure"].items()},
        )
