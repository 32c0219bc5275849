"""What every process that serves has: its event loop, and the signals that stop it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_serving(main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` in an event loop made for serving."""
    # While a Python thread is busy, the thread that waits for onnxruntime gets its turn only
    # after this long: the default of 5 ms may be most of a request's latency, and at a tenth of
    # this the threads spend their time taking turns.
    sys.setswitchinterval(1e-3)
    return run_in_loop(main)


def run_in_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run `main` in the fastest event loop that is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ModuleNotFoundError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def keep_what_is_there() -> None:
    """Call once all that a server needs is made: no search for garbage looks at it again.

    Modules and compiled kernels are some 150,000 objects; each full collection would go through
    them, and every call would wait for that.
    """
    gc.collect()
    gc.freeze()


def on_hang_up(look: Callable[[], None]) -> None:
    """Have SIGHUP call this, on the event loop."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, look)


class StopSignals:
    """SIGTERM and SIGINT, heard from now on. asked: to stop; hurry: asked again."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        loop = asyncio.get_running_loop()
        # Explicit handlers, so that it also stops as process 1 of a container.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard)

    def _heard(self) -> None:
        (self.hurry if self.asked.is_set() else self.asked).set()
