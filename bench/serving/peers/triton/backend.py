"""The model of Triton's Python backend: what waits is made in one batch. Copied into its repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton  # of the server, known to its stub alone

from bench.serving.work import ListMaker


class TritonPythonModel:
    """The name that the backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._maker = ListMaker(Path(config["parameters"]["work"]["string_value"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        history, candidates = (
            [triton.get_input_tensor_by_name(one, name).as_numpy() for one in requests]
            for name in ("history", "candidates")
        )
        lists = self._maker.make(np.concatenate(history), np.concatenate(candidates))
        answers, first = [], 0
        for one in history:
            own = lists[first : first + len(one)]
            first += len(one)
            answers.append(triton.InferenceResponse([triton.Tensor("items", own)]))
        return answers
