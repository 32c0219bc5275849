"""`equipoise bundle`: look into a release bundle and verify it."""

from __future__ import annotations

import json
from pathlib import Path

import click

EXAMPLES = """\b
Examples:
  equipoise bundle verify out/demo/bundle
  equipoise bundle show out/demo/bundle --json"""


@click.group("bundle", epilog=EXAMPLES)
def command() -> None:
    """Verify a release bundle, or show what is in it."""


@command.command("verify")
@click.argument("path", type=click.Path(path_type=Path))
def verify(path: Path) -> None:
    """Do what a server does before it serves PATH; exit code 2 and the file's name if it is refused."""
    from server.bundle import load_bundle
    from server.engine import Engine

    bundle = load_bundle(path)
    replayed = Engine(bundle).warm_up()
    files = bundle.manifest.files
    click.echo(
        f"{bundle.manifest.bundle_id}: {len(files)} files, "
        f"{sum(info.bytes for info in files.values()):,} bytes, digests right; "
        f"{len(bundle.golden_outputs)} golden inputs and {replayed} warm-up lists as recorded"
    )


@command.command("show")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the whole manifest as JSON.")
def show(path: Path, as_json: bool) -> None:
    """Show what PATH was made from, its model, policies and measured quality."""
    from server.bundle import load_bundle

    bundle = load_bundle(path)
    manifest = bundle.manifest
    if as_json:
        click.echo(manifest.model_dump_json(indent=1))
        return
    data, model = manifest.data, manifest.model
    click.echo(f"{manifest.bundle_id}")
    click.echo(
        f"  made from   {data.source}: {data.users:,} users, {data.items:,} items, "
        f"{data.interactions:,} interactions"
    )
    click.echo(
        f"  model       {model.family}, {model.n_features} features, opset {model.opset}, "
        f"best batch {model.best_batch}, sha256 {model.digest[:12]}"
    )
    for name, compiled in sorted(bundle.policies.items()):
        policy = compiled.policy
        mark = " (default)" if name == manifest.default_policy else ""
        click.echo(
            f"  policy      {name}{mark}: {policy.kind} {policy.group_table}. {policy.reason}"
        )
    click.echo(f"  quality     {json.dumps(manifest.quality)}")
