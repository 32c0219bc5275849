"""The model "ranker": the bundle's own ONNX model, through the same queue as all lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from server.batcher import Batched
from server.bundle import ports_of
from server.config import ServerSettings
from server.engine import Scored, ScoreQuery
from server.errors import InvalidField
from server.model import BATCH, CANDIDATES, SCORES, Port
from server.service.lists import Call
from server.service.oip.models import Description, Execution, Made, Served
from server.service.oip.tensors import FP32, INT32, Axis, TensorSpec, Value
from server.service.release import Job

NAME = "ranker"


class Ranker:
    """Scores inputs that the caller has computed.

    A request holds the model no longer than the largest Recommend may: its lists have together no
    more candidates than that.
    """

    def __init__(self, served: Served, settings: ServerSettings) -> None:
        bundle = served.bundle
        self._served = served
        self._max_candidates = settings.max_candidates
        max_batch = settings.max_batch or bundle.manifest.model.best_batch
        axes = {
            BATCH: Axis(BATCH, 1, max_batch),
            CANDIDATES: Axis(CANDIDATES, 1, settings.max_candidates),
        }
        # Whole numbers are items, counted from 1; 0 is none.
        n_items = len(bundle.items.ids)
        self.description = Description(
            name=NAME,
            platform="onnxruntime_onnx",
            backend="onnxruntime",
            inputs=tuple(_spec(port, axes, n_items) for port in ports_of(bundle.manifest.model)),
            outputs=(_spec(SCORES, axes, n_items),),
            max_batch=max_batch,
        )

    async def run(self, inputs: Mapping[str, Value], call: Call) -> Made:
        """As `Model.run`."""
        feed = {name: cast(np.ndarray, value) for name, value in inputs.items()}
        sizes: dict[str, int] = {}
        for port in ports_of(self._served.bundle.manifest.model):
            for axis, size in zip(port.axes, feed[port.name].shape, strict=True):
                sizes[str(axis)] = size
        batch, candidates = sizes[BATCH], sizes[CANDIDATES]
        if batch * candidates > self._max_candidates:
            raise InvalidField.of(
                "inputs",
                f"{batch} lists of {candidates} candidates",
                f"{self._max_candidates} candidates in all",
            )
        release = self._served.release
        batched = await self._served.batcher.submit(
            Job(release, ScoreQuery(feed, call.deadline_ns)),
            call.deadline_ns,
            background=call.background,
        )
        made = cast(Batched[Scored], batched)
        if call.span is not None:
            call.span.scored(release.id, made)
        scored = made.result
        return Made(
            outputs={SCORES.name: scored.scores},
            inferences=batch,
            execution=Execution(batched.formed_ns, scored.run),
            queue_ns=batched.queue_ns,
            shared_ns=scored.model_ns,
            own_ns=0,
        )


def _spec(port: Port, axes: Mapping[str, Axis], n_items: int) -> TensorSpec:
    return TensorSpec(
        name=port.name,
        datatype=FP32 if port.dtype is np.float32 else INT32,
        axes=tuple(axis if isinstance(axis, int) else axes[axis] for axis in port.axes),
        low=0,
        high=n_items,
    )
