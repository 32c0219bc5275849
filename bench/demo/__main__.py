"""`make demo`: data -> model -> bundle -> server -> fair lists -> load -> invariants -> verdict.

Each step is skipped while its inputs and its code are unchanged. Ctrl-C leaves
nothing half-written and nothing running: a step writes aside, and its stamp last.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from bench.demo.page import write_page
from bench.demo.serving import copy_store
from bench.demo.session import hold
from bench.demo.steps import Done, Step, remove, run_steps, write_whole
from bench.demo.tell import read, tell
from bench.refused import VOID, InputRefused
from bench.served import Served, Terminated, equipoise, serving, stop_on_sigterm

CONSOLE = Console(highlight=False, emoji=False)
SCENARIO = Path(__file__).parents[1] / "scenarios" / "demo.toml"
SEED = 7

SHARED_CODE = ("server/features/*.py", "server/fairness/*.py", "server/bundle/*.py",
               "server/model.py", "server/jit.py", "constraints.txt")  # fmt: skip
TRAINING_CODE = (*SHARED_CODE, "training/**/*.py", "training/policies/*.toml", "server/engine/*.py")
SERVING_CODE = ("server/**/*.py", "proto/equipoise/v1/*.proto")


def run(*arguments: str | Path, fine: tuple[int, ...] = (0,)) -> None:
    """Run an `equipoise` subcommand; its output is the demo's. fine: exit codes to go on after.

    Raises:
        click.ClickException: it failed; its own message stands above.
    """
    process = subprocess.Popen(equipoise(*arguments))
    try:
        code = process.wait()
    except Terminated:
        process.terminate()
        process.wait()
        raise
    except KeyboardInterrupt:
        # The terminal interrupted the child as well; it must be gone before this process is.
        process.wait()
        raise
    if code not in fine:
        raise click.ClickException(f"'equipoise {arguments[0]}' failed with exit code {code}")


@dataclass(frozen=True)
class Scale:
    """How much of each step. training: flags of `train`. resamples: of intervals. tradeoff_users: of the
    audit's curves. examples: of each property of the invariants."""

    training: tuple[str, ...]
    resamples: int
    tradeoff_users: int
    examples: int


# Without the minutes of trying a sequence model beside it.
WHOLE = Scale(("--family", "pairs"), 2000, 300, 60)
QUICK = Scale(("--quick",), 200, 20, 3)


def train(out: Path, scale: Scale) -> None:
    run("train", "--dataset", "complete-journey", *scale.training, "--out", out / "bundle")


def load_events(out: Path) -> None:
    aside = out / "events.db.partial"
    for path in out.glob("events.db*"):
        remove(path)
    try:
        run(
            "events", "load", "--dataset", "complete-journey", "--until-week", "50",
            "--store", aside,
        )  # fmt: skip
        copy_store(aside, out / "events.db")
    finally:
        for path in out.glob("events.db.partial*"):
            remove(path)


def evaluate(out: Path, scale: Scale) -> None:
    run(
        "evaluate", "--bundle", out / "bundle", "--dataset", "complete-journey",
        "--resamples", str(scale.resamples),
        "--out", out / "quality", "--requests-out", out / "requests.jsonl",
    )  # fmt: skip


def audit(out: Path, scale: Scale) -> None:
    run(
        "audit", "--bundle", out / "bundle", "--dataset", "complete-journey",
        "--tradeoff", "--tradeoff-users", str(scale.tradeoff_users),
        "--out", out / "audit",
    )  # fmt: skip


def live(out: Path, scale: Scale) -> None:
    folder = out / "live"
    folder.mkdir(exist_ok=True)
    store = folder / "events.db"
    copy_store(out / "events.db", store)
    flags = ("--bundle", out / "bundle", "--events", store, "--clock", "data-end")
    with serving(folder / "server.log", *flags) as served:
        lists = hold(served.target, out / "requests.jsonl", out / "bundle")
        lists["ready_s"] = served.ready_s
        _load(out, served)
        _invariants(out, served, scale)
    write_whole(folder / "lists.json", json.dumps(lists, indent=1))


def learn(out: Path) -> None:
    """The circle closes: what the store now holds, the recorded purchase too, trains a bundle."""
    table = read(out, "bundle/items.json")
    columns = {"item": table["ids"], "name": table["names"], **table["attributes"]}
    items = out / "live" / "items.csv"
    with items.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))
    run(
        "train", "--events", out / "live" / "events.db", "--items", items, "--final", "--quick",
        "--name", "learned-from-the-store", "--out", out / "learned",
    )  # fmt: skip
    bought_ms = read(out, "live/lists.json")["closed_loop"]["time_unix_ms"]
    until_ms = read(out, "learned/manifest.json")["data"]["until_unix_ms"]
    if until_ms < bought_ms:
        raise click.ClickException(
            f"the new bundle learned until {until_ms}, before the purchase at {bought_ms}"
        )


def _load(out: Path, served: Served) -> None:
    """Beside other work it may be void: the gate then says that its lines have not enough evidence."""
    run(
        "load", "--target", served.target, "--requests", out / "requests.jsonl",
        "--scenario", SCENARIO, "--driver", "locust", "--server-pid", str(served.pid), "--out", out / "load", fine=(0, VOID),
    )  # fmt: skip


def _invariants(out: Path, served: Served, scale: Scale) -> None:
    run(
        "invariants", "--target", served.target, "--bundle", out / "bundle",
        "--examples", str(scale.examples), "--seed", str(SEED), "--out", out / "invariants.json",
    )  # fmt: skip


def gate(out: Path) -> None:
    """The verdict is a result, not an error: a failed release is told, not hidden."""
    command = equipoise(
        "gate", "--budgets", Path(__file__).parents[1] / "budgets" / "demo.toml",
        out / "quality" / "quality.json", out / "load" / "load.json", out / "invariants.json",
        "--json-out", out / "verdict.json", "--markdown-out", out / "verdict.md",
    )  # fmt: skip
    code = subprocess.run(command, check=False).returncode
    if code not in (0, 1, 3):
        raise click.ClickException(f"'equipoise gate' failed with exit code {code}")


def steps_of(scale: Scale) -> tuple[Step, ...]:
    """The demo, in order."""
    return (
    Step("bundle", "train in PyTorch, export to ONNX, write the release bundle",
         TRAINING_CODE, ("bundle/manifest.json",), partial(train, scale=scale)),
    Step("events", "fill the event store with 50 weeks of purchases",
         ("training/data/*.py", "training/commands.py", "training/options.py", "server/events/*.py"),
         ("events.db",),
         load_events),
    Step("quality", "evaluate the served path against every baseline",
         TRAINING_CODE, ("quality/quality.json", "requests.jsonl"), partial(evaluate, scale=scale)),
    Step("audit", "audit every policy: items, users, what fairness costs",
         TRAINING_CODE, ("audit/audit.json", "audit/audit-tradeoff.png"), partial(audit, scale=scale)),
    Step("live", "serve over gRPC: lists, purchase, load, invariants",
         (*SERVING_CODE, "bench/**/*.py"),
         ("live/lists.json", "load/load.json", "invariants.json"), partial(live, scale=scale)),
    Step("learn", "train again from the store, the purchase included (a quick model)",
         TRAINING_CODE, ("learned/manifest.json",), learn),
    Step("verdict", "the gate's verdict", ("bench/gate/*.py", "bench/budgets/*.toml"),
         ("verdict.json",), gate),
)  # fmt: skip


def announce(step: Step, fresh: bool) -> None:
    mark = "[dim]unchanged[/dim]" if fresh else "[bold]running[/bold]"
    CONSOLE.print(f"[bold cyan]{step.name}[/]  {step.title}: {mark}")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/demo"), show_default=True)
@click.option(
    "--until", type=click.Choice([step.name for step in steps_of(WHOLE)]), help="Stop after a step."
)
@click.option(
    "--quick", is_flag=True,
    help="A small model, few resamples and examples: to see that all of it runs. In another --out.",
)  # fmt: skip
def main(out: Path, until: str | None, quick: bool) -> None:
    """Run the demo, tell it, and leave a page with pictures."""
    out.mkdir(parents=True, exist_ok=True)
    done = run_steps(steps_of(QUICK if quick else WHOLE), out, until=until, announce=announce)
    if until is None:
        _finish(out, done)


def _finish(out: Path, done: list[Done]) -> None:
    tell(out, done, CONSOLE)
    page = write_page(out, done)
    CONSOLE.print(f"\nThe page with pictures: [bold]{escape(str(page))}[/]")


if __name__ == "__main__":
    stop_on_sigterm()
    try:
        main(standalone_mode=False)
    except click.ClickException as failure:
        failure.show()
        sys.exit(1)
    except InputRefused as refused:
        click.echo(f"Error: {refused}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, Terminated, click.Abort):
        click.echo(
            "\ninterrupted: what was finished stays, the rest runs again next time", err=True
        )
        sys.exit(130)
