"""What a model is to the Open Inference Protocol, whatever it does.

Owns the form in which models describe themselves and hand over what they made;
and `Served`, the one look at what serves, taken anew for each request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from server.bundle import Bundle
from server.service.lists import Call, ListMaker
from server.service.oip.tensors import TensorSpec, Value
from server.service.release import Current, Jobs, Release

VERSION = "1"


@dataclass(frozen=True)
class Served:
    """What serves now: a release, the queue, and what makes lists with them."""

    release: Release
    batcher: Jobs
    lists: ListMaker

    @property
    def bundle(self) -> Bundle:
        return self.release.bundle


def follower(current: Current, lists: ListMaker) -> Callable[[], Served]:
    """Tells what serves: the same object as long as the same release does."""
    last = Served(current.release, current.batcher, lists)

    def served() -> Served:
        nonlocal last
        if last.release is not current.release:
            last = Served(current.release, current.batcher, lists)
        return last

    return served


@dataclass(frozen=True)
class Execution:
    """One piece of work that several inferences shared. None are alike but of one execution."""

    formed_ns: int
    run: int = 0


@dataclass(frozen=True)
class Made:
    """What a model made of one request.

    inferences: how many lists. queue_ns: how long it waited. shared_ns: the time of the work that
    it shared with all of `execution`; own_ns: of the work that was done for it alone. encode_ns: of
    making outputs of what came.
    """

    outputs: Mapping[str, Value]
    inferences: int
    execution: Execution
    queue_ns: int
    shared_ns: int
    own_ns: int
    encode_ns: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Description:
    """What callers are told of a model. max_batch: 0 where tensors have no batch axis."""

    name: str
    platform: str
    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int


class Model(Protocol):
    """One model of what serves."""

    @property
    def description(self) -> Description:
        """Its name, inputs and outputs."""

    async def run(self, inputs: Mapping[str, Value], call: Call) -> Made:
        """Make the outputs of inputs that are as described.

        Raises:
            EquipoiseError: it cannot; the queue's errors as in a Recommend.
        """
