"""`equipoise verify` on lists in pages: what moves honestly between them is no lie, and all else is."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.refused import InputRefused
from bench.verify.command import command
from equipoise.v1 import recommendation_pb2 as pb
from server.commands.recommend import command as recommend
from strategies.lists import POLICIES, Shopper, asked, pages
from strategies.live import LiveServer, live_server
from strategies.tampering import more_bought
from strategies.verifying import Verifier, verifier_of

AGREE = "the pages' receipts agree in all that nothing moved"
EARLIER = "the earlier pages' receipts suit what they show"

Pages = list[pb.RecommendResponse]


@pytest.fixture
def verifier(tmp_path: Path, bundle_path: Path) -> Verifier:
    return verifier_of(tmp_path, bundle_path)


def first(policy: str, **fields: Any) -> pb.RecommendRequest:
    given = {"with_candidates": True, "as_of_unix_ms": 1_500_000_000_000, "page_size": 7}
    return asked(policy, **given | fields)


def crowd(live: LiveServer) -> Callable[[], None]:
    """Others are shown lists of large makers, then of small ones, so that boosts move."""
    turns = itertools.count()

    def show() -> None:
        items = range(30) if next(turns) % 2 == 0 else range(48, 60)
        others = [pb.ScoredCandidate(item_id=f"item-{n:03}", score=1) for n in items]
        for _ in range(6):
            request = pb.RerankRequest(candidates=others, count=12, policy="over-time")
            live.recommendation.Rerank(request, timeout=10)

    return show


@pytest.fixture(scope="module")
def moved(
    tmp_path_factory: pytest.TempPathFactory, bundle_path: Path
) -> tuple[pb.RecommendRequest, Pages]:
    """A list in three pages of a server of its own, of which every receipt differs honestly."""
    request = first("over-time")
    with live_server(tmp_path_factory.mktemp("moved"), bundle_path) as server:
        found = pages(server, request, crowd(server))
    assert len({page.receipt.SerializeToString(deterministic=True) for page in found}) == 3
    return request, found


def copied(found: Pages) -> Pages:
    copies = []
    for page in found:
        copies.append(pb.RecommendResponse())
        copies[-1].CopyFrom(page)
    return copies


def test_the_pages_of_a_list_are_verified_together(live: LiveServer, verifier: Verifier) -> None:
    request = first("brands")
    found = pages(live, request)
    assert [len(page.items) for page in found] == [7, 7, 6]
    assert verifier(request, found, "brands")[0] == 0
    assert verifier(request, found[:2], "brands")[0] == 3
    assert verifier(request, [found[0], found[2]], "brands")[0] == 1


def test_the_order_of_the_files_does_not_matter(live: LiveServer, verifier: Verifier) -> None:
    """A shell lists response-2.json before response.json."""
    request = first("brands")
    one, two, three = pages(live, request)
    assert verifier(request, [two, three, one], "brands") == verifier(
        request, [one, two, three], "brands"
    )


def test_a_folder_of_evidence_is_verified_as_it_was_written(
    live: LiveServer, tmp_path: Path, bundle_path: Path
) -> None:
    folder, token = tmp_path / "kept", ""
    flags = ["--target", live.target, "--history", "item-003@2017-07-01", "--count", "12",
             "--page-size", "5", "--policy", "tiers", "--as-of", "2017-07-10",
             "--evidence", str(folder), "--timeout-s", "20"]  # fmt: skip
    for _ in range(3):
        asked_for = CliRunner().invoke(recommend, [*flags, "--page-token", token])
        assert asked_for.exit_code == 0, asked_for.output
        assert f"equipoise verify --evidence {folder} --policy BUNDLE" in asked_for.stdout
        lines = asked_for.stdout.splitlines()
        token = next((line.rsplit(" ", 1)[1] for line in lines if line.startswith("next page")), "")
    assert len(list(folder.glob("response*.json"))) == 3
    checked = CliRunner().invoke(
        command,
        ["--evidence", str(folder), "--policy", str(bundle_path / "policies/tiers.toml"),
         "--bundle", str(bundle_path)],
    )  # fmt: skip
    assert checked.exit_code == 0, checked.output
    assert re.search(r"^all \d+ claims hold$", checked.stdout, re.MULTILINE)


def test_what_is_no_folder_of_evidence_is_refused(tmp_path: Path, bundle_path: Path) -> None:
    policy = ["--policy", str(bundle_path / "policies/tiers.toml")]
    none = CliRunner().invoke(command, ["--evidence", str(tmp_path), *policy])
    assert isinstance(none.exception, InputRefused)
    assert "has no request.json and response.json" in str(none.exception)
    neither = CliRunner().invoke(command, policy)
    assert (neither.exit_code, "give --evidence DIR, or" in neither.output) == (2, True)


@pytest.mark.parametrize("policy", POLICIES)
def test_honest_pages_hold_in_every_claim(
    live: LiveServer, verifier: Verifier, policy: str
) -> None:
    request = first(policy)
    code, claims = verifier(request, pages(live, request, crowd(live)), policy)
    left = {name: claim for name, claim in claims.items() if claim["verdict"] != "holds"}
    assert (code, left) == (0, {})
    assert {AGREE, EARLIER} <= claims.keys()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_bought_between_pages_makes_no_lie(
    live: LiveServer, verifier: Verifier, policy: str
) -> None:
    shopper = Shopper(live, f"verified-pages-{policy}")
    shopper.buy()
    request = first(policy, history=[], user_id=shopper.user)
    found = pages(live, request, shopper.buy)
    assert {c.score for c in found[0].candidates} != {c.score for c in found[1].candidates}
    code, claims = verifier(request, found, policy, "--events", live.log.parent / "events.db")
    lies = {name: claim for name, claim in claims.items() if claim["verdict"] == "lie"}
    assert (code, lies) == (3 if policy == "own-shares" else 0, {})
    if policy == "own-shares":
        more_bought(found[-1])
        claims = verifier(request, found, policy, "--events", live.log.parent / "events.db")[1]
        assert claims["what the user bought is counted right"]["verdict"] == "lie"


def _every_share_to(page: pb.RecommendResponse, first_items: int) -> None:
    shares = page.receipt.exposure
    shares[0].items, shares[1].items = first_items, shares[0].items + shares[1].items - first_items


def _both_shares_to_one(page: pb.RecommendResponse) -> None:
    one, other = page.receipt.exposure[:2]
    one.exposure_share, other.exposure_share = one.exposure_share + other.exposure_share, 0.0


def _spoil(field: str, value: Any) -> Callable[[Pages], None]:
    return lambda pages: setattr(pages[0].receipt, field, value)


# Of pages that moved honestly: each lie is told by the first page's receipt or of what it was made of.
MOVED: dict[str, tuple[str, Callable[[Pages], None]]] = {
    "another policy": (AGREE, _spoil("policy", "tiers")),
    "another version": (AGREE, _spoil("policy_version", "2")),
    "another digest": (AGREE, _spoil("policy_digest", "0" * 64)),
    "another discount": (AGREE, _spoil("discount", "reciprocal")),
    "another group table": (AGREE, _spoil("group_table", "brand")),
    "groups are the caller's": (AGREE, _spoil("groups_from_caller", True)),
    "a reason to skip": (AGREE, _spoil("skip_reason", 1)),
    "skipped": (AGREE, _spoil("status", pb.RECEIPT_STATUS_SKIPPED)),
    "another bundle": (AGREE, lambda pages: setattr(pages[0], "bundle_id", "other-1")),
    "scores moved too": (
        AGREE,
        lambda pages: [setattr(c, "score", c.score / 2) for c in pages[0].candidates]
        and [setattr(i, "score", i.score / 2) for i in pages[0].items],
    ),
    "a bound was not kept": (EARLIER, _spoil("status", pb.RECEIPT_STATUS_INFEASIBLE)),
    "not found, on a first page": (EARLIER, _spoil("status", pb.RECEIPT_STATUS_NOT_FOUND)),
    "more utility than any list": (EARLIER, _spoil("utility_kept", 1.2)),
    "less utility than any list": (EARLIER, _spoil("utility_kept", 0.1)),
    "more places moved than there are": (EARLIER, _spoil("places_moved", 21)),
    "a group got more than the places left": (
        EARLIER, lambda pages: setattr(pages[0].receipt.exposure[0], "items", 20)
    ),
    "a group got fewer than are shown": (EARLIER, lambda pages: _every_share_to(pages[0], 0)),
    "a share is nicer": (
        EARLIER, lambda pages: setattr(pages[0].receipt.exposure[0], "exposure_share", 0.9)
    ),
    "one group has the share of two": (EARLIER, lambda pages: _both_shares_to_one(pages[0])),
    "exposure is not told": (EARLIER, lambda pages: pages[0].receipt.ClearField("exposure")),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVED)
def test_a_lie_on_pages_that_moved_is_found(
    moved: tuple[pb.RecommendRequest, Pages], verifier: Verifier, name: str
) -> None:
    claim, lie = MOVED[name]
    request, found = moved[0], copied(moved[1])
    assert verifier(request, found, "over-time")[0] == 0
    lie(found)
    code, claims = verifier(request, found, "over-time")
    assert (code, claims[claim]["verdict"]) == (1, "lie"), claims


def test_nothing_that_moved_means_receipts_that_agree(
    moved: tuple[pb.RecommendRequest, Pages], verifier: Verifier
) -> None:
    """Also under an amortised policy: boosts that stand still excuse nothing."""
    request, found = moved[0], copied(moved[1])
    for page in found:
        del page.candidates[:]
        page.candidates.extend(found[-1].candidates)
    assert verifier(request, found, "over-time")[1][AGREE]["verdict"] == "lie"


def test_boosts_move_under_amortised_policies_alone(live: LiveServer, verifier: Verifier) -> None:
    request = first("tiers")
    found = pages(live, request)
    found[0].candidates[0].boost = 0.1
    code, claims = verifier(request, found, "tiers")
    assert (code, claims[AGREE]["verdict"]) == (1, "lie")


def test_without_candidates_receipts_that_moved_are_not_trusted(
    live: LiveServer, moved: tuple[pb.RecommendRequest, Pages], verifier: Verifier
) -> None:
    request, found = moved[0], copied(moved[1])
    for page in found:
        del page.candidates[:]
    code, claims = verifier(request, found, "over-time")
    assert (code, claims[AGREE]["verdict"]) == (3, "not checked")
    plain = first("tiers", with_candidates=False)
    found = pages(live, plain)
    found[0].receipt.utility_kept += 0.01
    code, claims = verifier(plain, found, "tiers")
    assert (code, claims[AGREE]["verdict"]) == (1, "lie")
