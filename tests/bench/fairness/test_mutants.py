"""Mutants are told by their lines, counted by module, and equivalent ones have a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.fairness.mutants import ROOT, Equivalents, Fate, Mutant, Settings, mutants_of, scored


def _mutant(module: str = "a.py", line: int = 1) -> Mutant:
    return Mutant(module, "core/AddNot", 0, line, "if x:", "if not x:")


def test_the_settings_name_modules_and_tests_that_exist() -> None:
    settings = Settings.read()
    assert all((ROOT / module).is_file() for module in settings.modules)
    paths = [test for test in settings.tests if not test.startswith("--")]
    assert paths
    assert all((ROOT / path).exists() for path in paths)


def test_the_score_leaves_out_equivalent_mutants() -> None:
    fates = ["killed"] * 3 + ["survived", "equivalent", "equivalent"]
    result = scored([Fate(_mutant(line=n), fate) for n, fate in enumerate(fates)], 60.0)
    assert result["score"] == 0.75
    assert result["modules"] == {"a.py": {"killed": 3, "survived": 1, "equivalent": 2}}
    assert [one["line"] for one in result["survivors"]] == [3]


def test_every_equivalent_mutant_has_a_line_and_a_reason() -> None:
    equivalents = Equivalents.read()
    for (module, was, becomes), reason in equivalents.lines.items():
        source = (ROOT / module).read_text(encoding="utf-8")
        lines = {line.strip() for line in source.splitlines()}
        assert was in lines, f"{module} no longer has {was!r}"
        assert was != becomes
        assert len(reason) > 20
    assert all(len(reason) > 20 for reason in equivalents.patterns.values())


def test_every_survivor_that_is_kept_has_a_reason() -> None:
    kept = json.loads((ROOT / "docs/evidence/mutants.json").read_text(encoding="utf-8"))
    assert [one for one in kept["survivors"] if len(one["why"]) <= 20] == []


def test_what_is_left_alone_counts_and_has_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "equivalent.toml"
    path.write_text(
        '[[left]]\nmodule = "a.py"\nwas = "if x:"\nbecomes = "if not x:"\nreason = "why"\n'
    )
    known = Equivalents.read(path)
    assert known.reason(_mutant()) is None
    assert known.why_left("a.py", "if x:", "if not x:") == "why"
    assert known.why_left("b.py", "if x:", "if not x:") == ""


def test_reasons_are_found_by_the_text_of_the_line(tmp_path: Path) -> None:
    path = tmp_path / "equivalent.toml"
    path.write_text(
        '[[mutant]]\nmodule = "a.py"\nwas = "if x:"\nbecomes = "if not x:"\nreason = "line"\n'
        '[[pattern]]\nbecomes = "not y"\nreason = "pattern"\n'
    )
    known = Equivalents.read(path)
    assert known.reason(_mutant()) == "line"
    assert known.reason(_mutant("b.py")) is None
    assert known.reason(Mutant("b.py", "o", 0, 1, "y", "not y")) == "pattern"


@pytest.mark.slow
def test_each_mutant_changes_one_line_that_is_no_type() -> None:
    pytest.importorskip("cosmic_ray", reason="make mutants installs it")
    made = list(mutants_of("server/fairness/kernels.py", Settings.read()))
    assert len(made) > 300
    assert all(mutant.was and mutant.was != mutant.becomes for mutant, _ in made)
    assert len({source for _, source in made}) > 0.95 * len(made)
