"""The page of reliability: what the chaos runs found, as Markdown. Measures nothing.

Each run's result is kept as the command wrote it, in docs/evidence, and the page is made of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.whole import write_whole

DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "evidence"
PAGE = DOCS / "reliability.md"
RUNS = {
    "swaps": "Releases are exchanged under load: unary calls, batches and a stream all the while. "
    "Every answer is compared with the list that the release it names gives for that request, as a "
    "server of that release alone made it beforehand.",
    "overload": "The peak is the most lists a second that came within 100 ms, over steps of an open "
    "loop, of a server with `max_pending_calls = 48`. Then requests come at twice and "
    "five times the rate at which the peak was found, whatever becomes of them; then at half of it. "
    "Refused are those that the server answers with RESOURCE_EXHAUSTED and those that gRPC "
    "turns away at its door (CANCELLED). The caller works on the same two cores.",
    "overload-heavy": "The same with a model whose attention goes over 1,000 places instead of 50: a list "
    "costs milliseconds, so that refusals are cheap beside it and the "
    "caller keeps up with what it is to offer.",
    "overload-fallback": "The same under the policy `provider-tiers-or-fallback`, which declares what a "
    "request without time gets: a precomputed list that keeps its bounds. Such lists count as answers, "
    "and their receipts name them; what the door refuses is refused as ever.",
    "rolling": "Workers of one server, and two servers behind one client, are stopped with SIGTERM "
    "in turn, under an open loop, with `proto/equipoise/v1/service_config.json`.",
    "crashes": "Workers are killed (SIGKILL) and stopped (SIGSTOP) under an open loop; and a server "
    "that stands still is asked for its health.",
    "deadlines": "Calls alone, in batches and on streams whose deadline ends or whose caller leaves "
    "after a time drawn from an exponential of 30 ms, 64 at once.",
}


def kept(run: str) -> Path:
    """Where a run's result is kept."""
    return FOLDER / f"chaos-{run}.json"


def collect(source: Path) -> list[str]:
    """Keep what the runs left in `source`, and name them; others stay as they were."""
    found = [run for run in RUNS if (source / f"{run}.json").is_file()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for run in found:
        told = json.loads((source / f"{run}.json").read_text(encoding="utf-8"))
        write_whole(kept(run), json.dumps(told, indent=1) + "\n")
    return found


def read() -> dict[str, Any]:
    """The kept results by run."""
    return {
        run: json.loads(kept(run).read_text(encoding="utf-8"))
        for run in RUNS
        if kept(run).is_file()
    }


def write(results: Mapping[str, Any]) -> None:
    """Write the page."""
    write_whole(PAGE, page(results))


def page(results: Mapping[str, Any]) -> str:
    """The page as Markdown."""
    parts = [
        "# Under faults and overload\n",
        "Made by `make chaos-evidence` from what `make chaos` left in out/chaos; one run alone: "
        "`make chaos CHAOS=overload`. PASS, or by how much a mark is missed; void "
        "where the caller did not keep up; rows without a mark are told and not judged. All on loopback, caller and server on the same "
        "cores.\n",
    ]
    for run, told in results.items():
        on = told["measured_on"]
        parts += [
            f"## {told['title'][0].upper()}{told['title'][1:]}\n",
            f"{RUNS[run]}\n",
            "| | measured | mark | |\n| --- | --- | --- | --- |\n"
            + "\n".join(
                "| "
                + " | ".join(
                    _cell(row[key]) for key in ("what", "measured", "pass_mark", "verdict")
                )
                + " |"
                for row in told["rows"]
            )
            + "\n",
            f"`python -m bench.chaos {run}`, commit `{on['commit']}`, {on['ended']}, {on['cores']} cores "
            f"of {on['processor']}, load of 15 minutes {on['load_15_minutes']:.1f}, Python "
            f"{on['python']}.\n",
        ]
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
