"""The process in which a bundle is checked: `... -m server.commands.check_apart PATH MAX_COUNT TIMEOUT_S`.

Owns its limits. It does what a server does before it serves: every digest, the model checked and
loaded, golden inputs and warm-up requests replayed. `server.apart` starts it and hears what it says:
one JSON object with the bundle's id, or with exit code 2 the file and why it is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

from server.apart import REFUSED
from server.errors import BundleRefused, Refused

NICE = 10
"""So that whoever serves beside it comes first."""
MEMORY_BYTES = 2 * 1024**3
"""Of addresses, beyond what was taken before the bundle is looked at, and
`MEMORY_OF_BUNDLE` times the bundle's own size. A model that wants more is refused."""
MEMORY_OF_BUNDLE = 8
FILE_BYTES = 64 * 1024**2
"""Of any file that it writes: what it complains, and compiled kernels."""


def limit(folder: Path, timeout_s: float) -> None:
    """Bound what this process may take from now on: time, memory, and the machine's patience."""
    size = 0
    with contextlib.suppress(OSError):
        size = sum(path.stat().st_size for path in folder.rglob("*"))
    memory = _taken_bytes() + MEMORY_BYTES + MEMORY_OF_BUNDLE * size
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(timeout_s) + 1),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (value if hard < 0 else min(value, hard), hard))
    # Whoever started it may be gone: then nobody else would end a process that hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s + 1)
    # Where memory is short, this process is to go, and not the server beside it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _taken_bytes() -> int:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    except OSError:  # not Linux
        return 16 * 1024**3
    return int(pages) * resource.getpagesize()


def main() -> int:
    """Check, and say what was found."""
    path, max_count, timeout_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    os.nice(NICE)  # before the imports, which are most of the work

    from server.bundle import load_bundle
    from server.engine import Engine

    limit(path, timeout_s)
    try:
        bundle = load_bundle(path, max_count=max_count)
        Engine(bundle).warm_up()
    except BundleRefused as refused:
        print(json.dumps({"file": refused.file, "why": refused.why}))
        return REFUSED
    except Refused as refused:
        print(json.dumps({"file": path.name, "why": str(refused)}))
        return REFUSED
    except MemoryError:
        print(json.dumps({"file": path.name, "why": "its check needs more memory than allowed"}))
        return REFUSED
    print(json.dumps({"bundle_id": bundle.manifest.bundle_id}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
