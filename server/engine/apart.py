"""A bundle checked in a process of its own: what crashes or hangs there harms nobody.

Owns the limits of that process. It does what a server does before it serves: every digest, the model
checked and loaded, golden inputs and warm-up requests replayed. `python -m server.engine.apart PATH
MAX_COUNT` is the process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

from server.errors import BundleRefused, Refused

REFUSED = 2
TIMEOUT_S = 300.0
CPU_S = 300
MEMORY_BYTES = 16 * 1024**3
"""Of addresses, which onnxruntime and numba take generously; a model that wants more is refused."""
NICE = 10
"""So that whoever serves beside it comes first."""


def check_apart(bundle: Path, max_count: int = 200, *, timeout_s: float = TIMEOUT_S) -> str:
    """The id of a bundle that a server would serve.

    Raises:
        BundleRefused: it would not; or the process crashed, hung, or took too much.
    """
    command = [sys.executable, "-P", "-m", "server.engine.apart", str(bundle), str(max_count)]
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleRefused(
            bundle.name, f"its check took longer than {timeout_s:.0f} s and was stopped"
        ) from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise BundleRefused(bundle.name, f"its check was ended by {name}: a model that crashes")
    try:
        told = json.loads(done.stdout)
        if done.returncode == REFUSED:
            raise BundleRefused(told["file"], told["why"])
        if done.returncode == 0:
            return str(told["bundle_id"])
    except (ValueError, KeyError):
        pass
    last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    raise BundleRefused(bundle.name, f"its check failed: {last[0][:300]}")


def _main() -> int:
    path, max_count = Path(sys.argv[1]), int(sys.argv[2])
    os.nice(NICE)
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard < 0 else min(value, hard), hard))
    from server.bundle import load_bundle
    from server.engine.engine import Engine

    try:
        bundle = load_bundle(path, max_count=max_count)
        Engine(bundle).warm_up()
    except BundleRefused as refused:
        print(json.dumps({"file": refused.file, "why": refused.why}))
        return REFUSED
    except Refused as refused:
        print(json.dumps({"file": path.name, "why": str(refused)}))
        return REFUSED
    print(json.dumps({"bundle_id": bundle.manifest.bundle_id}))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
