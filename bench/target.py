"""Where a server is: HOST:PORT, and whether bench may send load there.

>>> is_loopback("127.0.0.1:50051"), is_loopback("shop.example:443")
(True, False)
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from bench.refused import InputRefused

if TYPE_CHECKING:
    from equipoise.v1 import serving_pb2

INFO_TIMEOUT_S = 10.0


def _host(target: str) -> str:
    host, colon, port = target.removeprefix("http://").rstrip("/").rpartition(":")
    if not colon or not port.isdigit() or not host or "/" in host:
        raise InputRefused("--target", "", f"got {target!r}, allowed: HOST:PORT")
    return host.strip("[]")


def is_loopback(target: str) -> bool:
    """Whether the target is this machine.

    Raises:
        InputRefused: not HOST:PORT.
    """
    host = _host(target)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_target(target: str, *, allow_remote: bool) -> None:
    """Refuse to load somebody else's machine by mistake.

    Raises:
        InputRefused: not HOST:PORT, or not this machine and not allowed.
    """
    if not is_loopback(target) and not allow_remote:
        raise InputRefused(
            "--target",
            "",
            f"{target} is not this machine; give --allow-remote if you may send load there",
        )


def serving_info(target: str) -> serving_pb2.GetServingInfoResponse:
    """What the server says of itself.

    Raises:
        InputRefused: it does not answer, or not as a server of Equipoise.
    """
    import grpc

    from equipoise.v1 import serving_pb2
    from equipoise.v1.serving_pb2_grpc import ServingServiceStub

    with grpc.insecure_channel(target) as channel:
        try:
            info: serving_pb2.GetServingInfoResponse = ServingServiceStub(channel).GetServingInfo(
                serving_pb2.GetServingInfoRequest(), timeout=INFO_TIMEOUT_S, wait_for_ready=False
            )
        except grpc.RpcError as error:
            asked = {
                grpc.StatusCode.UNAVAILABLE: "is a server up?",
                grpc.StatusCode.DEADLINE_EXCEEDED: f"no answer within {INFO_TIMEOUT_S:g} s; does it hang?",
            }.get(error.code(), "it answers, but not as a server of Equipoise")  # fmt: skip
            told = f"{error.code().name}: {error.details()}; {asked}"
            raise InputRefused("--target", target, told) from error
    if not info.bundle_id:
        raise InputRefused(
            "--target", target, "it names no bundle, so it is no server of Equipoise"
        )
    return info
