"""A live server as a machine: purchases, releases and policies change, and every answer stays right.

Against a model in plain Python: who bought what, and which release is active. Each list must be of the
release that is active, keep its policy's floors as the receipt says, leave out what was bought where
that is asked for, and be the same when nothing has changed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from bench.served import Served, serving
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from equipoise.v1.serving_pb2_grpc import ServingServiceStub
from server import releases
from server.cli import command as equipoise
from strategies.bundles import DATA_UNTIL_MS, N_ITEMS, tiny_bundle
from strategies.workers import until

pytestmark = pytest.mark.slow
USERS = ("ann", "bob")
KEPT = (pb.RECEIPT_STATUS_MET, pb.RECEIPT_STATUS_SKIPPED, pb.RECEIPT_STATUS_INFEASIBLE)


class Machine(RuleBasedStateMachine):
    """One server for all runs, since to start one takes seconds; each run has users of its own."""

    served: ClassVar[Served]
    root: ClassVar[Path]
    bundles: ClassVar[tuple[Path, ...]]
    names: ClassVar[tuple[str, ...]]
    runs: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.channel = self.served.channel()
        self.service = RecommendationServiceStub(self.channel)
        self.run = next(self.runs)
        self.bought: dict[str, set[str]] = {user: set() for user in USERS}
        self.known: dict[bytes, bytes] = {}
        self.events = 0
        self.active = ""

    def teardown(self) -> None:
        self.channel.close()

    def _name(self, user: str) -> str:
        return f"{user}-{self.run}"

    def _changed(self) -> None:
        """Answers of before need not come again."""
        self.known = {}

    @initialize(which=st.integers(0, 1))
    def begin(self, which: int) -> None:
        self.swap(which)

    @rule(which=st.integers(0, 1))
    def swap(self, which: int) -> None:
        """Another release, with another default policy."""
        self.active = self.names[which]
        releases.point(self.root, releases.Pointer(self.active))
        info = ServingServiceStub(self.channel)
        asked = serving_pb2.GetServingInfoRequest()
        # The check of a release takes seconds of a core, and minutes where others have them.
        until(lambda: info.GetServingInfo(asked, timeout=10).bundle_id == self.active, 120)
        self._changed()

    @rule(user=st.sampled_from(USERS), item=st.integers(0, N_ITEMS - 1), again=st.booleans())
    def buy(self, user: str, item: int, again: bool) -> None:
        """A purchase, sent twice or once: it counts once."""
        self.events += 1
        event = pb.FeedbackEvent(
            event_id=f"{self.run}-{self.events}", user_id=self._name(user),
            item_id=f"item-{item:03}", kind=pb.EVENT_KIND_PURCHASE,
            time_unix_ms=DATA_UNTIL_MS - 10_000 + self.events,
        )  # fmt: skip
        for time in range(1 + again):
            told = self.service.RecordFeedback(pb.RecordFeedbackRequest(events=[event]), timeout=10)
            assert (told.recorded, told.duplicates) == ((1, 0) if time == 0 else (0, 1))
        self.bought[user].add(event.item_id)
        self._changed()

    @precondition(lambda self: self.active)
    @rule(
        user=st.sampled_from(USERS),
        count=st.integers(1, 12),
        policy=st.sampled_from(["", "none", "tiers"]),
        without_seen=st.booleans(),
    )
    def ask(self, user: str, count: int, policy: str, without_seen: bool) -> None:
        request = pb.RecommendRequest(
            user_id=self._name(user), count=count, policy=policy, as_of_unix_ms=DATA_UNTIL_MS,
            with_candidates=True,
            seen_items=pb.SEEN_ITEMS_EXCLUDE if without_seen else pb.SEEN_ITEMS_INCLUDE,
        )  # fmt: skip
        response = self.service.Recommend(request, timeout=10)
        assert response.bundle_id == self.active
        ids = [item.item_id for item in response.items]
        assert len(set(ids)) == len(ids) <= count
        assert response.receipt.status in KEPT
        if policy:
            assert response.receipt.policy == policy
            assert (response.receipt.status == pb.RECEIPT_STATUS_SKIPPED) == (policy == "none")
        # Every purchase is known to the next call: its item is a candidate, or is not, as was asked for.
        looked_at = {item.item_id for item in response.candidates}
        assert set(ids) <= looked_at
        assert self.bought[user] & looked_at == (set() if without_seen else self.bought[user])
        for name in ("request_id", "phases", "next_page_token"):
            response.ClearField(name)  # type: ignore[arg-type]
        answer = response.SerializeToString(deterministic=True)
        key = request.SerializeToString(deterministic=True)
        assert self.known.setdefault(key, answer) == answer


def test_every_answer_stays_right_while_purchases_releases_and_policies_change() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for seed, default in ((1, "tiers"), (2, "none")):
            tiny_bundle(folder / str(seed), seed=seed, default_policy=default)
        Machine.bundles = (folder / "1", folder / "2")
        Machine.names = tuple(_bundle_id(path) for path in Machine.bundles)
        Machine.root, Machine.runs = folder / "root", itertools.count()
        for bundle in Machine.bundles:
            done = CliRunner().invoke(
                equipoise, ["bundle", "activate", str(Machine.root), str(bundle)]
            )
            assert done.exit_code == 0, done.output
        store = folder / "events.db"
        Machine.served = stack.enter_context(
            serving(folder / "log", "--bundle", Machine.root, "--events", store)
        )
        run_machine(
            Machine,
            settings=settings(
                max_examples=8, stateful_step_count=40, deadline=None, derandomize=True,
                database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip


def _bundle_id(path: Path) -> str:
    return str(json.loads((path / "manifest.json").read_text())["bundle_id"])
