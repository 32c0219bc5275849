"""`equipoise invariants` and `equipoise gate`: flags in, results and exit codes out.

Thin: whatever is heavy is imported when a command runs, and locust never.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime
from pathlib import Path

import click

FILE = click.Path(path_type=Path, dir_okay=False)
VOID = 3
EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)

INVARIANTS_EXAMPLES = """\b
Examples:
  equipoise invariants --target 127.0.0.1:50051
  equipoise invariants --target 127.0.0.1:50051 --bundle out/demo/bundle \\
      --examples 200 --seed 7 --out out/invariants.json
  equipoise invariants --kernels --examples 500    the fair stage alone

With --bundle the policies' tables are known: bounds, certificates of
infeasibility and optimality are then recomputed, not taken from the receipt.
Exit code 0: every theorem held. 1: one was broken; the smallest request that
Hypothesis found for it is printed as a call for a shell. 3: the server stopped
to answer half-way, so that what was found by then is no verdict."""

GATE_EXAMPLES = """\b
Examples:
  equipoise gate --budgets bench/budgets/demo.toml \\
      out/demo/quality/quality.json out/demo/load/load.json \\
      out/demo/invariants.json
  equipoise gate --budgets b.toml results/*.json \\
      --bundle-id shop-0123456789ab --junit-out gate.xml

\b
A budget file (more in docs/gate.md):
  schema_version = 1
  name = "shop"
  [[budget]]
  metric = "load.latency_ms.p99"   # KIND.PATH in a result file
  at_most = 50                     # or at_least, or both
  decide_on = "interval"           # or "value", for hard counts
  min_n = 1000                     # the least evidence to decide on
  reason = "The page waits 60 ms for us."
  expires = 2027-06-30             # optional; then it fails till decided anew

Exit code 0: pass. 1: a budget is broken, or its data is absent, null, NaN or of
another bundle. 3: nothing is broken, but the evidence is not enough. 2: usage."""


@click.command("invariants", epilog=INVARIANTS_EXAMPLES)
@click.option("--target", help="HOST:PORT of a live server.")
@click.option("--kernels", is_flag=True, help="Check the installed fair stage instead of a server.")
@click.option(
    "--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The served bundle, to know the policies' tables and the items.",
)  # fmt: skip
@click.option(
    "--examples", type=click.IntRange(1, 1_000_000), default=60, show_default=True,
    help="How many requests to generate for each property.",
)  # fmt: skip
@click.option("--seed", default=1, show_default=True, help="The same seed, the same requests.")
@click.option("--only", default="", help="Properties whose names hold this text; not for the gate.")
@click.option("--allow-remote", is_flag=True, help="The target may be another machine.")
@click.option("--out", type=FILE, help="Write the result as JSON (for 'equipoise gate').")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def invariants(
    target: str | None,
    kernels: bool,
    bundle: Path | None,
    examples: int,
    seed: int,
    only: str,
    allow_remote: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Check the theorems of fair lists against a live server."""
    from bench.invariants.report import show, write
    from bench.invariants.run import check_kernels, check_server
    from bench.progress import bar

    if bool(target) == kernels:
        raise click.UsageError("give either --target HOST:PORT or --kernels")
    if kernels and (bundle or only):
        raise click.UsageError("--bundle and --only belong to --target")
    with bar("invariants", 1.0) as progress:
        if target:
            result = check_server(
                target, bundle=bundle, examples=examples, seed=seed, only=only,
                allow_remote=allow_remote, progress=progress,
            )  # fmt: skip
        else:
            result = check_kernels(examples=examples, seed=seed, progress=progress)
    if out is not None:
        write(result, out)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        show(result)
    sys.exit(1 if result["violation_count"] else 0 if result["valid"] else VOID)


@click.command("gate", epilog=GATE_EXAMPLES, short_help="Pass, fail, or not enough evidence?")
@click.option("--budgets", type=FILE, required=True, help="The budgets (TOML).")
@click.option("--bundle-id", help="The bundle to be released; results of another one fail.")
@click.option("--today", help="Decide as of this day (YYYY-MM-DD).  [default: today, UTC]")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON, not as a table.")
@click.option("--json-out", type=FILE, help="Write the verdict as JSON.")
@click.option("--markdown-out", type=FILE, help="Write it as markdown.")
@click.option("--junit-out", type=FILE, help="Write it as JUnit XML.")
@click.argument("results", nargs=-1, required=True, type=FILE)
def gate(
    budgets: Path,
    bundle_id: str | None,
    today: str | None,
    as_json: bool,
    json_out: Path | None,
    markdown_out: Path | None,
    junit_out: Path | None,
    results: tuple[Path, ...],
) -> None:
    """Decide from budgets and results: pass, fail, or not enough evidence."""
    from rich.console import Console

    from bench.gate import evaluate, parse_budgets, read_results, report
    from bench.refused import InputRefused
    from bench.whole import write_whole

    try:
        text = budgets.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputRefused(str(budgets), "", str(error)) from error
    verdict = evaluate(
        parse_budgets(text, str(budgets)),
        read_results(results),
        today=_day(today),
        bundle_id=bundle_id,
    )
    for path, content in (
        (json_out, report.json_text),
        (markdown_out, report.as_markdown),
        (junit_out, report.as_junit),
    ):
        if path is not None:
            write_whole(path, content(verdict))
    if as_json:
        click.echo(report.json_text(verdict), nl=False)
    else:
        report.print_lines(verdict, Console(highlight=False, emoji=False))
    sys.exit(verdict.exit_code)


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"--today: got {text!r}, allowed: YYYY-MM-DD") from error
