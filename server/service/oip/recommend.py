"""The model "recommend": the whole way from a history to a fair list, one request a call.

Owns how tensors become a RecommendRequest and its response tensors. All that is
to be checked of it is checked as in a Recommend; errors name the tensors.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np
from google.protobuf.json_format import MessageToJson

from equipoise.v1 import recommendation_pb2
from server.batcher import Batched
from server.config import ServerSettings
from server.engine import Answer
from server.errors import InvalidField
from server.service.lists import Call
from server.service.oip.models import Description, Execution, Made, Served
from server.service.oip.tensors import (
    BYTES,
    FP32,
    INT32,
    INT64,
    Axis,
    TensorSpec,
    Value,
    texts,
)

NAME = "recommend"

# What a RecommendRequest calls a field -> the tensor that it was made of.
_TENSOR_OF = (
    (re.compile(r"history\[(\d+)\]\.item_id"), r"history_item_ids[\1]"),
    (re.compile(r"history\[(\d+)\]\.time_unix_ms"), r"history_times_ms[\1]"),
    (re.compile(r"history"), "history_item_ids"),
)


class Recommender:
    """Makes lists as a Recommend does."""

    def __init__(self, served: Served, settings: ServerSettings) -> None:
        self._served = served
        events = Axis("events", 0, settings.max_history_events)
        candidates = Axis("candidates", 0, settings.max_candidates)
        places = Axis("places", 0, settings.max_count)
        self.description = Description(
            name=NAME,
            platform="equipoise",
            backend="equipoise",
            inputs=(
                TensorSpec("count", INT32, (1,), low=1, high=settings.max_count),
                TensorSpec("user_id", BYTES, (1,), optional=True),
                TensorSpec("history_item_ids", BYTES, (events,), optional=True),
                TensorSpec("history_times_ms", INT64, (events,), optional=True),
                TensorSpec("candidate_item_ids", BYTES, (candidates,), optional=True),
                TensorSpec("policy", BYTES, (1,), optional=True),
            ),
            outputs=(
                TensorSpec("item_ids", BYTES, (places,)),
                TensorSpec("scores", FP32, (places,)),
                TensorSpec("receipt", BYTES, (1,)),
            ),
            max_batch=0,
        )

    async def run(self, inputs: Mapping[str, Value], call: Call) -> Made:
        """As `Model.run`."""
        lists = self._served.lists
        try:
            asked = lists.ask(_request(inputs, call), call)
        except InvalidField as error:
            raise _by_tensor(error) from error
        try:
            batched = await asked.waiting.future
            made_ns = time.monotonic_ns()
            response = lists.answer(asked, batched)
        finally:
            lists.leave(asked)
        answer = cast(Batched[Answer], batched).result
        phases = answer.phases
        degraded = ",".join(map(recommendation_pb2.DegradedReason.Name, response.degraded_reasons))
        receipt = MessageToJson(
            response.receipt, preserving_proto_field_name=True, indent=None, ensure_ascii=False
        )
        outputs: dict[str, Value] = {
            "item_ids": [item.item_id.encode() for item in response.items],
            "scores": np.array([item.score for item in response.items], np.float32),
            "receipt": [receipt.encode()],
        }
        return Made(
            outputs=outputs,
            inferences=1,
            execution=Execution(batched.formed_ns),
            queue_ns=batched.queue_ns,
            shared_ns=phases.model_ns,
            own_ns=phases.history_ns + phases.features_ns + phases.fair_ns,
            encode_ns=time.monotonic_ns() - made_ns,
            parameters={
                "request_id": response.request_id,
                **({"degraded_reasons": degraded} if degraded else {}),
            },
        )


def _request(inputs: Mapping[str, Value], call: Call) -> recommendation_pb2.RecommendRequest:
    """The request that the tensors mean.

    Raises:
        InvalidField: a text is not UTF-8, or items of a history have no times, or the reverse.
    """

    def strings(name: str) -> list[str]:
        return texts(name, cast(list[bytes], inputs.get(name, [])))

    ids, times = "history_item_ids", "history_times_ms"
    if (ids in inputs) != (times in inputs):
        given, missing = (ids, times) if ids in inputs else (times, ids)
        raise InvalidField.of("inputs", f"{given} without {missing}", "both or neither")
    request = recommendation_pb2.RecommendRequest(
        request_id=call.request_id,
        count=int(cast(np.ndarray, inputs["count"])[0]),
        user_id="".join(strings("user_id")),
        policy="".join(strings("policy")),
        candidate_item_ids=strings("candidate_item_ids"),
    )
    if ids in inputs:
        columns = zip(strings(ids), cast(np.ndarray, inputs[times]).tolist(), strict=True)
        for item, time_ms in columns:
            request.history.add(item_id=item, time_unix_ms=time_ms)
    return request


def _by_tensor(error: InvalidField) -> InvalidField:
    """The same, naming tensors instead of fields."""
    renamed = []
    for violation in error.violations:
        field = violation.field
        for form, tensor in _TENSOR_OF:
            if form.fullmatch(field):
                field = form.sub(tensor, field)
                break
        renamed.append(replace(violation, field=field))
    return InvalidField(renamed)
