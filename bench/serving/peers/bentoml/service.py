"""The service that BentoML serves. What it is told stands in EQUIPOISE_PEER: it reads no arguments."""

from __future__ import annotations

import os

import bentoml
import numpy as np

from bench.serving.peers.settings import MAX_BATCH, Settings
from bench.serving.work import ListMaker

VARIABLE = "EQUIPOISE_PEER"
MAX_LATENCY_MS = 1_000
HISTORY = 50
"""A batchable endpoint takes one array: the first numbers are the history, the rest candidates."""

SETTINGS = Settings.parse(os.environ[VARIABLE])


@bentoml.service(
    name=SETTINGS.name,
    workers=1,
    traffic={"timeout": 60, "max_concurrency": 1024},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Lists:
    def __init__(self) -> None:
        self._maker = ListMaker(SETTINGS.work_folder)

    @bentoml.api(
        route=f"/{SETTINGS.name}",
        batchable=True,
        max_batch_size=MAX_BATCH,
        max_latency_ms=MAX_LATENCY_MS,
    )
    # BentoML makes its endpoint of these annotations, and knows arrays without a type only.
    def make(self, numbers: np.ndarray) -> np.ndarray:
        numbers = np.asarray(numbers, np.int32)
        return self._maker.make(numbers[:, :HISTORY], numbers[:, HISTORY:])
