"""`equipoise bundle`: look into a release bundle and verify it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from server.commands import releases
from server.commands.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.bundle.manifest import MeasuredBatch, ModelInfo, Quantised
    from server.model import Port

VERIFY_EXAMPLES = """\b
Examples:
  equipoise bundle verify out/demo/bundle
  equipoise bundle verify out/demo/bundle --json

Exit code 0: a server would serve it. 2: refused, and the line says which file and why.
Verifying finds damage and what does not fit together. It is no proof of who made the
bundle: nothing is signed. The model is loaded in this process."""

SHOW_EXAMPLES = """\b
Examples:
  equipoise bundle show out/demo/bundle
  equipoise bundle show out/demo/bundle --json | jq .quality

Exit code 2: the manifest (with --json), or the bundle, was refused."""


@click.group("bundle", cls=Parts, entry_points="equipoise.commands.bundle")
def command() -> None:
    """Verify a release bundle, show what is in it, or let servers change to it.

    A bundle is a folder: the model, what it needs to know about the items, the policies, and
    a manifest with the digest of every file. It holds no user data.

    \b
    Examples:
      equipoise bundle verify out/demo/bundle      would a server take it?
      equipoise bundle show out/demo/bundle        what is it?
      equipoise bundle activate out/releases out/demo/bundle
    """


command.add_command(releases.activate)
command.add_command(releases.rollback)
command.add_command(releases.releases)


@command.command("verify", epilog=VERIFY_EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(path: Path, as_json: bool) -> None:
    """Check PATH as a server does before it serves."""
    from server.bundle import load_bundle
    from server.engine import Engine

    bundle = load_bundle(path)
    engine = Engine(bundle)
    replayed = engine.warm_up()
    manifest = bundle.manifest
    facts: dict[str, Any] = {
        "bundle_id": manifest.bundle_id,
        "files": len(manifest.files) + 1,
        "bytes": sum(info.bytes for info in manifest.files.values()),
        "items": len(bundle.items.ids),
        "group_tables": sorted(bundle.groups),
        "policies": sorted(bundle.policies),
        "golden_scores": int(bundle.golden_outputs.size),
        "warmup_lists": replayed,
        "least_together": engine.least_together,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"{facts['bundle_id']} can be served\n"
        f"  files      {facts['files']} and no other, {facts['bytes']:,} bytes, every SHA-256 right\n"
        f"  model      one file, no external data, opset {manifest.model.opset}, "
        f"{_reads(manifest.model)}\n"
        f"  goldens    {facts['golden_scores']} scores as recorded\n"
        f"  items      {facts['items']:,}, with the group tables {', '.join(facts['group_tables'])}\n"
        f"  policies   {', '.join(facts['policies'])}: each compiles against its group table\n"
        f"  warm-ups   {replayed} lists as recorded\n"
        f"  batches    {_together(engine.least_together)}"
    )


@command.command("show", epilog=SHOW_EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--json", "as_json", is_flag=True, help="Print the manifest alone; other files are not read."
)
def show(path: Path, as_json: bool) -> None:
    """Show what PATH was made from, its model, policies and measured quality."""
    from server.bundle import load_bundle, ports_of, read_manifest
    from server.model import SCORES

    if as_json:
        click.echo(read_manifest(path).model_dump_json(indent=1))
        return
    bundle = load_bundle(path)
    manifest = bundle.manifest
    data, model = manifest.data, manifest.model
    click.echo(manifest.bundle_id)
    _rows(
        "made",
        [
            f"{_moment(manifest.created_unix_ms)} with "
            + ", ".join(f"{name} {version}" for name, version in sorted(manifest.made_with.items()))
        ],
    )
    _rows(
        "from",
        [
            f"{data.source}: {data.users:,} users, {data.items:,} items, "
            f"{data.interactions:,} interactions until {_moment(data.until_unix_ms)}"
        ],
    )
    _rows(
        "model",
        [
            f"{model.family}, {_reads(model)}, opset {model.opset}, sha256 {model.digest[:12]}",
            f"predicts {manifest.horizon_days} days from {', '.join(manifest.positive_kinds)} "
            f"events; best batch {model.best_batch}, {model.n_novel} novel candidates"
            + (f", {model.n_popular} of them best sellers" if model.n_popular else ""),
        ],
    )
    _rows("graph", [_ports("reads", ports_of(model)), _ports("gives", (SCORES,))])
    if model.quantised is not None:
        _rows("8 bits", [_quantised(model.quantised)])
    if model.measured_batches:
        _rows("batches", _batches(model.measured_batches))
    _rows("quality", [f"{name}: {_figure(value)}" for name, value in manifest.quality.items()])
    _rows(
        "policies",
        [
            f"{name}{' (default)' if name == manifest.default_policy else ''}: "
            f"{compiled.policy.kind} {compiled.policy.group_table}".rstrip()
            + f", sha256 {compiled.policy.digest}. {compiled.policy.reason}"
            for name, compiled in sorted(bundle.policies.items())
        ],
    )
    _rows(
        "groups",
        [
            f"{name}: {len(table.labels)} ({', '.join(table.labels[:6])}"
            f"{', ...' if len(table.labels) > 6 else ''})"
            for name, table in sorted(bundle.groups.items())
        ],
    )
    _rows(
        "files",
        [f"{info.bytes:>12,}  {name}" for name, info in sorted(manifest.files.items())],
    )


def _reads(model: ModelInfo) -> str:
    pairs = f"the {model.n_features} features of this server" if model.n_features else ""
    history = f"the last {model.history_length} items of a history" if model.history_length else ""
    return f"reads {' and '.join(filter(None, (pairs, history)))}"


def _quantised(told: Quantised) -> str:
    return (
        f"weights of {', '.join(told.operators)} in 8 bits, from the model {told.source[:12]}; "
        f"goldens within {told.golden_tolerance:.2g}; its loss: quality.quantisation (--json)"
    )


def _ports(what: str, ports: Sequence[Port]) -> str:
    told = (f"{one.name} [{', '.join(map(str, one.axes))}] {one.dtype.__name__}" for one in ports)
    return f"{what} {', '.join(told)}"


def _batches(measured: Sequence[MeasuredBatch]) -> list[str]:
    """A table: lists that share a run down, candidates across."""
    us = {(one.lists, one.candidates): one.list_us for one in measured}
    across = sorted({candidates for _, candidates in us})
    return [
        "the model's us for a list, where it was made, by lists in a run (down) and candidates:",
        " " * 6 + "".join(f"{candidates:>9,}" for candidates in across),
        *(
            f"{lists:>6}" + "".join(f"{us.get((lists, one), float('nan')):>9.1f}" for one in across)
            for lists in sorted({lists for lists, _ in us})
        ),
    ]


def _together(least: int | None) -> str:
    if least is None:
        return "scores depend on what else is in a run: each list has its own"
    if least > 1:
        return f"scores are the same in any run of {least} lists or more: one alone is run twice"
    return "scores are the same bits in any batch"


def _rows(what: str, lines: list[str]) -> None:
    for number, line in enumerate(lines):
        click.echo(f"  {what if number == 0 else '':<9}{line}")


def _figure(value: object) -> str:
    if isinstance(value, dict):
        return f"{'; '.join(value)} (--json)"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _moment(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
