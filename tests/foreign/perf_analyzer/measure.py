"""Runs Triton's perf_analyzer against a live server, to see that it works: `make test-clients`.

The wheel of tritonclient 2.50.0 is the last with the binary in it. It needs a library of Debian's
(libb64-0d, fetched with apt-get and unpacked beside it, not installed) and NVIDIA's runtime from PyPI.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from strategies.bundles import tiny_bundle
from strategies.foreign import KEPT, foreign_python
from strategies.live import live_server

CLIENT = "perf_analyzer"
RUNS = (
    ("recommend", ("--input-data", "DATA", "--concurrency-range", "1:4:3")),
    ("recommend", ("--input-data", "DATA", "--streaming", "--concurrency-range", "2")),
    ("ranker", ("--shape", "features:100,32", "-z", "-b", "2", "--concurrency-range", "4")),
)


def library(folder: Path) -> Path:
    """Where Debian's library lies; fetched when it is not there."""
    found = next(folder.glob("debian/usr/lib/*/libb64.so.0d"), None)
    if found is None:
        subprocess.run(["apt-get", "download", "libb64-0d"], cwd=folder, check=True)
        (package,) = folder.glob("libb64-0d_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(folder / "debian")], check=True)
        (found,) = folder.glob("debian/usr/lib/*/libb64.so.0d")
    return found.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--window-ms", type=int, default=2_000)
    window_ms = parser.parse_args().window_ms
    python = foreign_python(CLIENT)
    site = next((KEPT / CLIENT).glob("lib/python*/site-packages"))
    paths = [library(KEPT / CLIENT), *site.glob("nvidia/*/lib")]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, paths))}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        tiny_bundle(folder / "bundle")
        data = folder / "data.json"
        data.write_text(json.dumps({"data": [{"count": [10], "user_id": ["u1"]}]}))
        with live_server(folder, folder / "bundle", "--clock", "data-end") as server:
            for model, options in RUNS:
                command = [python.parent / "perf_analyzer", "-i", "grpc", "-u", server.target,
                           "-m", model, "-p", window_ms, "-s", "50", "-r", "3",
                           *(data if option == "DATA" else option for option in options)]  # fmt: skip
                print(f"\n# perf_analyzer -m {model} {' '.join(options)}", flush=True)
                done = subprocess.run(
                    [str(part) for part in command], env=environment, timeout=240, check=False
                )
                if done.returncode:
                    return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
