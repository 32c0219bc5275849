"""`equipoise recommend`: what a person at a terminal reads."""

from __future__ import annotations

import socket

import pytest
from click.testing import CliRunner, Result

from equipoise.v1 import recommendation_pb2 as pb
from server.commands.recommend import _show, command
from strategies.live import LiveServer


def ask(target: str, *flags: str) -> Result:
    return CliRunner().invoke(command, ["--target", target, "--timeout-s", "20", *flags])


def test_a_mistyped_item_is_told_and_with_strict_an_error(live: LiveServer) -> None:
    flags = ("--history", "item-003@2017-07-01", "--history", "itm-004@2017-07-02")
    answer = ask(live.target, *flags)
    assert answer.exit_code == 0, answer.output
    told = "events of the history skipped: 1, of items that the bundle does not know"
    assert told in answer.stdout
    assert "candidates skipped" not in answer.stdout
    strict = ask(live.target, *flags, "--strict")
    assert strict.exit_code == 1
    assert "itm-004" in strict.output


def test_a_page_tells_how_to_get_the_next(live: LiveServer) -> None:
    flags = ("--history", "item-003", "--count", "12", "--page-size", "5")
    answer = ask(live.target, *flags)
    [line] = [line for line in answer.stdout.splitlines() if line.startswith("next page: ")]
    assert line.startswith("next page: the same command with --page-token ")
    token = line.rsplit(" ", 1)[1]
    alone = ask(live.target, *flags[:4], "--page-token", token)
    assert alone.exit_code == 1
    assert "page_size: got 0, allowed: that of the first page, beside page_token" in alone.output


def test_without_a_server_it_says_what_to_do() -> None:
    with socket.socket() as held:
        # Bound and not listening: nobody else can be there.
        held.bind(("127.0.0.1", 0))
        answer = ask(f"127.0.0.1:{held.getsockname()[1]}", "--user", "1")
    assert answer.exit_code == 1
    assert "is a server up? 'make serve' starts one on the demo" in answer.output


@pytest.mark.parametrize("target", ["localhost", "127.0.0.1", ":50051", "host:port", ""])
def test_a_target_without_a_port_is_refused(target: str) -> None:
    """gRPC would take port 443 for it, in silence."""
    answer = ask(target, "--user", "1")
    assert answer.exit_code == 2
    assert f"got {target!r}, allowed: HOST:PORT" in answer.output


def test_the_receipt_of_a_page_says_that_it_speaks_of_the_whole_list(live: LiveServer) -> None:
    flags = ("--history", "item-003", "--count", "12", "--policy", "tiers")
    page = ask(live.target, *flags, "--page-size", "5").stdout
    assert "places moved (of the whole list of 12)" in page
    assert "of the whole list" not in ask(live.target, *flags).stdout


def test_of_many_groups_those_with_the_most_exposure_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parts = [pb.GroupExposure(group=f"g{n}", exposure_share=n / 100) for n in range(20)]
    _show(pb.RecommendResponse(receipt=pb.FairnessReceipt(exposure=parts)), {})
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("exposure")]
    assert line.startswith("exposure: g19 19%, g18 18%")
    assert line.endswith("g8 8% and 8 groups more")


def test_what_looks_like_markup_in_data_is_printed_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    receipt = pb.FairnessReceipt(
        policy="p", policy_version="1 [/b]", status=pb.RECEIPT_STATUS_INFEASIBLE,
        first_bad_prefix=pb.PrefixViolation(prefix=3, group="[/x]", needed=2, available=1),
        exposure=[pb.GroupExposure(group="Tools [new]", exposure_share=1.0)],
    )  # fmt: skip
    items = [
        pb.RankedItem(rank=1, item_id="[/i]", group="[/x]"),
        pb.RankedItem(rank=2, item_id="b", groups=["t:[/x]", "u:heart:v"]),
    ]
    _show(pb.RecommendResponse(items=items, receipt=receipt), {"b": "Soup [tin]"})
    told = capsys.readouterr().out
    for shown in (
        "policy p 1 [/b]: infeasible", "group [/x] needs 2", "Tools [new] 100%", "[/i]",
        "b  Soup [tin]", "t:[/x], u:heart:v",
    ):  # fmt: skip
        assert shown in told
