"""BentoML: HTTP, one worker.

Tuning: a batchable endpoint, up to 16 (its dispatcher learns how long to wait); access logs, metrics
and tracing off. JSON: its cheaper form, pickle, is refused by a server that faces callers.
Tried as well: batches up to 64; a latency of 10 and 100 ms, which makes it refuse requests.
"""

from __future__ import annotations

import os
import sys

from bench.serving.peers.settings import Settings

VARIABLE = "EQUIPOISE_PEER"


def main() -> None:
    settings = Settings.read()
    command = [
        sys.executable, "-m", "bentoml", "serve", "bench.serving.peers.bentoml.service:Lists",
        "--host", "127.0.0.1", "--port", str(settings.port), "--working-dir", os.getcwd(),
    ]  # fmt: skip
    os.execve(
        command[0],
        command,
        os.environ
        | {
            VARIABLE: settings.text(),
            "BENTOML_HOME": str(settings.scratch_folder),
            "BENTOML_DO_NOT_TRACK": "True",
        },
    )


if __name__ == "__main__":
    main()
