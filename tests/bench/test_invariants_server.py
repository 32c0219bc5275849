"""The theorems hold of the real server, and every planted fault is found."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.invariants import properties, run
from bench.invariants.expected import expected
from bench.invariants.run import check_server
from bench.invariants.world import learn
from bench.refused import InputRefused
from bench.target import serving_info
from equipoise.v1 import recommendation_pb2 as pb
from strategies import tampering
from strategies.bundles import tiny_bundle
from strategies.live import LiveServer

on_lists = tampering.on_lists
FLOORS, CAP, PLAIN = "Rerank under tiers", "Rerank under categories", "Rerank under none"
LIST, OFF = "Recommend under tiers", "personalisation off"
# Each fault, the property to run, and one theorem that must be told as broken.
EXAMPLES = 25
"""Of one property: docs/gate.md says that each fault is found within so many."""
FAULTS: dict[str, tuple[tampering.Fault, str, str]] = {
    "drops the floor": (on_lists(tampering.plain_order), FLOORS, "bounds_kept_when_met"),
    "a floor off by one": (
        on_lists(tampering.a_floor_one_place_late), FLOORS, "bounds_kept_when_met",
    ),
    "an item twice": (on_lists(tampering.last_twice), FLOORS, "no_duplicates"),
    "a place short": (on_lists(tampering.one_short), LIST, "length"),
    "an item nobody named": (on_lists(tampering.foreign_item), FLOORS, "subset_of_candidates"),
    "first two swapped": (on_lists(tampering.first_two_swapped), PLAIN, "rank_by_score"),
    "says met": (on_lists(tampering.claims_met), CAP, "first_bad_prefix_is_true"),
    "says infeasible": (on_lists(tampering.claims_infeasible), FLOORS, "first_bad_prefix_is_true"),
    "a later prefix": (on_lists(tampering.later_bad_prefix), CAP, "first_bad_prefix_is_true"),
    "more utility": (on_lists(tampering.more_utility), FLOORS, "utility_kept"),
    "fewer moved": (on_lists(tampering.fewer_moved), FLOORS, "places_moved"),
    "more exposure": (on_lists(tampering.more_exposure), LIST, "exposure"),
    "another policy": (on_lists(tampering.other_digest), PLAIN, "receipt_names_policy"),
    "no reasons": (on_lists(tampering.no_reasons), FLOORS, "reason_codes"),
    "another bundle": (on_lists(tampering.other_bundle), LIST, "one_bundle"),
    "ranks from 0": (on_lists(tampering.ranks_from_zero), PLAIN, "ranks"),
    "other scores": (on_lists(tampering.other_scores), PLAIN, "scores_unchanged"),
    "an excluded item": (on_lists(tampering.excluded_back), LIST, "excluded_never_appear"),
    "knows the user": (on_lists(tampering.knows_the_user), OFF, "off_means_off"),
    "another list each time": (
        on_lists(tampering.every_other_call_swapped()), PLAIN, "deterministic",
    ),
    "ties by place": (
        on_lists(tampering.in_the_order_of_the_request), PLAIN, "order_of_input_is_nothing",
    ),
    "rows of a batch mixed": (tampering.SwapsInCompany(), "in company", "same_in_company"),
    "INTERNAL": (tampering.crashes_on_bad_input, "malformed Recommend", "never_internal"),
    "forgives": (tampering.forgives_bad_input, "malformed RecordFeedback", "bad_input_refused"),
    "runs the model": (
        tampering.runs_on_validate_only, "validate only", "validate_only_makes_no_list",
    ),
}  # fmt: skip


def unasked(request: pb.RecommendRequest) -> pb.RecommendResponse:
    raise AssertionError("with its bundle a server need not be asked for items")


def broken(result: dict[str, Any]) -> set[str]:
    return {violation["invariant"] for violation in result["violations"]}


def test_every_theorem_holds_of_the_real_server(live: LiveServer, bundle_path: Path) -> None:
    done: list[float] = []
    result = check_server(
        live.target, bundle=bundle_path, examples=12, seed=3, progress=done.append
    )
    assert result["violations"] == []
    assert result["bundle_id"].startswith("tiny-")
    assert result["checked"]["bounds_kept_when_met"] > 50
    assert result["checked"]["no_fair_list_is_better"] > 10
    assert result["checked"]["bad_input_refused"] > 40
    assert result["checked"]["same_in_company"] > 10
    assert done[-1] == 1.0


def test_a_theorem_that_never_came_up_is_told_as_checked_0_times(
    live: LiveServer, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = learn(serving_info(live.target), unasked, bundle_path, seed=0)
    whole = check_server(live.target, bundle=bundle_path, examples=5, seed=3)
    assert expected(world) <= {name for name, times in whole["checked"].items() if times}
    assert "never" not in run.told(whole)
    monkeypatch.setattr(properties, "company_holds", lambda *_: None)
    less = check_server(live.target, bundle=bundle_path, examples=2, seed=3)
    assert less["checked"]["same_in_company"] == 0
    assert "never came up: same in company" in run.told(less)


def test_without_the_bundle_items_are_learned_and_receipts_checked(live: LiveServer) -> None:
    result = check_server(live.target, examples=5, seed=3)
    assert result["violations"] == []
    assert "bounds_kept_when_met" not in result["checked"]
    assert result["checked"]["utility_kept"] > 10


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(
    name: str, live: LiveServer, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether it is found is asked here; how small the example gets, below.
    monkeypatch.setattr(run, "SHRUNK", 0)
    fault, where, theorem = FAULTS[name]
    with tampering.tampered(live.channel, fault) as target:
        result = check_server(target, bundle=bundle_path, examples=EXAMPLES, seed=5, only=where)
    assert theorem in broken(result)
    assert result["violation_count"] == len(result["violations"]) > 0


def test_the_example_of_a_violation_is_small(live: LiveServer, bundle_path: Path) -> None:
    with tampering.tampered(live.channel, on_lists(tampering.more_utility)) as target:
        result = check_server(target, bundle=bundle_path, examples=10, seed=5, only=PLAIN)
    found = next(v for v in result["violations"] if v["invariant"] == "utility_kept")
    assert len(found["example"][0]["candidates"]) == 1


def test_a_server_of_another_bundle_is_refused(live: LiveServer, tmp_path: Path) -> None:
    tiny_bundle(tmp_path / "other", seed=9)
    with pytest.raises(InputRefused, match="the server serves tiny-"):
        check_server(live.target, bundle=tmp_path / "other", examples=1)
    with pytest.raises(InputRefused, match="allowed: a part of"):
        check_server(live.target, bundle=None, examples=1, only="no such property")


def test_a_target_without_a_server_or_elsewhere_is_refused() -> None:
    with pytest.raises(InputRefused, match="is a server up"):
        check_server("127.0.0.1:1", examples=1)
    with pytest.raises(InputRefused, match="allow-remote"):
        check_server("shop.example:443", examples=1)


def test_nothing_is_recorded_at_the_server(live: LiveServer, bundle_path: Path) -> None:
    recorded = []

    def watch(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(response, pb.RecordFeedbackResponse):
            recorded.append(response)
        return response

    with tampering.tampered(live.channel, watch) as target:
        check_server(target, bundle=bundle_path, examples=20, seed=1, only="RecordFeedback")
    assert recorded == []


def test_the_command_exits_0_and_1_and_writes_the_result(
    live: LiveServer, bundle_path: Path, tmp_path: Path
) -> None:
    def command(target: str, out: Path) -> subprocess.CompletedProcess[str]:
        arguments = [
            sys.executable, "-m", "server.cli", "invariants", "--target", target,
            "--bundle", str(bundle_path), "--examples", "6", "--only", FLOORS, "--out", str(out),
        ]  # fmt: skip
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    good = command(live.target, tmp_path / "good.json")
    assert good.returncode == 0, good.stderr
    assert "none is broken" in good.stdout
    assert json.loads((tmp_path / "good.json").read_text())["violation_count"] == 0
    with tampering.tampered(live.channel, tampering.on_lists(tampering.more_utility)) as target:
        bad = command(target, tmp_path / "bad.json")
        assert bad.returncode == 1
        assert "BROKEN utility_kept" in bad.stdout
        (violation,) = json.loads((tmp_path / "bad.json").read_text())["violations"]
        # The printed call, as it stands, shows the fault.
        (line,) = (line for line in bad.stdout.splitlines() if line.startswith("buf curl"))
        words = shlex.split(line)
        assert json.loads(words[words.index("-d") + 1]) == violation["example"][0]
        buf = str(Path(sys.executable).with_name("buf"))
        # The proxy tells no schema of its own, as the server does.
        with_schema = [
            buf,
            "curl",
            "--schema",
            str(Path(__file__).resolve().parents[2] / "proto"),
            *words[2:],
        ]
        seen = subprocess.run(with_schema, capture_output=True, text=True, check=False)
    assert seen.returncode == 0, seen.stderr
    assert json.loads(seen.stdout)["receipt"]["utilityKept"] > 0


def test_a_server_that_dies_half_way_leaves_a_void_report(
    live: LiveServer, bundle_path: Path
) -> None:
    asked = 0

    def fault(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
        nonlocal asked
        asked += 1
        if asked > 300:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
        return response

    with tampering.tampered(live.channel, fault) as target:
        result = check_server(target, bundle=bundle_path, examples=25, seed=5)
    assert not result["valid"]
    assert "did not end" in result["void_because"]
    assert sum(result["checked"].values()) > 100
    assert result["violations"] == []
    assert "VOID" in run.told(result)
