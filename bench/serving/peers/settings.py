"""What a peer's server is told when it starts: one JSON document as its only argument.

Read in the peer's environment, which has none of Equipoise's packages but those of the fair stage.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_BATCH = 16
"""The most lists of one model run. Larger ones were tried: see each server."""


@dataclass(frozen=True)
class Settings:
    """work: what `bench.serving.work.write_work` made. scratch: a folder of the server's own, empty.
    name: what the model is called; new in each run, so that no other server answers to it. texts: items
    are named by their ids, as text, and not by their numbers. delay_us: how long a request may wait
    for others to come into its batch. direct: callers reach the worker without a proxy between."""

    work: str
    scratch: str
    port: int
    name: str
    texts: bool = False
    delay_us: int = 0
    direct: bool = False

    @staticmethod
    def read() -> Settings:
        """Of the command line."""
        return Settings.parse(sys.argv[1])

    @staticmethod
    def parse(text: str) -> Settings:
        """Of what `text` gave."""
        return Settings(**json.loads(text))

    def text(self) -> str:
        """As `read` takes it."""
        return json.dumps(asdict(self))

    @property
    def work_folder(self) -> Path:
        return Path(self.work)

    @property
    def scratch_folder(self) -> Path:
        return Path(self.scratch)
