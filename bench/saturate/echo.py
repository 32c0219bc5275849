"""A server that does nothing: gRPC's C core with one canned answer, to see what the generator can do.

    python -m bench.saturate.echo INFO ANSWER

prints its port and answers GetServingInfo and Recommend with the bytes of these files, until its input
ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from server.process import run_in_loop

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[bytes, bytes]


class _Canned(grpc.GenericRpcHandler):  # type: ignore[misc, unused-ignore]
    def __init__(self, info: bytes, answer: bytes) -> None:
        async def tell(request: bytes, context: object) -> bytes:
            return info

        async def recommend(request: bytes, context: object) -> bytes:
            return answer

        self._tell: Handler = grpc.unary_unary_rpc_method_handler(tell)
        self._recommend: Handler = grpc.unary_unary_rpc_method_handler(recommend)

    def service(self, details: grpc.HandlerCallDetails) -> Handler:
        return self._tell if str(details.method).endswith("GetServingInfo") else self._recommend


async def _serve(info: bytes, answer: bytes) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Canned(info, answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(0)


if __name__ == "__main__":
    run_in_loop(_serve(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]).read_bytes()))
