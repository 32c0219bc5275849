"""What a peer's server is told when it starts: one JSON document as its only argument.

Read in the peer's environment, which has none of Equipoise's packages but those of the fair stage.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

MAX_BATCH = 16
"""The most lists of one model run, where a peer has such a limit: the bundle's best size is no
larger, and larger ones were no cheaper (see `onnxruntime` in what was measured)."""


@dataclass(frozen=True)
class Settings:
    """work: what `bench.serving.work.write_work` made. scratch: a folder of the server's own, empty.
    name: what the model is called; new in each run, so that no other server answers to it."""

    work: str
    scratch: str
    port: int
    name: str

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
