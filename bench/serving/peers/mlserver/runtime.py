"""The model as an MLServer runtime: named in its model-settings.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from bench.serving.work import ListMaker


class Lists(MLModel):
    """History and candidates in, items out; MLServer puts requests together before it asks."""

    async def load(self) -> bool:
        self._maker = ListMaker(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        history, candidates = (NumpyCodec.decode_input(one) for one in payload.inputs)
        lists = self._maker.make(history.astype(np.int32), candidates.astype(np.int32))
        return InferenceResponse(
            model_name=self.name,
            id=payload.id,
            outputs=[NumpyCodec.encode_output("items", lists)],
        )
