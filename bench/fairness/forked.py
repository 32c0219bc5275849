"""Runs pytest once for each line that it reads, each time in a fork that has all imports behind it.

A line names tests that are run alone, first; the others are not even collected where they fail.
Starting Python, numba, pytest and Hypothesis takes longer than the test that kills a mutant. Nothing
of the sources under test is imported before the fork. Writes the exit code, or -1 where the system
ended it after LIMIT_S seconds on the CPU, however busy the machine is.

python -m bench.fairness.forked LIMIT_S PYTEST_ARGUMENT...
"""

from __future__ import annotations

import importlib
import os
import resource
import sys

HEAVY = (
    "numba", "numpy", "pydantic", "pytest", "hypothesis.strategies", "_hypothesis_pytestplugin",
    "onnx", "onnxruntime", "grpc", "safetensors.numpy", "structlog", "scipy.optimize", "scipy.stats",
    "google.protobuf.json_format", "charset_normalizer", "typeguard", "unittest.mock", "pdb",
    "hypothesis.stateful", "hypothesis.extra.numpy",
)  # fmt: skip


def _test(arguments: list[str], first: str, limit_s: int) -> None:
    """The child: as a process of its own, silent."""
    import pytest

    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    code = 1
    try:
        options = arguments[: next(n for n, one in enumerate(arguments) if "tests/" in one)]
        code = int(pytest.main([*options, *first.split()])) if first else 0
        if code == 0:
            code = int(pytest.main(arguments))
    finally:
        os._exit(code)


def main() -> None:
    """Serve until the input ends."""
    limit_s, arguments = int(sys.argv[1]), sys.argv[2:]
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _test(arguments, line.strip(), limit_s)
        _, status = os.waitpid(child, 0)
        print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1, flush=True)


if __name__ == "__main__":
    main()
