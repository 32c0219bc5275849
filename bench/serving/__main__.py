"""`python -m bench.serving`: flags in, tables out."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from bench.serving.peers.peer import Peer

OUT = Path("out")


def _chosen(_context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    """The peers of a list with commas between."""
    from bench.refused import near_miss
    from bench.serving.peers.peer import PEERS

    known = [peer.name for peer in PEERS]
    if text in ("all", ""):
        return tuple(known) if text else ()
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in known:
            raise click.BadParameter(
                f"got {name!r}, allowed: {', '.join(known)}{near_miss(name, known)}", param=option
            )
    return tuple(dict.fromkeys(wanted))


@click.group(invoke_without_command=True, context_settings={"max_content_width": 90})
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 600), default=2.5, show_default=True,
    help="Of each load in each round.",
)  # fmt: skip
@click.option(
    "--peers", default="all", show_default=True, callback=_chosen,
    help="Which of them, with commas between; an unknown one is answered with all names.",
)  # fmt: skip
@click.option("--no-peers", is_flag=True, help="None of them.")
@click.option("--no-growth", is_flag=True, help="Nothing of candidates, catalogue and workers.")
@click.option(
    "--environments", type=click.Path(path_type=Path, file_okay=False), default=OUT / "peers",
    show_default=True, help="Where the peers' virtual environments are kept.",
)  # fmt: skip
@click.option("--short", is_flag=True, help="A round of few lists: does it run?")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.pass_context
def main(
    context: click.Context,
    rounds: int,
    seconds: float,
    peers: tuple[str, ...],
    no_peers: bool,
    no_growth: bool,
    environments: Path,
    short: bool,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """What a list costs in a live server, by the way it is asked for, beside other servers."""
    if context.invoked_subcommand is not None:
        return
    from bench.served import stop_on_sigterm
    from bench.serving.compare import Extent
    from bench.serving.growth import GrowthExtent
    from bench.serving.measure import MANY
    from bench.serving.peers.peer import PEERS
    from bench.serving.report import show
    from bench.whole import write_whole

    # Or the server that is measured would outlive this program.
    stop_on_sigterm()
    extent = Extent(rounds, seconds, MANY)
    grows = GrowthExtent(
        (100, 300, 1_000, 3_000, 10_000), (10_000, 100_000, 1_000_000), 3, 2.0, MANY
    )
    if short:
        extent = Extent(1, min(seconds, 0.5), 64)
        grows = GrowthExtent((100, 400), (), 1, 0.5, 64)
    chosen = [peer for peer in PEERS if peer.name in peers and not no_peers]
    told = _measured(chosen, environments, extent, None if no_growth else grows, seed)
    told |= {"short": short}
    if out is not None:
        write_whole(out, json.dumps(told, indent=1) + "\n")
    if as_json:
        click.echo(json.dumps(told))
    else:
        show(told)


def _measured(peers: list[Peer], kept: Path, extent: Any, grows: Any, seed: int) -> dict[str, Any]:
    from bench.fairness.conditions import conditions
    from bench.progress import bar
    from bench.served import synthetic_bundle
    from bench.serving.compare import compare, environments, prepare
    from bench.serving.growth import growth
    from bench.serving.measure import ITEMS
    from bench.serving.peers.environment import pins
    from bench.serving.report import document
    from bench.serving.work import write_work

    logs = OUT / "serving" / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    pythons = environments(peers, kept, _say)
    # Those are made once; what is told of the time begins here.
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name, bar("bench-serving", 1.0) as progress:
        folder = Path(name)
        bundle, work = synthetic_bundle(folder / "bundle", items=ITEMS), folder / "work"
        write_work(bundle, work)
        place = prepare(folder, bundle, work, logs, extent.rounds, seed)
        share = 0.7 if grows else 1.0
        found = compare(place, peers, pythons, extent, seed, _part(progress, 0.0, share))
        grown = (
            growth(folder, bundle, work, logs, grows, seed, _part(progress, share, 1.0))
            if grows
            else {}
        )
    on = conditions(time.monotonic() - started)
    versions = {
        peer.name: next(
            (one for one in pins(peer.requirements) if one.startswith(MAIN[peer.home])), ""
        )
        for peer in peers
    }
    return document(found, grown) | {
        "seed": seed,
        "rounds": extent.rounds,
        "load_seconds": extent.seconds,
        "measured_on": on | _packages(),
        "peer_versions": versions,
    }


MAIN = {
    "triton": "nvidia-pytriton==", "pytriton": "nvidia-pytriton==", "mlserver": "mlserver==",
    "litserve": "litserve==", "bentoml": "bentoml==", "ray": "ray==",
}  # fmt: skip
"""Peer -> how the pin of the server itself begins."""


def _packages() -> dict[str, str]:
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in ("grpcio", "onnxruntime", "uvloop")}


def _part(progress: Callable[[float], None], first: float, end: float) -> Callable[[float], None]:
    return lambda done: progress(first + (end - first) * done)


def _say(text: str) -> None:
    click.echo(text, err=True)


@main.command()
@click.option(
    "--results", type=click.Path(path_type=Path), default=OUT / "serving", show_default=True
)
def evidence(results: Path) -> None:
    """Keep the result in docs/evidence and make docs/performance.md of it."""
    from bench.serving.evidence import PAGE, collect, read, write

    try:
        collect(results)
        write(read())
    except ValueError as partial:
        raise click.ClickException(str(partial)) from partial
    except FileNotFoundError as missing:
        raise click.ClickException(f"{missing.filename}: run the command first") from missing
    click.echo(f"made {PAGE.name}")


if __name__ == "__main__":
    main()
