"""`equipoise verify` on messages that none is: a clear refusal, never a traceback; and what it is made of."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

import bench.verify
from bench.refused import InputRefused
from bench.verify.ordered import ALLOWED, BOOSTS, COME_FIRST
from equipoise.v1 import recommendation_pb2 as pb
from strategies.lists import asked
from strategies.live import LiveServer
from strategies.verifying import Verifier, verifier_of

OTHER = "the receipt tells nothing of other rules"
REASONS = "reasons are those of the policy's rules"
Change = Callable[[Any, Any], Any]


@pytest.fixture
def verifier(tmp_path: Path, bundle_path: Path) -> Verifier:
    return verifier_of(tmp_path, bundle_path)


def recommended(live: LiveServer, policy: str) -> tuple[pb.RecommendRequest, pb.RecommendResponse]:
    request = asked(policy, with_candidates=True, as_of_unix_ms=1_500_000_000_000)
    request.candidate_item_ids.extend(f"item-{n:03}" for n in range(50))
    return request, live.recommendation.Recommend(request, timeout=10)


def reranked(
    live: LiveServer, policy: str, **fields: Any
) -> tuple[pb.RerankRequest, pb.RerankResponse]:
    request = pb.RerankRequest(count=12, policy=policy, **fields)
    for n in range(40):
        request.candidates.add(
            item_id=f"item-{n:03}", score=(n * 7 % 31) / 8, group=f"category {n % 6}"
        )
    return request, live.recommendation.Rerank(request, timeout=10)


NO_MESSAGES: dict[str, tuple[str, Change]] = {
    "a candidate of the response comes twice": (
        "response0.json: candidates[50]", lambda _, r: r.candidates.append(r.candidates[3])
    ),
    "a candidate is named twice": (
        "request0.json: candidate_item_ids[50]",
        lambda q, _: q.candidate_item_ids.append("item-003"),
    ),
    "a score is no number": (
        "candidates[2].score", lambda _, r: setattr(r.candidates[2], "score", float("nan"))
    ),
    "a boost is no number": (
        "candidates[2].boost", lambda _, r: setattr(r.candidates[2], "boost", float("inf"))
    ),
    "an item's score is no number": (
        "items[1].score", lambda _, r: setattr(r.items[1], "score", -float("inf"))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_MESSAGES)
def test_what_nothing_can_be_computed_from_is_refused(
    live: LiveServer, verifier: Verifier, name: str
) -> None:
    where, change = NO_MESSAGES[name]
    request, response = recommended(live, "tiers")
    change(request, response)
    with pytest.raises(InputRefused) as refused:
        verifier(request, [response], "tiers")
    assert where in str(refused.value)


def test_an_answer_that_answers_nothing_is_refused(live: LiveServer, verifier: Verifier) -> None:
    request, _ = recommended(live, "tiers")
    with pytest.raises(InputRefused, match=r"response0\.json.*is an empty message"):
        verifier(request, [pb.RecommendResponse()], "tiers")


def test_another_policys_document_is_told_and_nothing_is_made_of_it(
    live: LiveServer, verifier: Verifier
) -> None:
    request, response = recommended(live, "tiers")
    code, claims = verifier(request, [response], "brands")
    ((name, claim),) = claims.items()
    assert (code, claim["verdict"]) == (1, "lie")
    assert "policy is 'tiers', the document says 'brands'" in claim["told"], name


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1.0])
def test_a_rerank_of_such_candidates_is_refused(
    live: LiveServer, verifier: Verifier, score: float
) -> None:
    request, response = reranked(live, "categories")
    request.candidates.add(item_id="item-003", score=score)
    with pytest.raises(InputRefused, match=r"request0.json: candidates\[40\]"):
        verifier(request, [response], "categories")


@pytest.mark.parametrize("depth", [50, 150_000])
@pytest.mark.parametrize("whole", ['{"receipt": %s}', '{"items": %s, "strange": 1}', "%s"])
def test_a_deep_response_is_refused(
    live: LiveServer, tmp_path: Path, bundle_path: Path, depth: int, whole: str
) -> None:
    from click.testing import CliRunner

    from bench.verify.command import command

    request, _ = recommended(live, "tiers")
    (tmp_path / "q.json").write_text(json.dumps(MessageToDict(request)))
    (tmp_path / "r.json").write_text(whole % ('{"receipt":' * depth + "1" + "}" * depth))
    flags = ["--request", str(tmp_path / "q.json"), "--response", str(tmp_path / "r.json")]
    flags += ["--policy", str(bundle_path / "policies/tiers.toml")]
    refused = CliRunner().invoke(command, flags).exception
    assert isinstance(refused, InputRefused), refused
    assert "r.json" in str(refused)


def _calibrated(_: Any, response: Any) -> None:
    response.receipt.calibration.add(group_table="category", before=0.2, after=0.1)


FOREIGN: dict[str, tuple[str, str, Change]] = {
    "calibration of floors": ("tiers", OTHER, _calibrated),
    "calibration of picks": ("varied", OTHER, _calibrated),
    "calibration of none": ("none", OTHER, _calibrated),
    "calibration twice": (
        "own-shares", OTHER, lambda _, r: r.receipt.calibration.append(r.receipt.calibration[0])
    ),
    "exposure of no groups": ("varied", OTHER, lambda _, r: r.receipt.exposure.add(group="large")),
    "exposure twice": (
        "tiers", OTHER, lambda _, r: r.receipt.exposure.append(r.receipt.exposure[0])
    ),
    "a best list though skipped": (
        "none", OTHER, lambda _, r: setattr(r.receipt, "utility_of_best", 1.0)
    ),
    "a nicer best list of no bounds": (
        "varied", OTHER, lambda _, r: setattr(r.receipt, "utility_of_best", 1.0)
    ),
    "skipped for another reason": ("none", OTHER, lambda _, r: setattr(r.receipt, "skip_reason", 2)),
    "a bad prefix of no groups": (
        "varied", OTHER, lambda _, r: setattr(r.receipt.first_bad_prefix, "prefix", 3)
    ),
    "a reason that is none": ("tiers", REASONS, lambda _, r: setattr(r.items[0], "reason", 99)),
    "a status that is none": (
        "tiers", "every prefix keeps its bounds, or the receipt says where not",
        lambda _, r: setattr(r.receipt, "status", 99),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_no_rule_tells_is_a_lie(live: LiveServer, verifier: Verifier, name: str) -> None:
    policy, claim, lie = FOREIGN[name]
    request, response = recommended(live, policy)
    assert verifier(request, [response], policy)[1][claim]["verdict"] == "holds"
    lie(request, response)
    code, claims = verifier(request, [response], policy)
    assert (code, claims[claim]["verdict"]) == (1, "lie")


def test_boosts_that_a_rerank_does_not_tell_are_no_lie(
    live: LiveServer, verifier: Verifier
) -> None:
    for _ in range(3):  # so that there is something to even out
        request, response = reranked(live, "over-time")
    code, claims = verifier(request, [response], "over-time")
    assert code == 3, claims
    for name in (COME_FIRST, ALLOWED, BOOSTS):
        assert claims[name]["verdict"] == "not checked"
        assert "with_candidates" in claims[name]["told"]


CANDIDATES: dict[str, Change] = {
    "one fewer": lambda _, r: r.candidates.pop(),
    "another score": lambda _, r: setattr(r.candidates[3], "score", 9),
    "another group": lambda _, r: setattr(r.candidates[3], "group", "category 0"),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_rerank_tells_the_candidates_of_its_request(
    live: LiveServer, verifier: Verifier, name: str
) -> None:
    request, response = reranked(live, "over-time", with_candidates=True)
    assert verifier(request, [response], "over-time")[0] == 0
    CANDIDATES[name](request, response)
    code, claims = verifier(request, [response], "over-time")
    assert (code, claims["candidates are those of the request"]["verdict"]) == (1, "lie")


def test_of_the_server_it_uses_the_bundle_reader_and_errors_alone() -> None:
    """What docs/policies.md says that it shares."""
    found: dict[str, set[str]] = {}
    folder = Path(bench.verify.__file__).parent
    for path in [*folder.glob("*.py"), folder.parent / "refused.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if not name.startswith(("bench.verify", "bench.refused", "equipoise.v1")):
                    found.setdefault(name, set()).add(path.stem)
    own = {
        name: by
        for name, by in found.items()
        if name.split(".")[0] in ("server", "bench", "training")
    }
    assert own == {"server.bundle": {"catalogue"}, "server.errors": {"document", "refused"}}
    assert {name: by for name, by in found.items() if name.startswith("scipy")} == {
        "scipy.optimize": {"optimum", "program"},
        "scipy.sparse": {"program"},
    }
