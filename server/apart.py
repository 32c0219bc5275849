"""A bundle checked in a process of its own: what crashes or hangs there harms nobody.

Owns how such a process is started, heard and ended. Must not know what it checks, so that a process
without numpy or onnxruntime can have a bundle checked too; `server.commands.check_apart` is the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from server.errors import BundleRefused

MODULE = "server.commands.check_apart"
REFUSED = 2
TIMEOUT_S = 300.0
SAID_BYTES = 64 * 1024
"""How much of what the process says is listened to."""


async def check_apart(bundle: Path, max_count: int = 200, *, timeout_s: float = TIMEOUT_S) -> str:
    """The id of a bundle that a server would serve. Cancelled, it ends the process.

    Raises:
        BundleRefused: it would not; or the process crashed, hung, or took too much.
    """
    with tempfile.TemporaryFile() as errors:
        # Not the event loop's own way, for uvloop forks: that copies the page tables of all that
        # serves, and beside gRPC's threads the child crashes now and then. This is vfork.
        process = subprocess.Popen(
            _command(bundle, max_count, timeout_s),
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            async with asyncio.timeout(timeout_s):
                out = await asyncio.to_thread(_heard, process)
        except TimeoutError as error:
            raise BundleRefused(
                bundle.name, f"its check took longer than {timeout_s:.0f} s and was stopped"
            ) from error
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - SAID_BYTES))
        return _told(bundle, process.returncode, out, errors.read())


def _heard(process: subprocess.Popen[bytes]) -> bytes:
    """What it says, and no more than that of it; and wait for its end."""
    assert process.stdout is not None
    with process.stdout as stream:
        out = stream.read(SAID_BYTES)
    process.wait()
    return out


async def check_release(bundle: Path, bundle_id: str, max_count: int) -> None:
    """See that the bundle in a folder is the one of this id, and that a server would serve it.

    Raises:
        BundleRefused: as `check_apart`, or the folder holds another one.
    """
    found = await check_apart(bundle, max_count)
    if found != bundle_id:
        raise BundleRefused(bundle.name, f"holds {found}, not {bundle_id}")


def _command(bundle: Path, max_count: int, timeout_s: float) -> list[str]:
    arguments = (str(bundle), str(max_count), str(timeout_s))
    return [sys.executable, "-P", "-m", MODULE, *arguments]


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    # It has no use for more threads, whose stacks would count as memory that it takes.
    return {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _told(bundle: Path, code: int, out: bytes, errors: bytes) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        raise BundleRefused(bundle.name, f"its check was ended by {name}: a model that crashes")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        told = json.loads(out)
        if code == REFUSED:
            raise BundleRefused(str(told["file"]), str(told["why"]))
        if code == 0:
            return str(told["bundle_id"])
    lines = errors.decode(errors="replace").strip().splitlines()
    last = lines[-1] if lines else f"exit code {code}"
    raise BundleRefused(bundle.name, f"its check failed: {last[:300]}")
