"""What goes over the wire to Ray Serve: one method, raw tensors in protobuf's own BytesValue.

Ray wants a function that registers a gRPC service, as generated code has it.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue

SERVICE, METHOD = "equipoise.bench.Lists", "Make"
HISTORY = 50


def add_lists(servicer: Any, server: Any) -> None:
    """Register the service."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Make,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),)
    )
