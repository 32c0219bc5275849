"""The page of performance: what `make bench-serving` found, as Markdown. Measures nothing.

The result is kept as the command wrote it, in docs/evidence; the page is made of it and of what the
peers' servers say of their tuning, so no number stands in it that no command printed.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving import report
from bench.serving.peers.peer import HERE, PEERS
from bench.whole import write_whole

DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "evidence"
PAGE = DOCS / "performance.md"
NAME = "cost.json"
KEPT = "serving-cost.json"
COMMAND = "make bench-serving"

Result = Mapping[str, Any]


def lacks(told: Result) -> str:
    """What a result has not, that the page tells of; empty if it is whole."""
    missing = sorted({peer.name for peer in PEERS} - told["peer_versions"].keys())
    if told["short"]:
        return "all but a short run"
    if missing:
        return ", ".join(missing)
    return "" if told["growth"] else "growth"


def collect(source: Path) -> bool:
    """Keep the result that the command left in `source`; whether there is one.

    Raises:
        ValueError: it is of a part only, and would take the place of a whole one.
    """
    if not (source / NAME).is_file():
        return False
    told = json.loads((source / NAME).read_text(encoding="utf-8"))
    if missing := lacks(told):
        raise ValueError(f"{source / NAME} lacks {missing}, so the page stays as it is: {COMMAND}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_whole(FOLDER / KEPT, json.dumps(told, indent=1) + "\n")
    return True


def read() -> dict[str, Any]:
    """The kept result.

    Raises:
        FileNotFoundError: there is none.
    """
    found: dict[str, Any] = json.loads((FOLDER / KEPT).read_text(encoding="utf-8"))
    return found


def write(result: Result) -> None:
    """Write the page."""
    write_whole(PAGE, page(result))


def page(result: Result) -> str:
    """The page as Markdown."""
    columns, where = report.where_rows(result)
    parts = [
        "# What a list costs\n",
        f"Made by `make serving-evidence` from [{KEPT}](evidence/{KEPT}), as `{COMMAND}` wrote it. "
        "The work is the same for all servers: a history of 50 items and 200 candidates, no two "
        "requests alike, through the same ONNX file and the same fair stage to a fair list of 20; "
        "one worker each, one server alive at a time. CPU is user and system time of the server's "
        "whole process tree. Every list is compared with the one that was expected, and the port is "
        "seen to be that server's.\n",
        _measured_on(result),
        "## Goals\n",
        f"{report.met_of(result)} Missed by 50%: 1.5 times what was to be at most, or 1 / 1.5 of "
        "what was to be at least.\n",
        _table(("goal", "ratio", "wanted", "", "from"), report.goal_rows(result)),
        "## Cost\n",
        "A closed loop of one caller on the same cores; what it spent itself stands last. Each "
        f"figure is the median of {result['rounds']} rounds of {result['load_seconds']:g} s; of "
        "BatchRecommend the time is that of the whole message. Peers get item numbers as raw "
        "tensors where they take such, and Equipoise by number too, but where a row says text; its "
        "answers have ids, groups, reasons and receipts besides. Triton with ids as text looks "
        "them up as Equipoise does for such rows.\n",
        _table(report.COSTS, report.cost_rows(result)),
        "## Where one list's microseconds go\n",
        f"The model alone on one list takes {result['model_us'] / 1e3:.2f} ms, an empty unary call "
        f"by the same caller {result['empty_call_us'] / 1e3:.2f} ms.\n",
        _table(("", *columns), where),
    ]
    if grown := report.growth_rows(result):
        parts += [
            "## Growth\n",
            "Workers, of whom the last goal tells, are judged by lists per second, 64 in flight on 32 "
            "connections. The caller works on the same cores: two workers' lists are counted per "
            "the share of the machine that it left; one worker and the caller have a core each. One "
            "worker takes more than a core already (its event loop, the model and gRPC's threads "
            "run beside each other), which bounds what a second one can add.\n",
            _table(("16 in flight", "CPU us a list", "p50 ms"), grown),
        ]
    parts += [
        "## How the peers were tuned\n",
        *(_tuning(home) for home in dict.fromkeys(peer.home for peer in PEERS)),
    ]
    return "\n".join(parts)


def _measured_on(result: Result) -> str:
    on = result["measured_on"]
    versions = [f"{name} {on[name]}" for name in ("python", "numpy", "onnxruntime", "grpcio")]
    versions += sorted({pin.replace("==", " ") for pin in result["peer_versions"].values()})
    rows = (
        ("commit", f"`{on['commit']}`"),
        ("measured on", f"{on['cores']} cores of {on['processor']}"),
        ("ended", on["ended"]),
        ("load, mean of 15 minutes", f"{on['load_15_minutes']:.1f}"),
        ("it took", f"{on['seconds']:,.0f} s"),
        ("with", ", ".join(versions)),
    )
    short = "**A short run**: does it work; its figures say little.\n\n" if result["short"] else ""
    return short + _table(("", ""), rows)


def tuning(name: str) -> str:
    """What a peer's server says of itself: its docstring, read and not run."""
    source = (HERE / name / "server.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def _tuning(name: str) -> str:
    paragraphs = [" ".join(part.split()) for part in tuning(name).split("\n\n")]
    return "\n\n".join(paragraphs) + "\n"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    told = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join(told) + "\n"
