"""Fair paging: pages are one list, bound to their request, whatever happens between them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from server.bundle import load_bundle
from server.engine import Page
from server.errors import PageTokenInvalid, PageTokenStale, SettingsRefused
from server.service.pages import PageTokens, read_key
from strategies.lists import POLICIES, Shopper, asked, pages
from strategies.live import LiveServer, live_server

COUNT = 24


def first(policy: str, **fields: Any) -> pb.RecommendRequest:
    return asked(policy, **{"count": COUNT, "page_size": 5} | fields)


def refusal(live: LiveServer, request: pb.RecommendRequest) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        live.recommendation.Recommend(request, timeout=10)
    return refused.value.code(), refused.value.details()


@pytest.mark.parametrize("policy", [p for p in POLICIES if p != "over-time"])
def test_the_pages_together_are_the_list_without_pages(live: LiveServer, policy: str) -> None:
    request = first(policy)
    whole = live.recommendation.Recommend(first(policy, page_size=0), timeout=10)
    assert not whole.next_page_token
    found = pages(live, request)
    assert [len(page.items) for page in found] == [5, 5, 5, 5, 4]
    assert [page.page_offset for page in found] == [0, 5, 10, 15, 20]
    assert [item for page in found for item in page.items] == list(whole.items)
    assert all(page.receipt == whole.receipt for page in found)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_bought_between_pages_neither_repeats_an_item_nor_breaks_a_bound(
    live: LiveServer, policy: str
) -> None:
    shopper = Shopper(live, f"pages-{policy}")
    shopper.buy()
    request = first(policy, history=[], user_id=shopper.user, seen_items=2)
    found = pages(live, request, shopper.buy)
    ids = [item.item_id for page in found for item in page.items]
    assert len(ids) == len(set(ids)) == COUNT
    assert [item.rank for page in found for item in page.items] == list(range(1, COUNT + 1))
    last = found[-1].receipt
    # A calibrated policy's own bounds move with what is bought.
    kept = (pb.RECEIPT_STATUS_MET, pb.RECEIPT_STATUS_SKIPPED)
    assert last.status in (
        *kept,
        *([pb.RECEIPT_STATUS_NOT_FOUND] if policy == "own-shares" else []),
    )
    assert last.utility_kept < 1
    assert last.utility_of_best < 1
    if policy == "brands":
        private = [item.group == "Private" for page in found for item in page.items]
        for k in range(1, COUNT + 1):
            assert k // 4 <= sum(private[:k]) <= -(-k // 4)


def test_a_token_serves_its_own_request_and_no_other(live: LiveServer) -> None:
    request = first("tiers", user_id="me")
    token = live.recommendation.Recommend(request, timeout=10).next_page_token
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    for other in (
        first("tiers", user_id="you"),
        first("tiers", user_id="me", count=COUNT + 1),
        first("tiers", user_id="me", exclude_item_ids=["item-001"]),
        first("tiers", user_id="me", history=[]),
        first("brands", user_id="me"),
    ):
        other.page_token = token
        code, told = refusal(live, other)
        assert code is invalid
        assert "belongs to another request" in told
    turned = token[:20] + ("A" if token[20] != "A" else "B") + token[21:]
    for spoilt in (turned, token[1:], "x", "." * 3):
        code, told = refusal(live, first("tiers", user_id="me", page_token=spoilt))
        assert code is invalid
        assert "page_token" in told
    request.page_token, request.request_id, request.surface = token, "second", "home"
    request.with_candidates = True
    assert live.recommendation.Recommend(request, timeout=10).page_offset == 5


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": COUNT + 1}, "page_size"),
        ({"page_size": 0, "page_token": "x"}, "page_size"),
        ({"page_token": "x" * 8193}, "page_token"),
    ],
)
def test_page_fields_out_of_range_are_refused(
    live: LiveServer, fields: dict[str, Any], field: str
) -> None:
    code, told = refusal(live, first("tiers", **fields))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert field in told


def test_old_tokens_and_those_of_another_bundle_are_stale(bundle_path: Path) -> None:
    bundle = load_bundle(bundle_path)
    request = first("tiers")
    tokens = PageTokens(bundle, b"k" * 32, 60)
    page = Page((3, 1, 2), 1_500_000_000_000)
    request.page_token = tokens.token(request, page)
    assert tokens.page(request) == page
    with pytest.raises(PageTokenStale, match="older than"):
        PageTokens(bundle, b"k" * 32, -1).page(request)
    renamed = replace(bundle, manifest=bundle.manifest.model_copy(update={"bundle_id": "new-1"}))
    with pytest.raises(PageTokenStale, match="now new-1 serves"):
        PageTokens(renamed, b"k" * 32, 60).page(request)
    policies = {**bundle.policies, "tiers": bundle.policies["brands"]}
    with pytest.raises(PageTokenStale, match="a policy that has changed"):
        PageTokens(replace(bundle, policies=policies), b"k" * 32, 60).page(request)
    with pytest.raises(PageTokenInvalid, match="not made by this server"):
        PageTokens(bundle, b"j" * 32, 60).page(request)


@pytest.mark.slow
def test_with_one_key_a_page_is_good_at_every_replica(tmp_path: Path, bundle_path: Path) -> None:
    key = tmp_path / "page.key"
    key.write_text("0123456789abcdef" * 2)
    request = first("tiers", as_of_unix_ms=1_500_000_000_000)
    flags = ("--clock", "data-end", "--page-key-file", key)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    with (
        live_server(tmp_path / "one", bundle_path, *flags) as one,
        live_server(tmp_path / "two", bundle_path, *flags) as two,
    ):
        request.page_token = one.recommendation.Recommend(request, timeout=10).next_page_token
        assert two.recommendation.Recommend(request, timeout=10).page_offset == 5


def test_a_key_that_is_none_is_refused(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"secret")
    with pytest.raises(SettingsRefused, match="holds 6 bytes"):
        read_key(short)
    with pytest.raises(SettingsRefused, match="cannot read"):
        read_key(tmp_path / "none")
    assert read_key(None) != read_key(None)
