"""`make saturate`: serve a bundle, find the knee, draw it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from bench.progress import bar
from bench.saturate.offer import Offering, ceiling_rps, drawn_requests
from bench.saturate.picture import picture
from bench.saturate.search import Knee, Probe, knee
from bench.served import serving
from bench.target import check_target, serving_info
from bench.whole import write_whole
from server.program import run_program

HEADROOM = 3.0
"""Times as much as the knee the generator must be able to offer, or the knee may be its own."""


@click.command()
@click.option(
    "--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Serve this bundle on this machine, and load it.",
)  # fmt: skip
@click.option("--target", help="Or a server that is up: HOST:PORT, on this machine.")
@click.option(
    "--budget-ms", type=click.FloatRange(0, min_open=True), default=50.0, show_default=True,
    help="That p99 must keep, from when a request was due.",
)  # fmt: skip
@click.option("--deadline-ms", type=click.IntRange(1), default=1000, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(1, 600), default=8.0, show_default=True, help="Of each load."
)
@click.option(
    "--repeats", type=click.Choice(["1", "3", "5"]), default="3", show_default=True,
    help="Loads at each rate; most of them must keep the budget.",
)  # fmt: skip
@click.option(
    "--start", type=click.FloatRange(1), default=20.0, show_default=True, help="First rate."
)
@click.option(
    "--most", type=click.FloatRange(1), default=20_000.0, show_default=True, help="Last rate."
)
@click.option(
    "--precision", type=click.FloatRange(0.01, 1), default=0.08, show_default=True,
    help="How near the rates on both sides of the knee shall be.",
)  # fmt: skip
@click.option(
    "--processes",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="Of the generator.",
)
@click.option("--requests", type=click.Path(path_type=Path, exists=True), help="Request file.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder."
)
def main(bundle: Path | None, target: str | None, out: Path, **options: Any) -> None:
    """Find the highest rate whose p99 keeps a budget: saturate.json, saturate.txt, saturate.png."""
    if (bundle is None) == (target is None):
        raise click.UsageError("give --bundle or --target, one of them")
    if target is not None:
        check_target(target, allow_remote=False)
        made = measured(target, out, **options)
    else:
        assert bundle is not None
        with serving(out / "server.log", "--bundle", bundle) as served:
            made = measured(served.target, out, **options)
    write_whole(out / "saturate.json", json.dumps(made, indent=1, allow_nan=False) + "\n")
    told = text(made)
    write_whole(out / "saturate.txt", told + "\n")
    write_whole(out / "saturate.png", picture(made))
    click.echo(told)
    click.echo(f"{out / 'saturate.png'}")


def measured(
    target: str, out: Path, *, budget_ms: float, deadline_ms: int, seconds: float, repeats: str,
    start: float, most: float, precision: float, processes: int, requests: Path | None, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The document of one saturation."""
    info = serving_info(target)
    if requests is None:
        requests = drawn_requests(target, out / "drawn", seed)
    offering = Offering(target, out, seconds, deadline_ms, requests, processes, seed)
    with bar("knee", 1) as show:
        done = 0

        def on_probe(probe: Probe) -> None:
            nonlocal done
            done += 1
            show(done / (done + 6))  # nobody knows how many there will be
            click.echo(_line(asdict(probe), budget_ms), err=True)

        found = knee(
            offering.offer, budget_ms=budget_ms, start_rps=start, most_rps=most,
            precision=precision, repeats=int(repeats), on_probe=on_probe,
        )  # fmt: skip
    ceiling = ceiling_rps(offering)
    return document(found, info.bundle_id, ceiling, budget_ms, deadline_ms, seconds, processes)


def document(
    found: Knee, bundle_id: str, ceiling: float, budget_ms: float, deadline_ms: int, seconds: float,
    processes: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "kind": "saturate",
        "schema_version": 1,
        "bundle_id": bundle_id,
        "budget_ms": budget_ms,
        "deadline_ms": deadline_ms,
        "seconds": seconds,
        "processes": processes,
        "knee_rps": found.rate_rps,
        "above_rps": found.above_rps,
        "kept_above_rps": [
            probe.rate_rps
            for probe in found.probes
            if probe.rate_rps > found.rate_rps and probe.kept(budget_ms)
        ],
        "knee_is_the_generators": found.by_generator,
        "generator_ceiling_rps": ceiling,
        "generator_headroom": ceiling / found.rate_rps if found.rate_rps else None,
        "probes": [asdict(probe) for probe in found.probes],
    }


def text(made: dict[str, Any]) -> str:
    """The document for people."""
    lines = [
        f"{'offered/s':>10}{'answered/s':>12}{'in time/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'refused':>9}"
        f"{'failed':>8}  kept"
    ]
    lines += [_line(probe, made["budget_ms"]) for probe in made["probes"]]
    if made["knee_rps"]:
        until = (
            "all that was offered"
            if made["above_rps"] is None
            else f"{made['above_rps']:,.0f} is too much"
        )
        lines.append(
            f"knee: p99 <= {made['budget_ms']:g} ms up to {made['knee_rps']:,.0f} requests a second ({until})"
        )
    else:
        lines.append(f"knee: none; p99 <= {made['budget_ms']:g} ms was not kept at the first rate")
    if made["kept_above_rps"]:
        kept = ", ".join(f"{rate:,.0f}" for rate in made["kept_above_rps"])
        lines.append(
            f"      kept as well: {kept}; in between the machine was slower than at other times"
        )
    if made["knee_is_the_generators"]:
        lines.append("      the generator gave out first: more --processes, or another machine")
    headroom = made["generator_headroom"]
    told = (
        f"generator: up to {made['generator_ceiling_rps']:,.0f} requests a second against an echo"
    )
    if headroom is not None:
        told += f", {headroom:.1f} times the knee"
        if headroom < HEADROOM:
            told += f"; less than {HEADROOM:g} times: the knee may be the generator's"
    return "\n".join([*lines, told])


def _line(probe: dict[str, Any], budget_ms: float) -> str:
    """The middle repeat of a rate, by p99; failures are the slowest."""
    known = [one for one in probe["repeats"] if not one["void"]]
    if not known:
        return f"{probe['rate_rps']:>10,.0f}  void: {probe['repeats'][0]['void']}"
    ordered = sorted(
        known,
        key=lambda one: (
            float("inf") if one["p99_ms"] is None else one["p99_ms"],
            one["failed_share"],
        ),
    )
    one = ordered[len(ordered) // 2]
    p50, p99 = ("-" if one[name] is None else f"{one[name]:.1f}" for name in ("p50_ms", "p99_ms"))
    kept = sum(1 for one in known if one["p99_ms"] is not None and one["p99_ms"] <= budget_ms)
    return (
        f"{probe['rate_rps']:>10,.0f}{one['throughput_rps']:>12,.0f}{one['goodput_rps']:>11,.0f}{p50:>9}{p99:>9}"
        f"{one['refused_share']:>9.1%}{one['failed_share']:>8.1%}  {kept} of {len(probe['repeats'])}"
    )


if __name__ == "__main__":
    run_program(main)
