"""Which device trains. Models come back from it: what is exported is computed on the CPU.

On the CPU the same seed gives the same weights. A GPU is asked for the same, and warns where an
operation has no such form there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from server.errors import Refused

Choice = Literal["auto", "cpu", "cuda"]


def device_of(choice: Choice) -> torch.device:
    """The device to train on, with torch set up for it; auto: a GPU where there is one.

    Raises:
        Refused: a GPU is asked for, and torch sees none.
    """
    there = torch.cuda.is_available()
    if choice == "cuda" and not there:
        raise Refused("--device cuda: torch finds no GPU here; allowed: auto, cpu")
    use_gpu = there and choice != "cpu"
    if use_gpu:
        # Read by cuBLAS when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deterministic(warn_only=use_gpu)
    return torch.device("cuda" if use_gpu else "cpu")


def deterministic(*, warn_only: bool = False) -> None:
    """Ask torch for operations that give the same result each time; warn_only: where there are any."""
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    # It would fill memory that is written right after: a fifth of the time of a step of the towers.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many of torch's threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
