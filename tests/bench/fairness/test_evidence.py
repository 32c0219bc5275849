"""The page of evidence says what the kept results say, also where they are bad."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.fairness import evidence, extents
from bench.fairness.__main__ import main
from bench.fairness.conditions import conditions
from bench.fairness.mutants import Settings
from bench.fairness.prove import BRIEF, LONG

FATES = ("killed", "survived", "equivalent")


@pytest.fixture
def results() -> dict[str, dict[str, Any]]:
    return evidence.read()


def test_the_page_is_made_of_the_kept_results(results: dict[str, dict[str, Any]]) -> None:
    made = evidence.page(results)
    assert evidence.PAGE.read_text(encoding="utf-8") == made, "run: make fairness-evidence"


def test_every_check_of_the_proof_stands_behind_a_guarantee(
    results: dict[str, dict[str, Any]],
) -> None:
    for guarantee in evidence.GUARANTEES:
        assert guarantee.proof or (guarantee.soak and guarantee.instead)
    checks = [line["check"] for line in results["proof"]["lines"]]
    for begin in (one for guarantee in evidence.GUARANTEES for one in guarantee.proof):
        assert any(check.startswith(begin) for check in checks), begin
    for check in checks:
        assert any(check.startswith(one.proof) for one in evidence.GUARANTEES if one.proof), check
    soaked = {kind for guarantee in evidence.GUARANTEES for kind in guarantee.soak}
    assert soaked == set(results["soak"]["stage"])


def test_what_went_wrong_is_told(results: dict[str, dict[str, Any]]) -> None:
    worse = copy.deepcopy(results)
    worse["proof"]["lines"][0]["mismatches"] = 77_001
    worse["soak"]["stage"]["pages"]["violations"] = 88_002
    worse["speed"]["rows"][0]["met"] = False
    worse["mutants"]["survivors"] = [
        {"module": "a/b.py", "line": 9, "was": "x = a | b", "becomes": "x = a & b"}
    ]
    worse["mutants"]["modules"] = {"server/fairness/kernels.py": dict.fromkeys(FATES, 1)}
    told = evidence.page(worse)
    [untried] = [line for line in told.splitlines() if line.startswith("**Not in the run")]
    assert "`server/fairness/receipt.py`" in untried
    assert "kernels.py" not in untried
    floors = next(line for line in told.splitlines() if line.startswith("| `floors` |"))
    pages = next(line for line in told.splitlines() if line.startswith("| pages |"))
    assert "/ 77,001 |" in floors
    assert "/ 88,002 |" in pages
    first = next(line for line in told.splitlines() if worse["speed"]["rows"][0]["name"] in line)
    assert "**missed**" in first
    assert "| `b.py:9` | `x = a \\| b` | `x = a & b` |  |" in told


SHORT = "**A short run**: "


def test_a_short_run_is_told_as_one(results: dict[str, dict[str, Any]]) -> None:
    few = copy.deepcopy(results)
    few["proof"]["extent"] = {
        "worlds": {"tried": 4, "wanted": 220},
        "random instances of a rule": {"tried": 4000, "wanted": 1_000_000},
        "lists of several tables": {"tried": 2000, "wanted": 2000},
    }
    few["soak"]["lists"] = 70_000
    few["mutants"]["modules"] = {"server/fairness/kernels.py": dict.fromkeys(FATES, 1)}
    few["speed"]["rounds"] = 7
    few["tables"]["simulation"] = [{**few["tables"]["simulation"][0], "draws": 30, "groups": 2}]
    told = evidence.page(few)
    modules = len(Settings.read().modules)
    assert [line for line in told.splitlines() if line.startswith(SHORT)] == [
        f"{SHORT}worlds: 4 of 220; random instances of a rule: 4,000 of 1,000,000.",
        f"{SHORT}lists: 70,000 of 100,000,000.",
        f"{SHORT}modules: 1 of {modules}.",
        f"{SHORT}rounds: 7 of 60.",
        f"{SHORT}draws for each number of groups: 30 of 4,000; numbers of groups: 1 of 9.",
    ]
    assert told.count("| **short** |") == 5
    # A goal of all modules is not met by one.
    assert "(goal: 95%, of all modules)" in told
    few["mutants"]["score"] = 0.9
    assert "(goal: 95%, **missed**)" in evidence.page(few)


def test_the_soak_tells_what_it_drew_and_an_old_one_that_it_does_not(
    results: dict[str, dict[str, Any]],
) -> None:
    soak = copy.deepcopy(results["soak"])
    drew = {"groups": 61, "candidates": 1499, "places": 48}
    soak |= {"loop": ["floors", "cap"], "partly": 41_003, "retried": 1_007, "drew": drew}
    soak["stage"]["mmr"]["drew"] = {"groups": 7, "candidates": 77, "places": 17}
    told = evidence.page({**results, "soak": soak})
    assert "| compiled loop: floors, cap, drawn bounds | 61, 1,499, 48 |" in told
    assert "| whole stage: mmr | 7, 77, 17 |" in told
    assert "41,003 were made of a part of the order, 1,007 of them again" in told
    for new in ("loop", "partly", "retried", "drew"):
        del soak[new]
    told = evidence.page({**results, "soak": soak})
    assert "| kernel: floors, fa_ir, window, cap, drawn | not told |" in told
    assert "**The kernel's row is of an earlier loop**" in told


def test_a_whole_run_is_told_as_one(results: dict[str, dict[str, Any]]) -> None:
    whole = copy.deepcopy(results)
    whole["proof"]["extent"] = {"worlds": {"tried": 220, "wanted": 220}}
    whole["soak"]["lists"] = 10**8
    whole["mutants"]["modules"] = dict.fromkeys(Settings.read().modules, dict.fromkeys(FATES, 1))
    told = evidence.page(whole)
    assert SHORT not in told
    assert told.count("| whole |") == 5
    # What does not say how much it is of is not taken for a whole one.
    del whole["proof"]["extent"]
    told = evidence.page(whole)
    assert "**Whether this was a whole run**, the result does not say.\n" in told
    assert (told.count("| whole |"), told.count("| **unknown** |")) == (4, 1)


def test_the_commands_do_a_whole_run_unless_told_otherwise() -> None:
    defaults = {
        (name, parameter.name): parameter.default
        for name, command in main.commands.items()
        for parameter in command.params
    }
    assert defaults["soak", "lists"] == extents.LISTS == 10**8
    assert defaults["speed", "rounds"] == extents.ROUNDS
    assert defaults["tables", "draws"] == extents.DRAWS
    long, brief = LONG.counted(), BRIEF.counted()
    assert all(brief[part] < long[part] for part in long)


@pytest.mark.parametrize(
    "flags",
    [
        ["prove", "--seed", "-1"],
        ["soak", "--seed", "-1"],
        ["tables", "--seed", "-1"],
        ["prove", "--seed", str(2**32)],
        ["soak", "--count", "0"],
        ["tables", "--groups", "1"],
        ["mutants", "--module", "server/none.py"],
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(flags: list[str]) -> None:
    ran = CliRunner().invoke(main, flags)
    assert ran.exit_code == 2
    assert f"Invalid value for '{flags[1]}': " in ran.output
    assert "Traceback" not in ran.output


def test_every_row_of_a_table_has_its_columns(results: dict[str, dict[str, Any]]) -> None:
    width = 0
    for line in evidence.page(results).splitlines():
        cells = len(re.split(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells


def test_results_are_kept_and_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: dict[str, dict[str, Any]]
) -> None:
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(evidence, "PAGE", tmp_path / "page.md")
    empty = CliRunner().invoke(main, ["evidence", "--results", str(tmp_path)])
    assert empty.exit_code == 1
    assert "proof.json: run the command first" in empty.output
    for name, result in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")
    made = CliRunner().invoke(main, ["evidence", "--results", str(tmp_path)])
    assert made.exit_code == 0, made.output
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == evidence.page(results)
    # What is not measured anew stays.
    (tmp_path / "proof.json").unlink()
    assert CliRunner().invoke(main, ["evidence", "--results", str(tmp_path)]).exit_code == 0


def test_a_result_says_of_which_sources_it_is() -> None:
    measured = conditions(12.34)
    assert measured["seconds"] == 12.3
    assert measured["cores"] >= 1
    assert re.fullmatch(r"[0-9a-f]{12}\+?|unknown", measured["commit"])
