"""Sweeps: the same trials after a kill, on validation only, and a file that `train` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from click.testing import CliRunner

from server.errors import Refused
from strategies.learning import lists_of
from strategies.purchases import raw, shop_rows
from training import sweep as sweeping
from training.commands import train
from training.settings import TrainSettings
from training.settings_file import settings_from, settings_text
from training.sweep import sweep
from training.sweep_command import sweep as command

BASE = TrainSettings(epochs=4, lists_per_step=16, hidden=(32, 16))
KEY = {"data": "d"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def swept(study: Path, trials: int, base: TrainSettings = BASE, key: dict[str, str] = KEY):
    return sweep([lists_of(0, 40)], lists_of(2), base, trials, study, key, lambda text: None)


def trials_of(study: Path) -> list[tuple[dict[str, object], float | None, str]]:
    known = optuna.load_study(study_name=sweeping.STUDY, storage=f"sqlite:///{study}").trials
    return [
        (one.params, one.value, one.state.name)
        for one in known
        if one.state.name in ("COMPLETE", "PRUNED")
    ]


class Killed(BaseException):
    """As kill -9: Optuna is told nothing of it."""


@pytest.mark.slow
def test_a_sweep_that_was_killed_makes_the_trials_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = swept(tmp_path / "whole.db", 12)
    honest, calls = sweeping.train_ranker, 0

    def killed(*arguments):
        nonlocal calls
        calls += 1
        if calls in (1, 4, 14):  # the first trial, one drawn at random, one by what is known
            raise Killed
        return honest(*arguments)

    monkeypatch.setattr(sweeping, "train_ranker", killed)
    study = tmp_path / "killed.db"
    for _ in range(3):
        with pytest.raises(Killed):
            swept(study, 12)
    again = swept(study, 12)
    assert trials_of(study) == trials_of(tmp_path / "whole.db")
    assert again == whole
    # The first trial is where the sweep starts; the best is no worse.
    first, value, _ = trials_of(study)[0]
    assert (first["learning_rate"], first["hidden_first"]) == (BASE.learning_rate, 32)
    assert again.ndcg >= again.ndcg_at_start == value
    # All were made: nothing more is trained.
    before = calls
    assert swept(study, 12) == whole
    assert calls == before


def test_a_study_of_other_data_or_settings_is_refused(tmp_path: Path) -> None:
    swept(tmp_path / "s.db", 1)
    with pytest.raises(Refused, match="data: 'd' then, 'e' now"):
        swept(tmp_path / "s.db", 2, key={"data": "e"})
    with pytest.raises(Refused, match=r"settings\.epochs: 4 then, 5 now"):
        swept(tmp_path / "s.db", 2, replace(BASE, epochs=5))


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_text("a letter")
    with pytest.raises(Refused, match=r"the study .*s\.db cannot be read"):
        swept(tmp_path / "s.db", 1)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_what_a_sweep_writes_train_reads(tmp_path: Path, suffix: str) -> None:
    found = swept(tmp_path / "s.db", 3).best
    assert found.name == "swept"
    path = tmp_path / f"best{suffix}"
    path.write_text(settings_text(found, suffix))
    assert settings_from(path, TrainSettings()) == found


@pytest.mark.slow
def test_the_command_writes_settings_and_train_takes_them(tmp_path: Path) -> None:
    raw(shop_rows()).write_parquet(tmp_path / "purchases.parquet")
    source = ["--interactions", str(tmp_path / "purchases.parquet"), "--quick", "--json"]
    best = tmp_path / "best.toml"
    made = CliRunner().invoke(command, [*source, "--trials", "2", "--out", str(best)])
    assert made.exit_code == 0, (made.output, made.exception)
    facts = json.loads(made.stdout)
    assert facts["trials"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.toml", "best.toml.study.db", "purchases.parquet",
    ]  # fmt: skip
    result = CliRunner().invoke(
        train, [*source, "--settings", str(best), "--out", str(tmp_path / "b")]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    # The trained ranker is the trial's: what was promised is what one gets.
    assert json.loads(result.stdout)["validation_ndcg_at_20"] == pytest.approx(
        facts["validation_ndcg_at_20"], abs=1e-6
    )
