"""A server that follows a folder of releases: what it serves, what it tells, what it refuses."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from bench.served import Served, serving
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from equipoise.v1.serving_pb2_grpc import ServingServiceStub
from server import releases
from server.cli import command as equipoise
from strategies.bundles import DATA_UNTIL_MS, reseal, tiny_bundle
from strategies.hostile import endless
from strategies.live import failure_of
from strategies.workers import until as until_said

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for seed in (1, 2):
        tiny_bundle(folder / str(seed), seed=seed)
    return folder / "1", folder / "2"


def said(*arguments: object) -> tuple[int, str]:
    """The exit code of a command, and what it said: of one that did it, without its progress."""
    done = CliRunner().invoke(equipoise, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return 2, str(done.exception)
    return done.exit_code, done.stdout if done.exit_code == 0 else done.output


def bundle_id(bundle: Path) -> str:
    return str(json.loads((bundle / "manifest.json").read_text())["bundle_id"])


def served_id(served: Served) -> str:
    with served.channel() as channel:
        info = ServingServiceStub(channel).GetServingInfo(
            serving_pb2.GetServingInfoRequest(), timeout=10
        )
    return str(info.bundle_id)


def until(true: Callable[[], bool], served: Served) -> None:
    """Wait for it; the log is in the failure."""
    import time

    until_s = time.monotonic() + 120
    while not true():
        assert time.monotonic() < until_s, served.log.read_text()
        time.sleep(0.02)


def until_found(find: Callable[[], list[psutil.Process]], served: Served) -> list[psutil.Process]:
    """Wait until there are some."""
    found: list[psutil.Process] = []

    def some() -> bool:
        with contextlib.suppress(psutil.Error):
            found[:] = find()
        return bool(found)

    until(some, served)
    return found


def test_the_commands_point_and_the_server_follows(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    root, (one, other) = tmp_path / "root", bundles
    code, told = said("bundle", "activate", root, one)
    assert (code, told) == (0, f"{bundle_id(one)} is active\n")
    with serving(tmp_path / "s.log", "--bundle", str(root)) as served, served.channel() as channel:
        service = RecommendationServiceStub(channel)
        asked: dict[str, Any] = {"count": 6, "page_size": 3, "as_of_unix_ms": DATA_UNTIL_MS}
        page = service.Recommend(pb.RecommendRequest(**asked), timeout=10)
        assert page.bundle_id == served_id(served) == bundle_id(one)

        code, told = said("bundle", "activate", root, other)
        assert (code, told) == (0, f"{bundle_id(other)} is active, before it {bundle_id(one)}\n")
        until(lambda: served_id(served) == bundle_id(other), served)
        # A page of the release before is refused in the stated way.
        _, details = failure_of(
            lambda: service.Recommend(
                pb.RecommendRequest(**asked, page_token=page.next_page_token), timeout=10
            )
        )
        assert details[0].reason == "PAGE_TOKEN_STALE"
        metrics = served.metrics()
        info = {name: value for name, value in metrics.items() if "serving_info" in name}
        assert sorted(value for value in info.values()) == [0, 1]
        assert metrics['equipoise_bundle_swaps_total{outcome="swapped"}'] == 1

        assert said("bundle", "rollback", root) == (0, f"{bundle_id(one)} is active again\n")
        until(lambda: served_id(served) == bundle_id(one), served)
        swapped = [line for line in served.events() if line["event"] == "release swapped"]
        assert [line["release"] for line in swapped] == [bundle_id(other), bundle_id(one)]
        # gRPC tells of a fork beside its threads, in which checks would crash now and then.
        assert "fork" not in served.log.read_text()
    code, told = said("bundle", "releases", root, "--json")
    assert json.loads(told) == {
        "active": bundle_id(one),
        "earlier": [],
        "left": [bundle_id(other)],
    }


def test_a_refused_release_is_told_once_and_tried_again_when_asked(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    root, (one, other) = tmp_path / "root", bundles
    for bundle in (other, one):
        releases.activate(root, bundle, bundle_id)
    broken = releases.path_of(root, bundle_id(other)) / "items.json"
    whole = broken.read_bytes()

    def refused() -> list[dict[str, object]]:
        return [line for line in served.events() if line["event"] == "release refused"]

    with serving(tmp_path / "s.log", "--bundle", str(root), "--workers", "2") as served:
        broken.write_bytes(whole[:-9])
        releases.point(root, releases.Pointer(bundle_id(other), (bundle_id(one),)))
        until(lambda: len(refused()) >= 1, served)
        assert served_id(served) == bundle_id(one)
        assert "items.json" in str(refused()[0]["error"])
        assert served.metrics()['equipoise_bundle_swaps_total{outcome="refused"}'] == 1
        broken.write_bytes(whole)
        # Mended, and nobody was told: only a pointer that is set anew or SIGHUP makes it look again.
        served.process.send_signal(signal.SIGHUP)
        wanted = f'bundle_id="{bundle_id(one)}"'
        until(
            lambda: all(
                value == 0
                for name, value in served.metrics().items()
                if "serving_info" in name and wanted in name
            ),
            served,
        )
        # Once for all workers, and not again before it was asked for.
        assert len(refused()) == 1
        assert served.metrics()['equipoise_bundle_swaps_total{outcome="swapped"}'] == 1
        assert served_id(served) == bundle_id(other)


def test_a_start_falls_back_to_the_last_release_that_can_be_served(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    root, (one, other) = tmp_path / "root", bundles
    for bundle in (one, other):
        releases.activate(root, bundle, bundle_id)
    shutil.rmtree(releases.path_of(root, bundle_id(other)))
    with serving(tmp_path / "s.log", "--bundle", str(root)) as served:
        assert served_id(served) == bundle_id(one)
        first = served.events()[0]
        assert (first["event"], first["release"]) == ("release refused", bundle_id(other))


def test_a_dead_worker_is_replaced_while_the_pointer_names_a_bad_release(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    """The replacement loads what the others serve, not what they refused."""
    root, (one, _) = tmp_path / "root", bundles
    releases.activate(root, one, bundle_id)
    flags = ("--bundle", str(root), "--workers", "2")
    with serving(tmp_path / "s.log", *flags) as served:
        # Nothing before it to fall back to, as after a rollback.
        releases.point(root, releases.Pointer("tiny-gone", ()))
        until(lambda: any(line["event"] == "release refused" for line in served.events()), served)
        workers = served.workers
        for pid in workers:
            psutil.Process(pid).kill()
        until(lambda: len(served.workers) == 2 and not {*workers} & {*served.workers}, served)
        assert served_id(served) == bundle_id(one)
        assert served.metrics()['equipoise_bundle_swaps_total{outcome="refused"}'] == 1


def test_where_the_active_release_is_damaged_and_all_workers_die_the_last_good_one_serves(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    root, (one, other) = tmp_path / "root", bundles
    for bundle in (one, other):
        releases.activate(root, bundle, bundle_id)
    flags = ("--bundle", str(root), "--workers", "2")
    with serving(tmp_path / "s.log", *flags) as served:
        assert served_id(served) == bundle_id(other)
        model = releases.path_of(root, bundle_id(other)) / "model.onnx"
        whole = model.read_bytes()
        model.write_bytes(whole[:-9])
        before = psutil.Process(served.process.pid).children()
        for worker in before:
            worker.kill()
        dead = {worker.pid for worker in before}
        until(lambda: len(served.workers) == 2 and not dead & {*served.workers}, served)
        assert served_id(served) == bundle_id(one)
        (fell,) = [line for line in served.events() if line["event"] == "release fell back"]
        assert (fell["release"], fell["before"]) == (bundle_id(one), bundle_id(other))
        assert served.metrics()['equipoise_bundle_swaps_total{outcome="refused"}'] == 1
        model.write_bytes(whole)
        served.process.send_signal(signal.SIGHUP)
        until(lambda: served_id(served) == bundle_id(other), served)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_check_that_hangs_keeps_nobody_from_another_release(
    bundles: tuple[Path, Path], tmp_path: Path, workers: str
) -> None:
    root, (one, other) = tmp_path / "root", bundles
    releases.activate(root, one, bundle_id)
    hostile = Path(shutil.copytree(one, tmp_path / "hostile"))
    reseal(hostile, {"model.onnx": endless()})
    with serving(tmp_path / "s.log", "--bundle", str(root), "--workers", workers) as served:
        everyone = psutil.Process(served.process.pid)
        releases.activate(root, hostile, bundle_id)
        checks = until_found(lambda: [
            child for child in everyone.children(recursive=True)
            if "server.commands.check_apart" in child.cmdline()
        ], served)  # fmt: skip
        for check in checks:
            check.suspend()
        releases.activate(root, other, bundle_id)
        until(lambda: served_id(served) == bundle_id(other), served)
        assert not any(check.is_running() for check in checks)
        given_up = [line for line in served.events() if line["event"] == "release given up"]
        assert [line["wanted"] for line in given_up] == [bundle_id(other)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_serves_is_kept_for_a_restart_whatever_was_activated_and_refused_since(
    bundles: tuple[Path, Path],
    tmp_path: Path,
    workers: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(releases, "KEPT", 1)
    root, (one, other) = tmp_path / "root", bundles
    releases.activate(root, one, bundle_id)
    flags = ("--bundle", str(root), "--workers", workers)

    def refused() -> int:
        return sum(line["event"] == "release refused" for line in served.events())

    with serving(tmp_path / "s.log", *flags) as served:
        for number in range(3):
            # Refused by this server, and not by whoever activates it.
            bad = Path(shutil.copytree(other, tmp_path / f"bad-{number}"))
            reseal(bad, {"model.onnx": b"no model", "MODEL_CARD.md": b"%d" % number})
            releases.activate(root, bad, bundle_id)
            until(lambda number=number: refused() == number + 1, served)
        assert releases.path_of(root, bundle_id(one)).exists()
        if workers == "2":
            before = served.workers
            for pid in before:
                psutil.Process(pid).kill()
            until(lambda: len(served.workers) == 2 and not {*before} & {*served.workers}, served)
        assert served_id(served) == bundle_id(one)
    with serving(tmp_path / "again.log", *flags) as served:
        assert served_id(served) == bundle_id(one)
        # It moves on, and nobody needs that one any more.
        releases.activate(root, other, bundle_id)
        until(lambda: served_id(served) == bundle_id(other), served)
        until(lambda: any(line["event"] == "release swapped" for line in served.events()), served)
        bad = Path(shutil.copytree(other, tmp_path / "bad-again"))
        reseal(bad, {"model.onnx": b"no model", "MODEL_CARD.md": b"again"})
        releases.activate(root, bad, bundle_id)
        assert not releases.path_of(root, bundle_id(one)).exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_ends_a_check_that_would_take_long(
    bundles: tuple[Path, Path], tmp_path: Path, workers: str
) -> None:
    root, (one, _) = tmp_path / "root", bundles
    releases.activate(root, one, bundle_id)
    hostile = Path(shutil.copytree(one, tmp_path / "hostile"))
    reseal(hostile, {"model.onnx": endless()})
    with serving(tmp_path / "s.log", "--bundle", str(root), "--workers", workers) as served:
        everyone = psutil.Process(served.process.pid)
        releases.activate(root, hostile, bundle_id)
        checks = until_found(lambda: [
            child for child in everyone.children(recursive=True)
            if "server.commands.check_apart" in child.cmdline()
        ], served)  # fmt: skip
        assert served_id(served) == bundle_id(one)
        served.process.send_signal(signal.SIGTERM)
        # Far less than the check's own five minutes.
        assert served.process.wait(60) == 0
        assert not any(check.is_running() for check in checks)


@pytest.mark.parametrize("command", ["activate", "rollback"])
def test_a_command_tells_once_that_it_waits_for_another_one(
    command: str, bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    root, (one, other) = tmp_path / "root", bundles
    for bundle in (one, other):
        releases.activate(root, bundle, bundle_id)
    arguments = [command, root, *([one] if command == "activate" else [])]
    said_so = tmp_path / "stderr"
    with (root / releases.LOCK).open("w") as held, said_so.open("w") as stderr:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            [sys.executable, "-m", "server.cli", "bundle", *map(str, arguments)], stderr=stderr
        )
        with waiting:
            try:
                until_said(lambda: "waiting for another" in said_so.read_text())
                assert waiting.poll() is None
            finally:
                fcntl.flock(held, fcntl.LOCK_UN)
    assert waiting.returncode == 0
    assert said_so.read_text().count(f"activate or rollback of {root}") == 1
    assert releases.read_pointer(root).active == bundle_id(one)


def test_the_commands_refuse_with_one_line(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    root, (one, _) = tmp_path / "root", bundles
    damaged = tmp_path / "damaged"
    shutil.copytree(one, damaged)
    (damaged / "goldens.safetensors").write_bytes(b"x")
    code, told = said("bundle", "activate", root, damaged)
    assert code == 2
    assert "goldens.safetensors" in told
    assert said("bundle", "rollback", root)[0] == 2
    assert said("bundle", "releases", root)[0] == 2
    assert said("bundle", "activate", root, one)[0] == 0
    code, told = said("bundle", "rollback", root)
    assert code == 2
    assert "there is none before it" in told
