"""Options of `train`: settings files, the device, MLflow, and what is printed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from server.bundle import load_bundle
from server.errors import Refused, SettingsRefused
from strategies.purchases import raw, shop_rows
from training.commands import train
from training.device import device_of
from training.settings import SequenceSettings, TrainSettings
from training.settings_file import settings_from, settings_text
from training.spent import Spent, cost_lines
from training.train_options import base_settings


@pytest.fixture(autouse=True)
def not_deterministic() -> Any:
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def written(folder: Path, text: str, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    path = written(tmp_path, "hidden = [128, 64]\nlearning_rate = 0.001\n")
    found = base_settings(path, False, None, "pairs")
    assert found == TrainSettings(name="my", hidden=(128, 64), learning_rate=0.001)
    quick = base_settings(path, True, 7, "pairs")
    assert (quick.n_novel, quick.hidden, quick.seed) == (40, (128, 64), 7)
    path = written(tmp_path, 'name = "ours"\nseed = 3\n[sequence]\nwidth = 32\n')
    told = base_settings(path, False, None, "pairs")
    assert (told.name, told.seed, told.sequence) == ("ours", 3, SequenceSettings(width=32))
    json_path = written(tmp_path, '{"epochs": 2}', "my.json")
    assert base_settings(json_path, False, None, "pairs").epochs == 2


@pytest.mark.parametrize("sequence", [None, SequenceSettings(width=32)])
@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_what_is_written_is_read_back(
    tmp_path: Path, suffix: str, sequence: SequenceSettings | None
) -> None:
    settings = TrainSettings(name="x", hidden=(8, 4), weight_decay=1e-7, sequence=sequence)
    path = written(tmp_path, settings_text(settings, suffix), f"s{suffix}")
    assert settings_from(path, TrainSettings.quick()) == settings


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hiden = [1, 2]", "unknown setting hiden; did you mean 'hidden'? allowed: cuts, epochs"),
        ("[sequence]\nwidht = 3", "unknown setting sequence.widht; did you mean 'width'?"),
        ("learning_rate = -1", "learning_rate: got -1: input should be greater than 0"),
        (
            "learning_rate = 1e38",
            "learning_rate: got 1e+38: input should be less than or equal to 1",
        ),
        ("epochs = 1.5", "epochs: got 1.5: input should be a valid integer"),
        ("epochs = '3'", "epochs: got '3'"),
        ("hidden = [64]", "hidden.1: got [64]: field required"),
        ("loss = 'hinge'", "loss: got 'hinge': input should be 'softmax' or 'bce'"),
        ("[sequence]\nwidth = 33", "sequence.width: got 33, allowed: a multiple of heads, 2"),
        ("sequence = 3", "sequence: got 3"),
        ("epochs = ", "my.toml is no TOML"),
    ],
)
def test_what_is_no_setting_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SettingsRefused) as caught:
        settings_from(written(tmp_path, text), TrainSettings())
    assert why in str(caught.value)
    assert "my.toml" in str(caught.value)


def test_the_device_is_the_cpu_where_no_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    with pytest.raises(Refused, match="--device cuda: torch finds no GPU here"):
        device_of("cuda")


def test_a_gpu_is_taken_where_one_is_unless_the_cpu_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert device_of("auto") == device_of("cuda") == torch.device("cuda")
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert device_of("cpu") == torch.device("cpu")


def test_times_of_parts_do_not_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 4.0, 10.0, 20.0, 21.5])
    monkeypatch.setattr("training.spent.time.perf_counter", lambda: next(clock))
    spent = Spent()
    with spent("tuning"), spent("lists"):
        pass
    with spent("lists"):
        pass
    assert spent.seconds == {"lists": 4.5, "tuning": 7.0}
    assert cost_lines(spent.seconds, 5 << 29) == [
        "11.5 s: lists 4.5 s, tuning 7.0 s",
        "2.5 GiB at most",
    ]


class FakeMlflow(SimpleNamespace):
    """What is logged, as it comes; `start_run` is a context as MLflow's is."""

    def __init__(self) -> None:
        super().__init__(logged=[])

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.logged.append((name, arguments, named))
            return self

        return call

    def __enter__(self) -> None:
        self.logged.append(("entered", (), {}))

    def __exit__(self, *error: object) -> None:
        self.logged.append(("left", (), {}))


@pytest.mark.slow
def test_a_run_is_logged_to_mlflow_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw(shop_rows()).write_parquet(tmp_path / "purchases.parquet")
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    arguments = ["--interactions", str(tmp_path / "purchases.parquet"), "--quick"]
    result = CliRunner().invoke(train, [*arguments, "--mlflow", "--out", str(tmp_path / "b")])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "took     " in result.stdout
    assert " GiB at most" in result.stdout
    manifest = load_bundle(tmp_path / "b").manifest
    calls = {name: (given, named) for name, given, named in fake.logged}
    assert calls["start_run"][1] == {"run_name": manifest.bundle_id}
    assert calls["log_params"][0][0]["n_novel"] == 40
    final = calls["log_metrics"][0][0]
    assert round(final["validation_ndcg_at_20"], 5) == manifest.quality["validation_ndcg_at_20"]
    curve = [
        (given[1], named["step"])
        for name, given, named in fake.logged
        if name == "log_metric" and given[0] == "tuning/validation_ndcg_at_20"
    ]
    told: Any = manifest.quality["learning_curves"]
    assert curve == list(zip(told["tuning"]["validation_ndcg_at_20"], [1, 2, 3], strict=True))


def test_without_mlflow_the_flag_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    (tmp_path / "p.csv").write_text("no table")
    arguments = [
        "--interactions",
        str(tmp_path / "p.csv"),
        "--mlflow",
        "--out",
        str(tmp_path / "b"),
    ]
    result = CliRunner().invoke(train, arguments)
    assert isinstance(result.exception, Refused)
    assert "pip install mlflow" in str(result.exception)
