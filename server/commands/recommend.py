"""`equipoise recommend`: ask a server for one list and show it as a table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

EXAMPLES = """\b
Examples:
  equipoise recommend --user 1 --count 10
  equipoise recommend --history 1082185 --history 995242@2017-12-01x2
  equipoise recommend --user 1 --count 40 --page-size 10
  equipoise recommend --user 1 --count 20 --evidence out/evidence
  equipoise recommend --user 1 --personalisation off --json
  equipoise recommend --user 1 --names out/demo/bundle

An event of --history is ITEM, ITEM@TIME or ITEM@TIMExQUANTITY; TIME is an ISO date
or Unix milliseconds. Exit code 1: the server refused, and the line says why."""


def _event(text: str) -> dict[str, Any]:
    item, _, rest = text.partition("@")
    when, _, quantity = rest.partition("x")
    event: dict[str, Any] = {"item_id": item}
    try:
        if when:
            event["time_unix_ms"] = _time_ms(when)
        if quantity:
            event["quantity"] = int(quantity)
    except ValueError as error:
        raise click.BadParameter(
            f"got {text!r}, allowed: ITEM[@TIME[xQUANTITY]], TIME an ISO date such as 2017-12-01 "
            "or Unix milliseconds",
            param_hint="'--history'",
        ) from error
    return event


def _time_ms(text: str) -> int:
    if text.isdigit():
        return int(text)
    moment = datetime.fromisoformat(text)
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


GROUPS_SHOWN = 12


@click.command("recommend", epilog=EXAMPLES)
@click.option(
    "--target", default="127.0.0.1:50051", show_default=True, help="HOST:PORT of the server."
)
@click.option(
    "--user",
    "user_id",
    default="",
    help="The user; the history comes from the server's event store.",
)
@click.option("--history", multiple=True, help="An event of an explicit history; may be repeated.")
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    help="An item to choose from; may be repeated. Default: the bundle's generator.",
)
@click.option("--count", default=10, show_default=True, help="How many items.")
@click.option("--page-size", default=0, help="Show so many of them a page.  [default: all]")
@click.option("--page-token", default="", help="The token of the page before.")
@click.option("--policy", default="", help="A policy of the bundle.  [default: the bundle's]")
@click.option(
    "--exclude", multiple=True, help="An item that must not be in the list; may be repeated."
)
@click.option(
    "--seen",
    type=click.Choice(["include", "exclude"]),
    default="include",
    show_default=True,
    help="What becomes of items bought before.",
)
@click.option(
    "--personalisation",
    type=click.Choice(["on", "off"]),
    default="on",
    show_default=True,
    help="off: nothing of the user is read.",
)
@click.option("--strict", is_flag=True, help="Unknown items are an error instead of skipped.")
@click.option("--as-of", help="Make the list for this time: ISO date or Unix milliseconds.")
@click.option("--surface", default="", help="Where the list is shown; echoed, and a metric label.")
@click.option("--experiment", default="", help="The experiment arm; echoed, and a metric label.")
@click.option("--validate-only", is_flag=True, help="Only say what the request means.")
@click.option("--timeout-s", default=5.0, show_default=True, help="The call's deadline.")
@click.option(
    "--names",
    type=click.Path(path_type=Path, exists=True),
    help="A bundle whose item names to show.",
)
@click.option(
    "--evidence",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for request.json and response.json, with all candidates, for equipoise verify; "
    "further pages of the list become response-2.json and so on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the response as JSON.")
def command(
    target: str,
    history: tuple[str, ...],
    candidates: tuple[str, ...],
    exclude: tuple[str, ...],
    seen: str,
    personalisation: str,
    strict: bool,
    as_of: str | None,
    timeout_s: float,
    names: Path | None,
    evidence: Path | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Ask a server for one fair list."""
    import grpc
    from google.protobuf.json_format import MessageToJson

    from equipoise.v1 import recommendation_pb2 as pb
    from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
    from server.commands.kept import keep, place_of

    if not re.fullmatch(r".+:\d{1,5}|unix:.+", target):
        raise click.BadParameter(f"got {target!r}, allowed: HOST:PORT", param_hint="'--target'")
    if evidence is not None and fields["validate_only"]:
        raise click.UsageError("--validate-only makes no list, so there is no --evidence of one")
    try:
        as_of_ms = _time_ms(as_of) if as_of else 0
    except ValueError as error:
        raise click.BadParameter(
            f"--as-of: got {as_of!r}, allowed: ISO date or milliseconds"
        ) from error
    events = [_event(text) for text in history]
    if any("time_unix_ms" not in event for event in events):
        # An event without a time happened just now.
        now_ms = as_of_ms or int(datetime.now(UTC).timestamp() * 1000)
        events = [{"time_unix_ms": now_ms} | event for event in events]
    request = pb.RecommendRequest(
        history=[pb.HistoryEvent(**event) for event in events],
        candidate_item_ids=candidates,
        exclude_item_ids=exclude,
        seen_items=pb.SEEN_ITEMS_EXCLUDE if seen == "exclude" else pb.SEEN_ITEMS_INCLUDE,
        personalisation=pb.PERSONALISATION_OFF
        if personalisation == "off"
        else pb.PERSONALISATION_ON,
        unknown_items=pb.UNKNOWN_ITEMS_REJECT if strict else pb.UNKNOWN_ITEMS_SKIP,
        as_of_unix_ms=as_of_ms,
        with_candidates=evidence is not None,
        **fields,
    )
    page = 1 if evidence is None else place_of(evidence, request.page_token)
    with grpc.insecure_channel(target) as channel:
        try:
            response = RecommendationServiceStub(channel).Recommend(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise click.ClickException(_told(error, target)) from error
    if evidence is not None:
        keep(evidence, page, request, response)
    if as_json:
        click.echo(MessageToJson(response, preserving_proto_field_name=True))
        return
    _show(response, _names(names))
    if evidence is not None:
        click.echo(
            f"to check it: equipoise verify --evidence {evidence} "
            f"--policy BUNDLE/policies/{response.receipt.policy}.toml --bundle BUNDLE"
        )


def _told(error: Any, target: str) -> str:
    import grpc

    code = error.code()
    reason = next(_reasons(error), "")
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        return (
            f"no answer from {target} ({error.details()}); is a server up? "
            "'make serve' starts one on the demo, 'equipoise serve --bundle DIR --events STORE' yours"
        )
    return f"{code.name}{f' ({reason})' if reason else ''}: {error.details()}"


def _reasons(error: Any) -> Iterator[str]:
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            yield info.reason


def _part(response: Any) -> str:
    """Of a page: its receipt speaks of more than is shown."""
    if not response.page_offset and not response.next_page_token:
        return ""
    size = sum(part.items for part in response.receipt.exposure)
    tables = len(response.receipt.group_table.split(",")) if response.receipt.group_table else 0
    return f" (of the whole list{f' of {size // tables}' if tables else ''})"


def _shares(exposure: Any) -> str:
    most = sorted(exposure, key=lambda part: -part.exposure_share)
    told = ", ".join(f"{part.group} {part.exposure_share:.0%}" for part in most[:GROUPS_SHOWN])
    more = len(most) - GROUPS_SHOWN
    return f"{told} and {more} groups more" if more > 0 else told


def _names(bundle: Path | None) -> dict[str, str]:
    if bundle is None:
        return {}
    table = json.loads((bundle / "items.json").read_text(encoding="utf-8"))
    return dict(zip(table["ids"], table["names"], strict=True))


def _show(response: Any, names: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from equipoise.v1 import recommendation_pb2 as pb

    # Names and groups are data: what looks like markup in them is printed as it is.
    console = Console(markup=False, emoji=False)
    if response.HasField("normalised"):
        console.print(response.normalised)
        return
    table = Table("rank", "item", "score", "by score", "group", "source", "why", box=None)
    for item in response.items:
        table.add_row(
            str(item.rank),
            f"{item.item_id}  {names.get(item.item_id, '')}".rstrip(),
            f"{item.score:.4f}",
            str(item.rank_by_score),
            item.group or ", ".join(item.groups),
            pb.CandidateSource.Name(item.source).removeprefix("CANDIDATE_SOURCE_").lower(),
            pb.ReasonCode.Name(item.reason).removeprefix("REASON_CODE_").lower(),
        )
    console.print(table)
    receipt = response.receipt
    status = pb.ReceiptStatus.Name(receipt.status).removeprefix("RECEIPT_STATUS_").lower()
    console.print(
        f"policy {receipt.policy} {receipt.policy_version}: {status}, "
        f"utility kept {receipt.utility_kept:.4f}"
        f"{f' ({receipt.utility_of_best:.4f} of the best)' if receipt.utility_of_best else ''}, "
        f"{receipt.places_moved} places moved{_part(response)}",
        soft_wrap=True,
    )
    if receipt.HasField("first_bad_prefix"):
        bad = receipt.first_bad_prefix
        console.print(
            f"first bad prefix {bad.prefix}: group {bad.group} needs {bad.needed}, "
            f"has {bad.available}"
        )
    for gap in receipt.calibration:
        console.print(
            f"distance to the user's own shares of {gap.group_table}: {gap.before:.3f} by score, "
            f"{gap.after:.3f} in this list"
        )
    if receipt.exposure:
        console.print(f"exposure: {_shares(receipt.exposure)}", soft_wrap=True)
    if response.next_page_token:
        console.print(
            f"next page: the same command with --page-token {response.next_page_token}",
            soft_wrap=True,
        )
    skipped = (
        (response.skipped_history_events, "events of the history"),
        (response.skipped_candidates, "candidates"),
    )
    for count, what in skipped:
        if count:
            console.print(
                f"{what} skipped: {count}, of items that the bundle does not know (--strict: an error)"
            )
    for reason in response.degraded_reasons:
        console.print(
            f"degraded: {pb.DegradedReason.Name(reason).removeprefix('DEGRADED_REASON_').lower()}"
        )
    console.print(
        f"{response.bundle_id}, {response.phases.total_ns / 1e6:.2f} ms in the server, "
        f"request {response.request_id}",
        soft_wrap=True,
    )
