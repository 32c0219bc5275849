"""The fair stage inside a server under load: what its phase takes, list by list.

A small shop is drawn, trained and served by the project's own commands, in processes of their own;
callers ask in a closed loop for lists of 50 out of 1,000 candidates with a floor for each of four
groups. Wall-clock time, as the server's phase histogram has it: what the machine does beside it
counts.
"""

from __future__ import annotations

import csv
import datetime
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from bench.fairness.lines import Progress
from bench.fairness.timing import Row
from bench.served import equipoise, serving
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub

ITEMS, USERS, FAVOURITES, PURCHASES, GROUPS = 1500, 200, 40, 20_000, 4
CANDIDATES, COUNT, HISTORY = 1000, 50, 30
CALLERS = 4
CALLS_A_ROUND = 40
# Of each caller, before the first call that counts.
WARM_CALLS = 20
GOAL_US = 50.0
POLICY = """name = "floors"
version = "1"
kind = "floors"
group_table = "category"
reason = "Timing: a floor for each of four groups."
[floors]
c0 = "1/5"
c1 = "1/6"
c2 = "1/8"
c3 = "1/10"
"""


def _write_shop(folder: Path) -> None:
    """Items in four categories, and a year in which users mostly buy favourites of their own."""
    rng = np.random.default_rng(1)
    (folder / "policies").mkdir()
    (folder / "policies" / "floors.toml").write_text(POLICY, encoding="utf-8")
    with (folder / "items.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item", "category_path"])
        rows.writerows((f"i{item}", f"c{item % GROUPS}") for item in range(ITEMS))
    shares = 1 / np.arange(1, ITEMS + 1) ** 0.8
    shares = rng.permutation(shares / shares.sum())
    favourites = [rng.choice(ITEMS, FAVOURITES, replace=False, p=shares) for _ in range(USERS)]
    first = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    with (folder / "bought.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "time"])
        for number in range(PURCHASES):
            user = number % USERS
            item = (
                rng.choice(favourites[user]) if rng.random() < 0.8 else rng.choice(ITEMS, p=shares)
            )
            when = first + datetime.timedelta(seconds=int(rng.integers(360 * 86_400)))
            rows.writerow([f"u{user}", f"i{item}", when.isoformat()])


def _train(folder: Path) -> Path:
    bundle = folder / "bundle"
    command = equipoise(
        "train", "--quick", "--json",
        "--interactions", folder / "bought.csv", "--items", folder / "items.csv",
        "--policies", folder / "policies", "--out", bundle,
    )  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return bundle


def _rerank(rng: np.random.Generator) -> pb.RerankRequest:
    """Candidates that the caller has scored, no two alike."""
    drawn = zip(
        rng.permutation(ITEMS)[:CANDIDATES].tolist(), rng.random(CANDIDATES).tolist(), strict=True
    )
    return pb.RerankRequest(
        candidates=[
            pb.ScoredCandidate(item_id=f"i{item}", score=score, group=f"c{item % GROUPS}")
            for item, score in drawn
        ],
        count=COUNT,
    )


def _recommend(rng: np.random.Generator) -> pb.RecommendRequest:
    """Candidates that the model scores; many that the user never bought score alike."""
    return pb.RecommendRequest(
        history=[
            pb.HistoryEvent(item_id=f"i{item}", time_unix_ms=1_720_000_000_000 + number)
            for number, item in enumerate(rng.integers(ITEMS, size=HISTORY).tolist())
        ],
        candidate_item_ids=[f"i{item}" for item in rng.permutation(ITEMS)[:CANDIDATES].tolist()],
        count=COUNT,
        seen_items=pb.SEEN_ITEMS_INCLUDE,
    )


METHODS = {"Rerank": _rerank, "Recommend": _recommend}


def _ask(target: str, method: str, seed: int, calls: int) -> list[int]:
    """The fair phase of each call, ns; no two calls are alike."""
    rng = np.random.default_rng(seed)
    taken = []
    with grpc.insecure_channel(target) as channel:
        call = getattr(RecommendationServiceStub(channel), method)
        for _ in range(WARM_CALLS + calls):
            response = call(METHODS[method](rng), timeout=30)
            if len(response.items) != COUNT or response.receipt.status != pb.RECEIPT_STATUS_MET:
                raise RuntimeError(f"a list of {len(response.items)}, {response.receipt.status}")
            taken.append(response.phases.fair_ns)
    return taken[WARM_CALLS:]


def _row(target: str, method: str, callers: int, calls: int) -> Row:
    with ThreadPoolExecutor(callers) as pool:
        asked = [
            pool.submit(_ask, target, method, caller, calls // callers) for caller in range(callers)
        ]
        taken_us = np.array([ns for one in asked for ns in one.result()]) / 1e3
    p50, p90, p99 = (float(at) for at in np.percentile(taken_us, [50, 90, 99]))
    return Row(
        f"p99 in a server, {method}, {callers} in flight, {CANDIDATES:,} to {COUNT}",
        p99,
        "us",
        GOAL_US,
        f"median {p50:.0f} us, p90 {p90:.0f} us; {len(taken_us):,} lists, wall clock",
    )


def served(rounds: int, progress: Progress) -> Iterator[Row]:
    """The phase's percentiles, of one caller at a time and under load."""
    calls = CALLS_A_ROUND * rounds
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write_shop(folder)
        bundle = _train(folder)
        store = folder / "events.db"
        flags = ("--bundle", bundle, "--events", store, "--clock", "data-end")
        with serving(folder / "server.log", *flags) as live:
            progress(0.2)
            loads = [(method, callers) for method in METHODS for callers in (1, CALLERS)]
            for done, load in enumerate(loads, start=1):
                yield _row(live.target, *load, calls)
                progress(0.2 + 0.8 * done / len(loads))
