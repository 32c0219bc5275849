"""Runs pytest once for each line that it reads, each time in a fork that has all imports behind it.

Starting Python, numba, pytest and Hypothesis takes longer than the test that kills a mutant. Nothing
of the sources under test is imported before the fork. Writes the exit code, or -1 after the limit.

python -m bench.fairness.forked LIMIT_S PYTEST_ARGUMENT...
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

HEAVY = (
    "numba",
    "numpy",
    "pydantic",
    "pytest",
    "hypothesis.strategies",
    "_hypothesis_pytestplugin",
)


def _test(arguments: list[str]) -> None:
    """The child: as a process of its own, silent."""
    import pytest

    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    code = 1
    try:
        code = int(pytest.main(arguments))
    finally:
        os._exit(code)


def _waited(child: int, limit_s: int) -> int:
    """The child's exit code; -1 where it had to be ended."""

    def end(*_: object) -> None:
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(limit_s)
    _, status = os.waitpid(child, 0)
    signal.alarm(0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1


def main() -> None:
    """Serve until the input ends."""
    limit_s, arguments = int(sys.argv[1]), sys.argv[2:]
    for name in HEAVY:
        importlib.import_module(name)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            _test(arguments)
        print(_waited(child, limit_s), flush=True)


if __name__ == "__main__":
    main()
