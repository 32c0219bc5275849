"""Is an answer right? A server that answers fast and wrong must not look fast.

Owns the names under which wrong answers are counted, beside the gRPC statuses.
"""

from __future__ import annotations

from dataclasses import dataclass

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2

OTHER_REQUEST = "OTHER_REQUEST"
OTHER_BUNDLE = "OTHER_BUNDLE"
WRONG_LENGTH = "WRONG_LENGTH"
DUPLICATE_ITEM = "DUPLICATE_ITEM"
NO_RECEIPT = "NO_RECEIPT"


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
    request: pb.RecommendRequest, response: pb.RecommendResponse, served: Served
) -> str | None:
    """The first thing wrong with an answer, or None.

    The requests of a load exclude nothing, so a list is as long as was asked for unless the
    whole catalogue is shorter; a server cannot excuse an empty list with SHORT_LIST.
    """
    if request.request_id and response.request_id != request.request_id:
        return OTHER_REQUEST
    if (response.bundle_id, response.model_digest) != (served.bundle_id, served.model_digest):
        return OTHER_BUNDLE
    ids = [item.item_id for item in response.items]
    if len(ids) != min(request.count, served.items):
        return WRONG_LENGTH
    if len(set(ids)) != len(ids):
        return DUPLICATE_ITEM
    if response.receipt.status == pb.RECEIPT_STATUS_UNSPECIFIED:
        return NO_RECEIPT
    return None
