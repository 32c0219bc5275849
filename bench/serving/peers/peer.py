"""The peers: what each is called, which programs are its server and caller, and one that runs.

Each has a folder here: `requirements.txt` with exact versions, `server.py`, whose docstring tells how
it was tuned, and a caller. Both run in the peer's environment, with the checkout on their path for
the fair stage. Whatever goes wrong with a peer is `Unavailable` with its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.serving.peers.environment import Unavailable, last_words
from bench.serving.peers.settings import Settings
from bench.serving.processes import Tree, foreign_listeners, free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
START_TIMEOUT_S = 160.0
ANSWER_TIMEOUT_S = 120.0
OIP = "bench.serving.peers.oip"
RAY = "bench.serving.peers.ray.client"


@dataclass(frozen=True)
class Peer:
    """A server that others built. caller: the module that asks it. folder: of its programs and its
    environment, where that is not the name's. texts: asked for items by their ids, as text. delay_us:
    how long it lets a request wait for others: some waiting saves CPU under load and costs time when
    alone, so that a server which can be told either way is measured both ways. direct: without a proxy between. goal: by whose
    goals it is judged, where that is not the folder's name; "none": it has more to do than others."""

    name: str
    title: str
    asked: str
    caller: str
    folder: str = ""
    texts: bool = False
    delay_us: int = 0
    direct: bool = False
    goal: str = ""

    @property
    def home(self) -> str:
        return self.folder or self.name

    @property
    def server(self) -> str:
        return f"bench.serving.peers.{self.home}.server"

    @property
    def requirements(self) -> Path:
        return HERE / self.home / "requirements.txt"


PEERS: tuple[Peer, ...] = (
    Peer("triton", "Triton, Python backend", "gRPC", OIP),
    Peer("triton-delay", "Triton, delay 0.5 ms", "gRPC", OIP, folder="triton", delay_us=500),
    Peer(
        "triton-text", "Triton, ids as text", "gRPC", OIP, folder="triton", texts=True, goal="none"
    ),
    Peer("pytriton", "PyTriton", "gRPC", OIP),
    Peer("mlserver", "MLServer", "gRPC", OIP),
    Peer("mlserver-delay", "MLServer, delay 5 ms", "gRPC", OIP, folder="mlserver", delay_us=5_000),
    Peer("litserve", "LitServe", "HTTP, JSON", "bench.serving.peers.litserve.client"),
    Peer("bentoml", "BentoML", "HTTP, JSON", "bench.serving.peers.bentoml.client"),
    Peer("ray", "Ray Serve", "gRPC", RAY),
    Peer("ray-direct", "Ray Serve, no proxy", "gRPC", RAY, "ray", direct=True, goal="ray-direct"),
)


@dataclass(frozen=True)
class Running:
    """A peer that serves, and its caller."""

    tree: Tree
    caller: subprocess.Popen[str]
    server: subprocess.Popen[bytes]
    logs: Path

    def drive(self, in_flight: int, seconds: float) -> dict[str, Any]:
        """So many in flight for so long; what the caller found, and the server's `cpu_us` a list.

        Raises:
            Unavailable: a wrong list, or none.
        """
        assert self.caller.stdin is not None
        before = self.tree.cpu_us()
        with contextlib.suppress(BrokenPipeError):
            self.caller.stdin.write(json.dumps({"in_flight": in_flight, "seconds": seconds}) + "\n")
            self.caller.stdin.flush()
        told = self._line(seconds + ANSWER_TIMEOUT_S)
        spent = self.tree.cpu_us() - before
        found: dict[str, Any] = json.loads(told)
        return found | {"cpu_us": spent / found["lists"]}

    def until_ready(self, port: int) -> None:
        """Wait for the first right answer, and see whose port it came from."""
        if self._line(START_TIMEOUT_S) != "ready\n":
            raise Unavailable(self._why("the caller did not start"))
        foreign = foreign_listeners(port, self.tree.members())
        if foreign:
            raise Unavailable(f"port {port} is listened on by {foreign}, not by this server alone")

    def _line(self, timeout_s: float) -> str:
        assert self.caller.stdout is not None
        ends = time.monotonic() + timeout_s
        while not select.select([self.caller.stdout], [], [], 0.1)[0]:
            if self.server.poll() is not None:
                raise Unavailable(self._why(f"the server ended with {self.server.returncode}"))
            if time.monotonic() > ends:
                raise Unavailable(self._why(f"nothing came in {timeout_s:.0f} s"))
        line = self.caller.stdout.readline()
        if not line:
            raise Unavailable(self._why("the caller ended", first="caller.log"))
        return line

    def _why(self, what: str, first: str = "server.log") -> str:
        text = (self.logs / first).read_text(encoding="utf-8", errors="replace")
        return f"{what}: {last_words(text)}"


@contextlib.contextmanager
def running(peer: Peer, python: Path, work: Path, calls: Path, logs: Path) -> Iterator[Running]:
    """A peer's server and caller, until the block ends. logs: a folder that keeps what they said.

    Raises:
        Unavailable: it did not come up, or answered wrongly, and why.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # The callers' interpreter may have been built with a shared library that nothing else names.
    libraries = os.pathsep.join(
        filter(None, [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")])
    )
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "LD_LIBRARY_PATH": libraries,
        "NUMBA_CACHE_DIR": str(python.parents[1] / "kernels"),
    }
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="equipoise-peer-", ignore_cleanup_errors=True)
        )
        port = free_port()
        name = f"lists_{secrets.token_hex(6)}"
        settings = Settings(
            str(work.resolve()), scratch, port, name, peer.texts, peer.delay_us, peer.direct
        )
        server_log = stack.enter_context((logs / "server.log").open("wb"))
        server = subprocess.Popen(
            [str(python), "-m", peer.server, settings.text()],
            stdout=server_log, stderr=server_log, stdin=subprocess.DEVNULL,
            env=environment, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        tree = Tree(server.pid)
        stack.callback(_stop, server, tree)
        told = {
            "name": name,
            "port": port,
            "calls": str(calls.resolve()),
            "texts": str(work.resolve() / "ids.json") if peer.texts else "",
        }
        caller_log = stack.enter_context((logs / "caller.log").open("wb"))
        caller = stack.enter_context(
            subprocess.Popen(
                [str(python), "-m", peer.caller, json.dumps(told)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=caller_log, text=True,
                env=environment, cwd=ROOT,
            )
        )  # fmt: skip
        stack.callback(caller.kill)
        live = Running(tree, caller, server, logs)
        live.until_ready(port)
        yield live


def _stop(server: subprocess.Popen[bytes], tree: Tree) -> None:
    tree.stop()
    server.wait()
