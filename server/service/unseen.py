"""Calls that ended before the process looked at them: gRPC turned them away at its door, or their time
was over there. Nothing else of the server ever hears of them.

Owns their count, taken from channelz: those that gRPC began, less those that it ended and those that
are under way. Ahead of the truth by the calls on their way in, and never falls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpc_channelz.v1 import channelz, channelz_pb2
from prometheus_client import Counter

LOOK_S = 1.0


def ended_unseen(under_way: int) -> int:
    """How many so far, of this process's servers that channelz knows."""
    found = channelz.ChannelzServicer.GetServers(channelz_pb2.GetServersRequest(), None)
    calls = [server.data for server in found.server]
    left: int = sum(one.calls_started - one.calls_succeeded - one.calls_failed for one in calls)
    return left - under_way


async def count(counter: Counter, under_way: Callable[[], int]) -> None:
    """Keep the counter up to date until cancelled."""
    counted = 0
    while True:
        now = ended_unseen(under_way())
        if now > counted:
            counter.inc(now - counted)
            counted = now
        await asyncio.sleep(LOOK_S)
