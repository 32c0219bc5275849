"""`equipoise gate`, `gate explain`, `gate seal`: flags in, a verdict and its exit code out.

Thin, and outside of `bench.gate`, so that the help needs no scipy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import click

from bench.refused import InputRefused

FILE = click.Path(path_type=Path, dir_okay=False)
DECIDE = "decide"

GATE_EXAMPLES = """\b
Examples:
  equipoise gate --budgets bench/budgets/demo.toml \\
      out/demo/quality/quality.json out/demo/load/load.json \\
      out/demo/invariants.json
  equipoise gate --budgets b.toml results/*.json \\
      --bundle-id shop-0123456789ab --junit-out gate.xml
  equipoise gate --budgets b.toml new/*.json --baseline old/quality.json
  equipoise gate explain b.toml        what each line means, and needs
  equipoise gate seal b.toml --out b.seal.json

\b
A budget file (more in docs/gate.md):
  schema_version = 1
  name = "shop"
  [[budget]]
  metric = "load.latency_ms.p99"   # KIND.PATH in a result file
  at_most = 50                     # or at_least, or both, or a margin
  decide_on = "interval"           # or "value", for hard counts
  min_n = 1000                     # the least evidence to decide on
  reason = "The page waits 60 ms for us."
  expires = 2027-06-30             # optional; then it fails till decided anew

Exit code 0: pass. 1: a budget is broken, or its data is absent, null, NaN or of
another bundle. 3: nothing is broken, but the evidence is not enough. 2: usage,
a file that makes no sense, or a report that cannot be written."""


class _Gate(click.Group):
    """A group whose first word need not be a subcommand: `gate --budgets ...` decides."""

    @property
    def default(self) -> click.Command:
        """What the group does where the first word is no subcommand."""
        return self.commands[DECIDE]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in super().list_commands(ctx) if name != DECIDE]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [DECIDE, *args]
        return super().parse_args(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        own = click.Context(
            self.default, info_name=ctx.command_path, max_content_width=ctx.max_content_width
        )
        return self.default.get_help(own)


@click.group(
    "gate",
    cls=_Gate,
    short_help="Pass, fail, or not enough evidence?",
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.pass_context
def gate(ctx: click.Context) -> None:
    """Decide from budgets and results: pass, fail, or not enough evidence."""
    if ctx.invoked_subcommand is None:
        raise click.UsageError("Missing option '--budgets'.", ctx)


@gate.command(DECIDE, epilog=GATE_EXAMPLES)
@click.option("--budgets", type=FILE, required=True, help="The budgets (TOML).")
@click.option("--bundle-id", help="The bundle to be released; results of another one fail.")
@click.option(
    "--baseline", type=FILE, multiple=True, metavar="FILE",
    help="A result of the release to compare with; once for each.",
)  # fmt: skip
@click.option("--seal", metavar="FILE|SHA256", help="Fail unless the budgets are the sealed ones.")
@click.option(
    "--last-release", type=FILE, metavar="BUDGETS",
    help="Fail where the budgets are weaker than these without a reason.",
)  # fmt: skip
@click.option("--look", default=1, show_default=True, help="Which of the declared looks this is.")
@click.option("--today", help="Decide as of this day (YYYY-MM-DD).  [default: today, UTC]")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON, not as a table.")
@click.option("--json-out", type=FILE, help="Write the verdict as JSON.")
@click.option("--markdown-out", type=FILE, help="Write it as markdown.")
@click.option("--junit-out", type=FILE, help="Write it as JUnit XML.")
@click.option("--html-out", type=FILE, help="Write it as one HTML page with pictures.")
@click.option(
    "--record-out", type=FILE,
    help="Write the release record: files, digests, verdict; for 'equipoise gate verify'.",
)  # fmt: skip
@click.argument("results", nargs=-1, required=True, type=FILE)
def decide(
    budgets: Path,
    bundle_id: str | None,
    baseline: tuple[Path, ...],
    seal: str | None,
    last_release: Path | None,
    look: int,
    today: str | None,
    as_json: bool,
    json_out: Path | None,
    markdown_out: Path | None,
    junit_out: Path | None,
    html_out: Path | None,
    record_out: Path | None,
    results: tuple[Path, ...],
) -> None:
    """Decide from budgets and results: pass, fail, or not enough evidence."""
    from rich.console import Console

    from bench.gate import report
    from bench.gate.record import Inputs

    inputs = Inputs(
        budgets, results, baseline, last_release, seal, bundle_id, look, today=_day(today)
    )
    verdict = inputs.verdict()

    def html() -> str:
        from bench.gate.page import page

        return page(verdict, inputs.read)

    def record() -> str:
        from bench.gate.record import record_of
        from bench.machine import machine

        made = record_of(inputs, verdict, machine(), time.time_ns() // 1_000_000)
        return json.dumps(made, indent=1, allow_nan=False) + "\n"

    unwritten = _write(
        ("--json-out", json_out, lambda: report.json_text(verdict)),
        ("--markdown-out", markdown_out, lambda: report.as_markdown(verdict)),
        ("--junit-out", junit_out, lambda: report.as_junit(verdict)),
        ("--html-out", html_out, html),
        ("--record-out", record_out, record),
    )
    if as_json:
        click.echo(report.json_text(verdict), nl=False)
    else:
        report.print_lines(verdict, Console(highlight=False, emoji=False))
    if unwritten is not None:
        raise unwritten
    sys.exit(verdict.exit_code)


SCHEMAS = ("budgets", "scenario", "quality", "load", "invariants", "verdict", "record")


def _write(*outputs: tuple[str, Path | None, Callable[[], str]]) -> InputRefused | None:
    """Write what can be written; what cannot comes back, so that the verdict is told before it."""
    from bench.whole import write_asked

    unwritten: InputRefused | None = None
    for flag, path, content in outputs:
        if path is not None:
            try:
                write_asked(flag, path, content())
            except InputRefused as refused:
                unwritten = unwritten or refused
    return unwritten


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"--today: got {text!r}, allowed: YYYY-MM-DD") from error


EXPLAIN_EXAMPLES = """\b
Examples:
  equipoise gate explain bench/budgets/demo.toml
  equipoise gate explain b.toml --results out/quality/quality.json --json

How many users a line needs depends on how much they differ: `spread` in the
line, else that of --results (and --baseline, for margins), else a guess that is
told as one."""


@gate.command("explain", epilog=EXPLAIN_EXAMPLES)
@click.argument("budgets", type=FILE)
@click.option(
    "--results", type=FILE, multiple=True, metavar="FILE",
    help="An earlier result, to take spreads from; decides nothing.",
)  # fmt: skip
@click.option("--baseline", type=FILE, multiple=True, metavar="FILE", help="The baseline's.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def explain(
    budgets: Path, results: tuple[Path, ...], baseline: tuple[Path, ...], as_json: bool
) -> None:
    """What each line means in plain words, and how much evidence it needs."""
    from bench.gate import explain as words
    from bench.gate import read_results
    from bench.gate.asked import Evidence
    from bench.gate.budgets import read_budgets

    read = read_budgets(budgets)
    pilot = Evidence(
        read_results(results) if results else (), read_results(baseline) if baseline else ()
    )
    lines = words.explained(read, pilot)
    if as_json:
        click.echo(json.dumps(words.as_json(read, lines), indent=1))
        return
    click.echo(words.head_text(read))
    for line in lines:
        click.echo(f"\n{line.means}")
        click.echo(f"  passes if {line.passes}")
        click.echo(f"  fails if {line.fails}")
        click.echo(f"  evidence: {line.evidence}")
        click.echo(f"  needs: {words.need_text(line)}")
        owner = f" (ask {line.owner})" if line.owner else ""
        until = f" Until {line.expires}." if line.expires else ""
        click.echo(f"  reason: {line.reason}{owner}{until}")


@gate.command("seal")
@click.argument("budgets", type=FILE)
@click.option("--out", type=FILE, help="Write the seal, with the time, as JSON.")
def seal(budgets: Path, out: Path | None) -> None:
    """Print the digest of the budgets, to be kept before the run.

    Comments, the order of keys and spelled-out defaults do not change it.
    """
    from bench.gate.budgets import read_budgets
    from bench.gate.seal import digest_of, seal_document
    from bench.whole import write_asked

    read = read_budgets(budgets)
    if out is not None:
        document = seal_document(read, time.time_ns() // 1_000_000)
        write_asked("--out", out, json.dumps(document, indent=1) + "\n")
    click.echo(digest_of(read))


VERIFY_EXAMPLES = """\b
Examples:
  equipoise gate verify out/record.json
  equipoise gate verify record.json --files archive/shop-0123456789ab

\b
Exit code 0: the record is as it was written, the files are those of then, and
the same verdict comes of them. 1: something is not. 2: usage."""


@gate.command("verify", epilog=VERIFY_EXAMPLES)
@click.argument("record", type=FILE)
@click.option(
    "--files", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path(),
    help="Where the record's files are looked for.  [default: here]",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def verify(record: Path, files: Path, as_json: bool) -> None:
    """Check a release record: its digest, its files, and that they still say so."""
    from bench.gate.record import checked, read_record

    found = checked(read_record(record), files)
    if as_json:
        click.echo(json.dumps([{"holds": ok, "what": what} for ok, what in found], indent=1))
    else:
        for ok, what in found:
            click.echo(f"{'yes' if ok else 'NO '}  {what}")
    sys.exit(0 if all(ok for ok, _ in found) else 1)


SCHEMA_EXAMPLES = """\b
Examples:
  equipoise gate schema verdict > verdict.schema.json
  equipoise gate schema budgets"""


@gate.command("schema", epilog=SCHEMA_EXAMPLES)
@click.argument("name", type=click.Choice(SCHEMAS))
def schema(name: str) -> None:
    """Print the JSON Schema of an input or output."""
    from bench.gate.schemas import schema_of

    click.echo(json.dumps(schema_of(name), indent=1))
