"""One bundle measured as a release would be: evaluated, loaded by turns with the baseline, checked.

Owns the files of a candidate's folder: bundle/, quality/, loads/, invariants.json. An evaluation of the
same bundle that is there is not made again. All of it is done by the project's own commands, in processes of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from bench.load.runner import Plan, run_load
from bench.load.scenario import Scenario
from bench.refused import VOID, InputRefused
from bench.saturate.offer import drawn_requests
from bench.served import Served, equipoise, serving

RATE_RPS = 40.0
DEADLINE_MS = 2000
TRIES = 4
ATTEMPTS = 4
FIRST_US, PAIRS, SECONDS = 800.0, 5, 4.0


Data = tuple[str, ...]
"""Flags of `equipoise evaluate` that name the data."""


def run(command: Sequence[str], what: str, fine: tuple[int, ...] = (0,)) -> str:
    """The output of a command of the project. fine: exit codes that are results.

    Raises:
        InputRefused: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in fine:
        last = done.stderr.strip().splitlines()[-1:] or ["no word"]
        raise InputRefused(what, "", f"ended with {done.returncode}: {last[0]}")
    return done.stdout


def evaluated(bundle: Path, out: Path, data: Data) -> Path:
    """The evaluation of a bundle, made unless it is there."""
    result = out / "quality.json"
    bundle_id = json.loads((bundle / "manifest.json").read_text())["bundle_id"]
    if not result.exists() or json.loads(result.read_text())["bundle_id"] != bundle_id:
        run(equipoise("evaluate", "--bundle", bundle, *data, "--out", out), "evaluate")
    return result


def damaged(
    bundle: Path, out: Path, fault: str, flags: Sequence[str], data: Data
) -> dict[str, Any]:
    """The damaged bundle in `out`, made anew, and what was done."""
    command = [sys.executable, "-m", "training.damage", str(bundle), "--fault", fault]
    told = run([*command, *flags, *data, "--out", str(out)], "damage")
    made: dict[str, Any] = json.loads(told.strip().splitlines()[-1])
    return made


def invariants(target: str, bundle: Path, out: Path, examples: int, seed: int) -> Path:
    """The theorems, checked on a live server; a broken one is a result too."""
    flags = ("--target", target, "--bundle", bundle, "--examples", str(examples))
    command = equipoise("invariants", *flags, "--seed", str(seed), "--out", out)
    run(command, "invariants", fine=(0, 1, VOID))
    return out


def turns(
    baseline: Served, candidate: Served, out: Path, pairs: int, seconds: float, seed: int,
    told: Callable[[int], None],
) -> tuple[list[Path], list[Path]]:  # fmt: skip
    """Loads of both servers by turns, the same requests at the same times: files of the candidate, of the
    baseline. told: how many pairs are done.

    A load that is void, since the generator did not keep its schedule, is done again, up to TRIES times:
    that is told by the load itself, before anybody looks at what the server did in it.
    """
    requests = drawn_requests(baseline.target, out / "drawn", seed)
    ours: list[Path] = []
    theirs: list[Path] = []
    for pair in range(pairs):
        scenario = Scenario.model_validate(
            {
                "schema_version": 1,
                "name": "turns",
                "seed": seed + pair,
                "deadline_ms": DEADLINE_MS,
                "steady": False,
                "stage": [{"rate_rps": RATE_RPS, "duration_s": seconds}],
                "requests": {"file": requests},
                "check": {"share": 0.0},
            }
        )
        order = [("candidate", candidate, ours), ("baseline", baseline, theirs)]
        for name, served, files in order if pair % 2 else order[::-1]:
            folder = out / f"{name}-{pair}"
            for _ in range(TRIES):
                made = run_load(Plan(served.target, folder, scenario, server_pid=served.pid))
                if not made["void_because"]:
                    break
            files.append(folder / "load.json")
        told(pair + 1)
    return ours, theirs


def slowed(
    baseline: Path, out: Path, by: float, data: Data, seed: int, told: Callable[[str], None]
) -> dict[str, Any]:
    """A bundle in `out` whose lists take `by` (a share) longer as they are served, not only in the model:
    planted, loaded by turns with the baseline, planted anew. What was done; `p50_ratio` as last seen.

    What was loaded here is for finding the strength; a verdict takes loads of its own.
    """
    made: dict[str, Any] = {}
    slower_us = FIRST_US
    for attempt in range(ATTEMPTS):
        made = damaged(baseline, out, "slower", ("--slower-us", f"{slower_us:.0f}"), data)
        folder = out.parent / "strength"
        with ExitStack() as stack:
            theirs = stack.enter_context(serving(folder / "baseline.log", "--bundle", baseline))
            ours = stack.enter_context(serving(folder / "candidate.log", "--bundle", out))
            files = turns(
                theirs, ours, folder / "loads", PAIRS, SECONDS, seed + attempt, lambda _: None
            )
        ours_ms, theirs_ms = ([_p50_ms(path) for path in side] for side in files)
        ratio = geometric_mean(ours_ms) / geometric_mean(theirs_ms)
        told(f"{slower_us:.0f} us more in the model: a list takes {ratio - 1:+.1%}")
        made["p50_ratio"] = ratio
        if abs(ratio - 1 - by) < by / 5:
            break
        slower_us *= min(3.0, max(0.4, by / max(ratio - 1, 0.02)))
    return made


def _p50_ms(path: Path) -> float:
    p50 = json.loads(path.read_text())["latency_ms"]["p50"]
    if p50 is None:
        raise InputRefused(str(path), "latency_ms.p50", "half of the requests failed")
    return float(p50)
