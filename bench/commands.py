"""`equipoise invariants`: flags in, results and exit codes out.

Thin: whatever is heavy is imported when a command runs, and locust never. `equipoise gate` stands
in `bench.gate_command`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from bench.gate_command import gate
from bench.refused import VOID

__all__ = ["gate", "invariants"]

FILE = click.Path(path_type=Path, dir_okay=False)
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
to answer half-way, so that what was found by then is no verdict. 2: usage, or
the target is no server of Equipoise."""


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
    from bench.refused import InputRefused

    if bool(target) == kernels:
        raise click.UsageError("give either --target HOST:PORT or --kernels")
    if kernels and (bundle or only):
        raise click.UsageError("--bundle and --only belong to --target")
    if out is not None and out.is_file():
        out.unlink()  # of an earlier run: one that fails must not leave it to a gate
    with bar("invariants", 1.0) as progress:
        if target:
            result = check_server(
                target, bundle=bundle, examples=examples, seed=seed, only=only,
                allow_remote=allow_remote, progress=progress,
            )  # fmt: skip
        else:
            result = check_kernels(examples=examples, seed=seed, progress=progress)
    unwritten = None
    if out is not None:
        try:
            write(result, out)
        except InputRefused as refused:
            unwritten = refused
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        show(result)
    if unwritten is not None:
        raise unwritten
    sys.exit(1 if result["violation_count"] else 0 if result["valid"] else VOID)
