"""The command `equipoise load`: options, and what is printed. Locust is never imported here."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bench.refused import VOID

if TYPE_CHECKING:
    from bench.load.scenario import Scenario

FOLDER = click.Path(path_type=Path, file_okay=False)
EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)
DEFAULT_USERS = 16

EXAMPLES = """\b
Examples:
  equipoise load --scenario bench/scenarios/steady.toml --out out/load
      also there: demo, ramp, bursts, overload
  equipoise load --rate 200 --duration 60 --out out/load     an open loop
  equipoise load --users 16 --duration 30 --out out/load     a closed one
  equipoise load sample --events ev.db --out requests.jsonl  who asks
  locust -f bench/load/locustfile.py --host 127.0.0.1:50051  with a page

\b
An open loop sends each request when it is due, whatever became of the
others, and counts from then: a server that stalls is asked as much as ever.
In a closed one each user waits for his answer.

\b
A request file has one JSON object a line, with user_id or history or both:
  {"user_id": "17", "count": 20, "groups": {"income": "Under 15K"}}
  {"history": [{"item_id": "995242", "time_unix_ms": 1512000000000}]}
Without one, histories are drawn from items that the server returns.

OUT gets load.json (for 'equipoise gate'), samples.parquet (one row a request),
requests.jsonl, answers.json and the driver's log. A failed or wrong answer is
infinitely slow. Exit code 0: a load to be judged. 3: it is void, since the
generator did not do what it should. 1: it did not run to its end."""


SAMPLE_EXAMPLES = """\b
Examples:
  equipoise load sample --events out/demo/events.db --out requests.jsonl
  equipoise load sample --events ev.db --users users.csv --out r.jsonl

\b
users.csv has a column user, and one for each attribute to report by:
  user,income,age
  17,Under 15K,19-24
The file holds real people's purchases: keep it as you keep the store. --by-id
writes ids instead, for a server that has the same store."""


@dataclass(frozen=True)
class Flags:
    """A load in flags, for which no scenario file is needed."""

    rate: float | None
    users: int | None
    duration_s: float
    deadline_ms: int
    requests: Path | None
    users_file: Path | None
    seed: int

    def scenario(self, out: Path) -> Scenario:
        """The scenario that they say."""
        from bench.load.requests import read_users, write_requests
        from bench.load.scenario import scenario_of

        requests = self.requests
        if self.users_file is not None:
            requests = out / "requests.jsonl"
            write_requests(requests, read_users(self.users_file))
        stage: dict[str, Any] = {"duration_s": self.duration_s}
        if self.rate is not None:
            stage["rate_rps"] = self.rate
        else:
            stage["users"] = self.users or DEFAULT_USERS
        return scenario_of(
            {
                "schema_version": 1,
                "name": "flags",
                "seed": self.seed,
                "loop": "closed" if self.rate is None else "open",
                "deadline_ms": self.deadline_ms,
                "stage": [stage],
                "requests": {"file": requests},
            },
            "flags",
        )


@click.group(
    "load", epilog=EXAMPLES, invoke_without_command=True,
    short_help="Load a server, keep every sample, and say whether the load was one.",
)  # fmt: skip
@click.option("--target", default="127.0.0.1:50051", show_default=True, help="HOST:PORT.")
@click.option("--scenario", type=EXISTING, help="What arrives, and who asks for what (TOML).")
@click.option(
    "--rate", type=click.FloatRange(0, 1e6, min_open=True),
    help="Without a scenario: requests a second of independent callers (open loop).",
)  # fmt: skip
@click.option(
    "--users", type=click.IntRange(1, 10_000),
    help=f"Or: how many ask at a time, each waiting (closed loop).  [default: {DEFAULT_USERS}]",
)  # fmt: skip
@click.option(
    "--duration", "duration_s", type=click.FloatRange(0, 86_400, min_open=True), default=30,
    show_default=True, help="Seconds, without a scenario.",
)  # fmt: skip
@click.option(
    "--deadline-ms", type=click.IntRange(1, 600_000), default=5000, show_default=True,
    help="Of each call, without a scenario.",
)  # fmt: skip
@click.option(
    "--requests",
    type=EXISTING,
    help="Request file (JSON lines) to draw from, also instead of a scenario's.",
)
@click.option("--users-file", type=EXISTING, help="User ids that the server knows, one a line.")
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True,
    help="Of arrivals and of who asks, without a scenario.",
)  # fmt: skip
@click.option(
    "--driver", type=click.Choice(["client", "locust"]),
    help="Who sends.  [default: client of an open loop, locust of a closed one]",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True,
    help="How many of the driver share the load.",
)  # fmt: skip
@click.option("--server-pid", type=int, help="A server on this machine whose CPU time to count.")
@click.option("--allow-remote", is_flag=True, help="The target may be another machine.")
@click.option("--out", type=FOLDER, help="Folder for the results.  [required]")
@click.option("--json", "as_json", is_flag=True, help="Print load.json instead of a table.")
@click.pass_context
def load(
    context: click.Context,
    /,
    target: str,
    scenario: Path | None,
    driver: Literal["client", "locust"] | None,
    processes: int,
    server_pid: int | None,
    allow_remote: bool,
    out: Path | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Load a server, keep every sample, and say whether the load was one."""
    if context.invoked_subcommand is not None:
        return
    from bench.load.runner import Plan, run_load
    from bench.load.scenario import read_scenario
    from bench.progress import bar

    if out is None:
        raise click.UsageError("Missing option '--out'.")
    _one_way(context, scenario, flags)
    if scenario is None:
        described = Flags(**flags).scenario(out)
    else:
        described = read_scenario(scenario)
        if flags["requests"] is not None:
            asked = described.requests.model_copy(update={"file": flags["requests"]})
            described = described.model_copy(update={"requests": asked})
    if driver is None:
        driver = "client" if described.loop == "open" else "locust"
    plan = Plan(target, out, described, driver, processes, server_pid, allow_remote)
    with bar("load", described.duration_s) as show:
        result = run_load(plan, progress=show)
    click.echo(json.dumps(result, indent=1) if as_json else "\n".join(lines_of(result, out)))
    if not result["valid"]:
        sys.exit(VOID)


@load.command("sample", epilog=SAMPLE_EXAMPLES)
@click.option("--events", type=EXISTING, required=True, help="Event store of a server.")
@click.option("--users", type=EXISTING, help="Users' groups: CSV or Parquet with a column 'user'.")
@click.option(
    "--n", type=click.IntRange(1, 1_000_000), default=500, show_default=True, help="Requests."
)
@click.option("--by-id", is_flag=True, help="Name users instead of bringing their histories.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the draw.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File.")
def sample_command(
    events: Path, users: Path | None, n: int, by_id: bool, seed: int, out: Path
) -> None:
    """Make a request file of real histories, with the mix of groups that the store has."""
    from bench.load.requests import write_requests
    from bench.load.sample import read_groups, sample
    from bench.progress import bar
    from server.events import SqliteEventStore

    groups = read_groups(users) if users is not None else {}
    with (
        SqliteEventStore(events, create=False) as store,
        bar("events", store.stats().events) as show,
    ):
        seen = 0

        def on_events(more: int) -> None:
            nonlocal seen
            seen += more
            show(seen)

        found = sample(store, groups, n=n, seed=seed, by_id=by_id, on_events=on_events)
    write_requests(out, found.requests)
    click.echo(f"{len(found.requests):,} requests of {found.users:,} users in {out}")
    for attribute, labels in found.mix.items():
        told = ", ".join(
            f"{label} {there:.1%} ({here:.1%})" for label, (there, here) in labels.items()
        )
        click.echo(f"{attribute}, in the store (and here): {told}")


def _one_way(context: click.Context, scenario: Path | None, flags: dict[str, Any]) -> None:
    given = [
        name
        for name in flags
        if name != "requests" and context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    ]  # fmt: skip
    if scenario is not None and given:
        name = {"duration_s": "duration"}.get(given[0], given[0]).replace("_", "-")
        raise click.UsageError(f"--{name} stands in the scenario: leave one of the two out")
    for one, other in (("requests", "users_file"), ("rate", "users")):
        if flags[one] is not None and flags[other] is not None:
            raise click.UsageError(f"--{one} and --{other.replace('_', '-')} exclude each other")


def _ms(value: float | None) -> str:
    return "a failure" if value is None else f"{value:.2f} ms"


def lines_of(result: dict[str, Any], out: Path) -> list[str]:
    """A load for people."""
    lines = [
        f"{result['requests']:,} requests in {result['measured_s']:.1f} s by {result['driver']}, "
        f"{result['errors']:,} failed ({result['error_ratio']:.2%}); "
        f"{result['throughput_rps'] or 0:,.0f} lists/s"
    ]
    for name, told in (
        ("latency_ms", "from when it was due, failures infinite"),
        ("service_ms", "from when it was sent (closed view)"),
    ):
        table = result[name]
        values = ", ".join(f"{of} {_ms(table[of])}" for of in ("p50", "p90", "p99", "max"))
        lines.append(f"{told}: {values}")
    outcomes = ", ".join(f"{name} {count:,}" for name, count in result["by_status"].items())
    receipts = ", ".join(f"{name} {count:,}" for name, count in result["receipts"].items() if count)
    lines.append(f"outcomes: {outcomes}; receipts: {receipts or 'none'}")
    if result["server_cpu_us_per_list"] is not None:
        lines.append(f"server CPU: {result['server_cpu_us_per_list']:.0f} us per list")
    for check in result["checks"]:
        mark = {True: "yes", False: "NO " if check["voids"] else "no ", None: "?  "}[check["ok"]]
        lines.append(f"  {mark} {check['name']}: {check['told']}")
    if not result["valid"]:
        lines.append(f"VOID: {result['void_because']}")
    lines.append(f"{out / 'load.json'}")
    return lines
