"""A real gateway for tests: `equipoise gateway` on free ports, and plain HTTP/1.1 calls to it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import struct
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategies.workers import until

SHOP = "https://shop.example"
SERVICE = "/equipoise.v1.RecommendationService/"
TRAILERS = 0x80
"""The flag of the gRPC-Web frame that holds the trailers."""


@dataclass(frozen=True)
class HttpAnswer:
    """What came back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json", (self.headers, self.body)
        return json.loads(self.body)


@dataclass(frozen=True)
class Gateway:
    """A gateway that listens on `port`."""

    process: subprocess.Popen[bytes]
    port: int
    admin: str

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def http(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> HttpAnswer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return HttpAnswer(answer.status, named, answer.read())

    def json(self, method: str, request: Any, **headers: str) -> HttpAnswer:
        """A call of the recommendation service; `request` is written as JSON, bytes are sent as they are."""
        body = request if isinstance(request, bytes) else json.dumps(request).encode()
        typed = {"content-type": "application/json"}
        return self.http("POST", SERVICE + method, body, typed | _dashed(headers))

    def web(self, method: str, message: bytes, *, text: bool = False, **headers: str) -> HttpAnswer:
        """The same as a gRPC-Web client of a browser calls."""
        frame = struct.pack(">BI", 0, len(message)) + message
        kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
        typed = {"content-type": kind, "accept": kind, "x-grpc-web": "1"}
        body = base64.b64encode(frame) if text else frame
        return self.http("POST", SERVICE + method, body, typed | _dashed(headers))

    def healthy(self) -> bool:
        return self.http("GET", "/healthz").status == 200

    def serves(self) -> bool:
        """Whether a call comes through. What /healthz tells, Envoy's threads learn a moment later."""
        path = "/equipoise.v1.ServingService/GetServingInfo"
        headers = {"content-type": "application/json", "grpc-timeout": "30S"}
        return self.http("POST", path, b"{}", headers).status == 200

    def counted(self, stat: str) -> int:
        """One of Envoy's figures about the servers."""
        page = _admin(self.admin, f"/stats?format=json&filter=^cluster.equipoise.{stat}$")
        [figure] = page["stats"]
        value: int = figure["value"]
        return value


def _dashed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def web_frames(answer: HttpAnswer) -> tuple[list[bytes], dict[str, str]]:
    """The messages and the trailers of a gRPC-Web answer, which has them in frames of its body."""
    body = answer.body
    if answer.headers["content-type"].startswith("application/grpc-web-text"):
        # Whatever was flushed at once was padded by itself.
        parts = re.findall(rb"[^=]+=*", body)
        body = b"".join(base64.b64decode(part, validate=True) for part in parts)
    messages, trailers = [], {}
    while body:
        flag, size = struct.unpack_from(">BI", body)
        content, body = body[5 : 5 + size], body[5 + size :]
        assert len(content) == size, "a frame was cut short"
        assert not trailers, "trailers come last"
        if flag == TRAILERS:
            lines = content.decode("ascii").strip().split("\r\n")
            trailers = {name: value for name, _, value in (line.partition(":") for line in lines)}
        else:
            assert flag == 0
            messages.append(content)
    return messages, trailers


@contextlib.contextmanager
def live_gateway(folder: Path, *flags: str, healthy: bool = True) -> Iterator[Gateway]:
    """Run a gateway until the block ends. healthy: wait until it has found a server that serves."""
    admin_file, log = folder / "admin", folder / "gateway.log"
    admin_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "server.cli", "gateway", "--port", "0", "--admin-port", "0",
               *flags, "--", "--concurrency", "1", "--admin-address-path", str(admin_file)]  # fmt: skip
    with log.open("wb") as log_file:
        process = subprocess.Popen(command, stdout=log_file, stderr=log_file)
    try:

        def admin() -> str:
            assert process.poll() is None, f"the gateway did not come up:\n{log.read_text()}"
            return admin_file.read_text() if admin_file.exists() else ""

        address = until(admin, 60)
        until(lambda: _admin(address, "/server_info")["state"] == "LIVE")
        told = re.search(
            r"^gateway on http://127\.0\.0\.1:(\d+) to ", log.read_text(), re.MULTILINE
        )
        assert told is not None, log.read_text()
        gateway = Gateway(process, int(told[1]), address)
        if healthy:
            until(gateway.serves)
        yield gateway
    finally:
        process.terminate()
        process.wait(30)


def _admin(address: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as page:
        return json.load(page)
