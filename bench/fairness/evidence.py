"""The page of evidence: what the commands of this folder found, as Markdown. Measures nothing.

Results are kept as the commands wrote them, in docs/evidence; the page is made of them alone, so no
number stands in it that no command printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.fairness import extents
from bench.fairness.mutants import Equivalents, Settings
from bench.fairness.timing import in_words
from bench.whole import write_whole

DOCS = Path(__file__).resolve().parents[2] / "docs"
FOLDER = DOCS / "evidence"
PAGE = DOCS / "fairness-evidence.md"

COMMANDS = {
    "proof": "make prove-fairness",
    "soak": "make soak-fairness",
    "mutants": "make mutants",
    "speed": "make bench-fairness",
    "tables": "make fairness-tables",
}
"""Result, by the name of its file -> what wrote it."""

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Guarantee:
    """What a kind promises. proof: how the checks that stand behind it begin; soak: kinds there.

    instead: where the proof has no oracle, what the soak compares beyond the bounds.
    """

    kind: str
    text: str
    proof: tuple[str, ...]
    soak: tuple[str, ...]
    instead: str = ""


GUARANTEES = (
    Guarantee(
        "floors",
        "every prefix meets its floors; every prefix sum of scores is the largest possible, so DCG "
        "is, for every discount that does not rise",
        ("floors, ", "order of the input"),
        ("one table",),
    ),
    Guarantee(
        "window",
        "floor(kp) to ceil(kp) of each group in the first k; DCG near the best, and the receipt "
        "bounds the distance",
        ("floors and ceilings, ", "windows: "),
        ("one table",),
    ),
    Guarantee(
        "fa_ir",
        "a fair list fails its floors with at most alpha, exactly; several groups share alpha "
        "equally (a union bound); optimal as floors are",
        ("FA*IR", "floors, FA*IR and caps"),
        ("fa_ir",),
    ),
    Guarantee(
        "calibrated",
        "of each group at least and at most what the user's own shares allow, in every prefix; the "
        "receipt tells the divergence before and after, and bounds the distance to the best",
        ("calibrated: ",),
        ("calibrated",),
    ),
    Guarantee(
        "cap",
        "at most c of a group in the first k, several caps at once; optimal as floors are",
        ("ceilings, ", "floors, FA*IR and caps"),
        ("one table",),
    ),
    Guarantee(
        "intersection",
        "the bounds of several overlapping tables; never a broken one without INFEASIBLE (proven) "
        "or NOT_FOUND (not proven); the receipt bounds the distance to the best",
        ("several tables",),
        ("several tables",),
    ),
    Guarantee(
        "amortised",
        "raises scores by what a group lacks of its exposure over all lists, before the bounds: the "
        "rules after it hold in each list; exposure is summed exactly",
        (),
        ("amortised",),
        "in bulk: where no bound follows, that the order is that of scores raised by the papers' "
        "formulas, to 1e-5 of the largest; of every list, that exposure is what a count of its own "
        "says, exactly",
    ),
    Guarantee(
        "diverse",
        "MMR, or greedy MAP of a DPP, before the bounds: the rules after it hold in each list",
        (),
        ("mmr", "dpp"),
        "in bulk: where no bound follows, that each place has the greedy pick of the definition, to "
        "1e-5; of a DPP up to the first place where rounding could decide",
    ),
    Guarantee(
        "pages",
        "the pages of a list together keep what the list has to keep; no item comes twice",
        (),
        ("pages",),
        "in bulk: of every kind here, that each page leaves what was shown and the verdict of the "
        "first as they were (of several tables, where scores moved, a page may say NOT_FOUND: those "
        "that had a list are counted below); where scores, exposure with them, do not move between pages, that together they are the "
        "list made at once",
    ),
)


def collect(source: Path) -> list[str]:
    """Keep the results that the commands left in `source`, and name them; others stay as they were."""
    found = [name for name in COMMANDS if (source / f"{name}.json").is_file()]
    for name in found:
        FOLDER.mkdir(parents=True, exist_ok=True)
        kept = json.loads((source / f"{name}.json").read_text(encoding="utf-8"))
        if name == "mutants":
            # With the result, since lines and their reasons go on changing.
            for one in kept["survivors"]:
                told = Equivalents.read().why_left(one["module"], one["was"], one["becomes"])
                one["why"] = one.get("why") or told
        write_whole(FOLDER / f"{name}.json", json.dumps(kept, indent=1) + "\n")
    return found


def read() -> dict[str, dict[str, Any]]:
    """The kept results, by name.

    Raises:
        FileNotFoundError: one is not there.
    """
    return {
        name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in COMMANDS
    }


def write(results: Results) -> None:
    """Write the page."""
    write_whole(PAGE, page(results))


def page(results: Results) -> str:
    """The page as Markdown."""
    parts = [
        "# Evidence\n",
        "Made by `python -m bench.fairness evidence` from the results in "
        "[evidence](evidence), as the commands named here wrote them. What each kind means is in "
        "[policies.md](policies.md), why the exact ones are exact in [proof.md](proof.md).\n",
        _measured_on(results),
        "## What is guaranteed\n",
        _guarantees(results),
        "## Lists against oracles\n",
        extents.told("proof", results["proof"]) + _proof(results["proof"]),
        "## Lists in bulk\n",
        extents.told("soak", results["soak"]) + _soak(results["soak"]),
        "## Would the tests notice?\n",
        extents.told("mutants", results["mutants"]) + _mutants(results["mutants"]),
        "## Speed\n",
        extents.told("speed", results["speed"]) + _speed(results["speed"]),
        "## The KDD 2019 simulation, run again\n",
        extents.told("tables", results["tables"]) + _tables(results["tables"]),
    ]
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    told = ("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n".join(told) + "\n"


def _measured_on(results: Results) -> str:
    rows = []
    for name, command in COMMANDS.items():
        on = results[name]["measured_on"]
        rows.append(
            (
                f"`{command}`",
                f"`{on.get('commit', 'unknown')}`",
                f"{on['cores']} cores of {on['processor']}",
                on.get("ended", "unknown"),
                f"{on['load_15_minutes']:.1f}",
                f"{results[name].get('seconds', on['seconds']):,.0f} s",
                extents.run(name, results[name]),
                ", ".join(f"{package} {on[package]}" for package in ("python", "numpy", "numba")),
            )
        )
    columns = ("command", "commit", "measured on", "ended", "load", "it took", "run", "with")
    told = (
        "\nLoad: how many processes ran or waited on the machine, the mean of the last 15 minutes; "
        'those measured are among them. A "+" behind a commit: with changes that had none. What has '
        "changed since a commit, `git log COMMIT.. -- server/fairness` tells. Short: less was "
        "tried than the command does by itself; what is missing stands with its result.\n"
    )
    return _table(columns, rows) + told


def _guarantees(results: Results) -> str:
    lines = results["proof"]["lines"]
    stage = results["soak"]["stage"]
    rows = []
    for one in GUARANTEES:
        checked = [line for line in lines if line["check"].startswith(one.proof or ("-",))]
        soaked = [tally for kind, tally in stage.items() if kind in one.soak]
        against = sum(line["instances"] for line in checked)
        wrong = sum(line["mismatches"] for line in checked)
        lists = sum(tally["lists"] for tally in soaked)
        outside = sum(tally["violations"] for tally in soaked)
        rows.append(
            (
                f"`{one.kind}`" if one.kind != "pages" else "pages",
                one.text,
                f"{against:,} / {wrong:,}" if checked else f"no oracle; {one.instead}",
                f"{lists:,} / {outside:,}" if soaked else "",
            )
        )
    columns = ("kind", "guarantee", "against an oracle / mismatches", "in bulk / violations")
    told = (
        "\nAgainst an oracle: instances whose list was compared with brute force, another rule, an "
        "assignment or an integer program; one instance may stand behind several kinds. In bulk: "
        "lists made through the whole fair stage, their bounds recounted from the policy's text; "
        "floors, windows and caps share theirs.\n"
    )
    return _table(columns, rows) + told


def _proof(proof: Mapping[str, Any]) -> str:
    told = (
        f"`{COMMANDS['proof']}`: {proof['instances']:,} instances, seed {proof['seed']}, "
        f"{proof['mismatches']:,} mismatches.\n\n"
    )
    rows = [
        (line["check"], f"{line['instances']:,}", f"{line['mismatches']:,}", line["note"])
        for line in proof["lines"]
    ]
    several = proof["several_tables_regret"]
    missed = several["can_be_kept"] - several["near"]
    goal = (
        f"\nSeveral tables have a goal: within {several['goal']:.1%} of the integer program's "
        f"optimum. {several['near']:,} of {several['can_be_kept']:,} lists are; {missed:,} are "
        f"not, of which {several['not_found']:,} were not found. The worst is "
        f"{several['worst']:.2%} off.\n"
    )
    return told + _table(("check", "instances", "mismatches", "of them"), rows) + goal


def _soak(soak: Mapping[str, Any]) -> str:
    staged = sum(tally["violations"] for tally in soak["stage"].values())
    kernel = (soak["lists"], soak["infeasible"], 0, soak["violations"] - staged)
    rows = [(_loop_of(soak), _drew(soak), *(f"{count:,}" for count in kernel))]
    for kind, tally in soak["stage"].items():
        counts = (tally["lists"], tally["infeasible"], tally["not_found"], tally["violations"])
        rows.append((f"whole stage: {kind}", _drew(tally), *(f"{count:,}" for count in counts)))
    told = (
        f"`{COMMANDS['soak']}`: seed {soak['seed']}; "
        f"{soak['violations']:,} lists outside their bounds. None keeps: no list of the candidates "
        "can keep the bounds, and the list says so. Not found: there was one, and the receipt says "
        "NOT_FOUND. Groups, candidates, places: the most that a list had, the groups those of one "
        "table.\n\n"
    )
    if "partly" in soak:
        told += (
            "The compiled loop calls the server's kernels for a policy of one table, in the server's "
            "order, and makes no receipts; the partition and, of many equal scores, the sort between "
            f"them are the compiler's own instead of numpy's. Of its lists {soak['partly']:,} were made "
            f"of a part of the order, {soak['retried']:,} of them again of the whole, since the part "
            "was too short. The whole stage is `rerank` itself.\n\n"
        )
    else:
        told += (
            "**The kernel's row is of an earlier loop**, which sorted all candidates of each list; the "
            "server sorts a part of them where that is likely to be enough.\n\n"
        )
    columns = (
        "lists of", "groups, candidates, places, up to", "lists", "none keeps", "not found",
        "violations",
    )  # fmt: skip
    return told + _table(columns, rows)


def _loop_of(soak: Mapping[str, Any]) -> str:
    if "partly" not in soak:
        return "kernel: floors, fa_ir, window, cap, drawn"
    return f"compiled loop: {', '.join(soak['loop'])}, drawn bounds"


def _drew(tally: Mapping[str, Any]) -> str:
    drew = tally.get("drew")
    return f"{drew['groups']}, {drew['candidates']:,}, {drew['places']}" if drew else "not told"


def _mutants(mutants: Mapping[str, Any]) -> str:
    untried = [f"`{one}`" for one in Settings.read().modules if one not in mutants["modules"]]
    met = _words(mutants["score"] >= mutants["goal"])
    if untried and mutants["score"] >= mutants["goal"]:
        met = "of all modules"  # which some of them do not meet
    told = (
        f"`{COMMANDS['mutants']}`: {mutants['score']:.1%} of the faults planted in "
        f"{len(mutants['modules'])} modules of the fair stage were noticed (goal: "
        f"{mutants['goal']:.0%}, {met}). Equivalent ones change no answer and do "
        "not count; each has its reason in `bench/fairness/equivalent.toml`. The search for several "
        "tables (`overlap*.py`) has no mutants: as plain Python, which they need, it takes minutes. "
        "Proof and soak stand for it. Nor have the audit's measures (`metrics.py`, `invariants.py`), "
        "which are tested against other libraries and by their definitions.\n\n"
    )
    if untried:
        told += f"**Not in the run that is kept here**: {', '.join(untried)}.\n\n"
    rows = [
        (f"`{module}`", *(f"{counts[fate]:,}" for fate in ("killed", "survived", "equivalent")))
        for module, counts in mutants["modules"].items()
    ]
    survivors = [
        (
            f"`{one['module'].rpartition('/')[2]}:{one['line']}`",
            _code(one["was"]),
            _code(one["becomes"]),
            one.get("why", ""),
        )
        for one in mutants["survivors"]
    ]
    head = ("at", "line", "fault", "why it is left")
    listed = "\nSurvivors:\n\n" + _table(head, survivors) if survivors else ""
    return told + _table(("module", "killed", "survived", "equivalent"), rows) + listed


def _code(line: str) -> str:
    quote = "``" if "`" in line else "`"
    return f"{quote}{line}{quote}"


def _words(met: bool | None) -> str:
    return {True: "met", False: "**missed**", None: ""}[met]


def _speed(speed: Mapping[str, Any]) -> str:
    rows = [
        (
            row["name"],
            f"{in_words(row['value'])} {row['unit']}",
            "" if row["goal"] is None else f"{row['goal']:g}",
            _words(row["met"]),
            row["note"],
        )
        for row in speed["rows"]
    ]
    told = (
        f"`{COMMANDS['speed']}`: medians of {speed['rounds']} interleaved rounds, CPU time unless "
        f"told otherwise; {speed['missed']} goals missed. The rows of a server are wall-clock time: "
        "callers, event loop and fair stage share the cores, a stage that was not just run finds its "
        "code and data outside of the caches, and at the 99th percentile another thread had its turn "
        "in the middle of it.\n\n"
    )
    return told + _table(("measured", "value", "goal, at most", "", "from"), rows)


def _tables(tables: Mapping[str, Any]) -> str:
    told = (
        f"`{COMMANDS['tables']}`: the simulation of Geyik et al. (KDD 2019), seed "
        f"{tables['seed']}, lists of 100, with this system's floors beside the paper's rules. Floors "
        "are the least that a group gets, and the exact list keeps the most NDCG of those that keep "
        "them; NDKL measures the distance from the shares themselves, which windows and the paper's "
        "rules aim at. FA*IR's published m-tables are a check of their own, above.\n\n"
    )
    rows = [
        (
            str(one["groups"]),
            one["rule"],
            f"{one['ndcg']:.4f}",
            f"{one['infeasible_index']:.2f}",
            f"{one['broken']:.1%}",
            f"{one['ndkl']:.3f}",
        )
        for one in tables["simulation"]
    ]
    columns = ("groups", "rule", "NDCG", "InfeasibleIndex", "lists broken", "NDKL")
    return told + _table(columns, rows)
