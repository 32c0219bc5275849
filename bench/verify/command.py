"""`equipoise verify`: files in, a table of claims and an exit code out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bench.verify.claims import Claim

EXAMPLES = """\b
Examples:
  equipoise recommend --user 1 --count 20 --evidence out/evidence
  equipoise verify --evidence out/evidence \\
      --policy out/demo/bundle/policies/provider-tiers.toml \\
      --bundle out/demo/bundle
  equipoise verify --request r.json --response p1.json --response p2.json \\
      --policy p.toml --bundle bundle

The files are the messages as protobuf JSON, in either of its spellings of names:
RecommendRequest and RecommendResponse, or RerankRequest and RerankResponse. Of a list in pages give
every page. A Recommend must have been asked with_candidates, otherwise most
claims cannot be checked. --bundle: every candidate's groups are looked up again
in it, candidates that the request named must be there, and a calibrated policy's
catalogue shares are read; without it groups are not checked, but where a Rerank
brought them, and the order of a diverse policy is not. --events: what the user
bought is counted again; give the store as it was when the list was made, or a
copy, for what came late or was erased since reads like a lie.

Taken as told: scores, which candidates the server chose where the request named
none, and how far behind each group is under an amortised policy. Checked is what
was made of them.

Exit code 0: every claim holds; 1: at least one is a lie; 3: none is a lie, but
some could not be checked, or the server missed a list that exists; 2: usage, or a
file that is no such message."""

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("verify", epilog=EXAMPLES, short_help="Recompute what a list and its receipt claim.")
@click.option(
    "--evidence",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A folder of 'equipoise recommend --evidence': request.json, and each response*.json.",
)
@click.option("--request", type=FILE, help="The request, as protobuf JSON.")
@click.option(
    "--response",
    "responses",
    type=FILE,
    multiple=True,
    help="The response, as protobuf JSON; of a list in pages all of them.",
)
@click.option("--policy", type=FILE, required=True, help="The policy document (TOML).")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The bundle that answered: its groups are looked up again.",
)
@click.option(
    "--events",
    type=FILE,
    help="The server's event store: the history of a request that brings none is read from it.",
)
@click.option(
    "--max-history-events",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="How many of a user's newest events the server reads.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the claims as JSON.")
def command(
    folder: Path | None,
    request: Path | None,
    responses: tuple[Path, ...],
    policy: Path,
    bundle: Path | None,
    events: Path | None,
    max_history_events: int,
    as_json: bool,
) -> None:
    """Recompute what a list and its receipt claim, without the fair stage's code."""
    from bench.refused import InputRefused
    from bench.verify.catalogue import read_ids, read_known
    from bench.verify.claims import Verdict
    from bench.verify.document import check_groups, read_document
    from bench.verify.evidence import read_evidence
    from bench.verify.history import read_stored
    from bench.verify.recompute import verify

    ids_of = None if bundle is None else partial(read_ids, bundle)
    evidence = read_evidence(*_files(folder, request, responses), ids_of)
    if events is not None and evidence.history is not None:
        stored = read_stored(evidence.history, events, max_history_events)
        evidence = replace(evidence, history=stored)
    try:
        text = policy.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputRefused(str(policy), "", f"is not UTF-8: {error}") from error
    document = read_document(text, str(policy))
    known = None if bundle is None else read_known(bundle, evidence.bundle_id)
    if known is not None:
        tables = (*document.tables, *filter(None, [evidence.group_table]))
        missing = [table for table in tables if table not in known.items]
        if missing:
            raise InputRefused(str(bundle), "", f"has no group table {missing[0]!r}")
        check_groups(document, known, str(policy))
    claims = verify(evidence, text, document, known)
    verdicts = {claim.verdict for claim in claims}
    if as_json:
        click.echo(
            json.dumps(
                {
                    "policy": document.name,
                    "bundle_id": evidence.bundle_id,
                    "claims": [
                        {"claim": c.name, "verdict": c.verdict.value, "told": c.told}
                        for c in claims
                    ],
                },
                indent=2,
            )
        )
    else:
        _show(claims)
    left = verdicts - {Verdict.HOLDS}
    sys.exit(1 if Verdict.LIE in left else 3 if left else 0)


def _files(
    folder: Path | None, request: Path | None, responses: tuple[Path, ...]
) -> tuple[Path, Sequence[Path]]:
    from bench.refused import InputRefused

    if folder is None:
        if request is None or not responses:
            raise click.UsageError("give --evidence DIR, or --request FILE and --response FILE")
        return request, responses
    if request is not None or responses:
        raise click.UsageError("--evidence DIR has the request and the responses already")
    found = sorted(folder.glob("response*.json"))
    if not found or not (folder / "request.json").is_file():
        raise InputRefused(
            str(folder),
            "",
            "has no request.json and response.json: "
            "'equipoise recommend --evidence DIR' writes them",
        )
    return folder / "request.json", found


def _show(claims: list[Claim]) -> None:
    from rich.console import Console, Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from bench.verify.claims import Verdict

    colour = {
        Verdict.HOLDS: "green",
        Verdict.LIE: "bold red",
        Verdict.NOT_CHECKED: "yellow",
        Verdict.MISSED: "yellow",
    }
    table = Table(box=None)
    # What does not hold is told below its claim, where a terminal of 80 columns has room for it.
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim", overflow="fold")
    for claim in claims:
        name, verdict = Text(claim.name), Text(str(claim.verdict), colour[claim.verdict])
        if claim.verdict is Verdict.HOLDS:
            table.add_row(verdict, name.append(f": {claim.told}" if claim.told else "", "dim"))
        else:
            table.add_row(verdict, Group(name, Padding(Text(claim.told), (0, 0, 0, 2))))
    console = Console()
    console.print(table)
    counts = Counter(claim.verdict for claim in claims)
    if set(counts) == {Verdict.HOLDS}:
        console.print(f"all {len(claims)} claims hold")
    else:
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        console.print(f"{len(claims)} claims: {told}")
