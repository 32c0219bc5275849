"""The model of Triton's Python backend: what waits is made in one batch. Copied into its repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # of the server, known to its stub alone
from numpy.typing import NDArray

from bench.serving.calls import Int32
from bench.serving.work import ListMaker


class TritonPythonModel:
    """The name that the backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        told = json.loads(args["model_config"])["parameters"]
        work = Path(told["work"]["string_value"])
        self._maker = ListMaker(work)
        self._texts = bool(told["texts"]["string_value"])
        ids = json.loads((work / "ids.json").read_text(encoding="utf-8")) if self._texts else []
        self._number = {one.encode(): number for number, one in enumerate(ids)}
        self._ids = np.array(list(self._number), np.object_)

    def execute(self, requests: list[Any]) -> list[Any]:
        history, candidates = (
            [triton.get_input_tensor_by_name(one, name).as_numpy() for one in requests]
            for name in ("history", "candidates")
        )
        lists: NDArray[Any] = self._maker.make(self._numbers(history), self._numbers(candidates))
        if self._texts:
            lists = self._ids[lists]
        answers, first = [], 0
        for one in history:
            own = lists[first : first + len(one)]
            first += len(one)
            answers.append(triton.InferenceResponse([triton.Tensor("items", own)]))
        return answers

    def _numbers(self, tensors: list[Any]) -> Int32:
        together = np.concatenate(tensors)
        if not self._texts:
            return together
        found = map(self._number.__getitem__, together.ravel().tolist())
        return np.fromiter(found, np.int32, together.size).reshape(together.shape)
