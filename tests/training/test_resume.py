"""kill -9 at several moments of a real training process, and --resume: the same model, bit by bit."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import safetensors.torch
from click.testing import CliRunner, Result

from server.bundle import load_bundle
from server.errors import Refused
from strategies.purchases import raw, shop_rows
from training import fitting, pipeline
from training.commands import train

pytestmark = pytest.mark.slow

# One moment of one run: MOMENT is "in" (between two steps of the epoch), "aside" (its checkpoint is
# written beside the old one, and not yet in its place) or "saved" (just after).
KILLED = """
import os, signal, sys
from training import checkpoints, loop
from training.commands import train

stage_name, epoch, moment, *arguments = sys.argv[1:]
def die(*ignored):
    os.kill(os.getpid(), signal.SIGKILL)

honest_epoch, honest_save = loop._epoch, checkpoints.Stage.save
def dying_epoch(learner, batches, loss, stage, number):
    def some(rng):
        for place, batch in enumerate(batches(rng)):
            if (stage.name, str(number), moment, place) == (stage_name, epoch, "in", 2):
                die()
            yield batch
    return honest_epoch(learner, some, loss, stage, number)
def dying_save(stage, saved):
    here = (stage.name, str(len(saved.facts["losses"]))) == (stage_name, epoch)
    if here and moment == "aside":
        os.fsync = die
    honest_save(stage, saved)
    if here and moment == "saved":
        die()
loop._epoch, checkpoints.Stage.save = dying_epoch, dying_save
train(arguments)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    raw(shop_rows()).write_parquet(folder / "purchases.parquet")
    pl.DataFrame(
        {"user": [f"user-{n:02}" for n in range(30)], "age": ["young", "old", "older"] * 10}
    ).write_csv(folder / "users.csv")
    # Small steps, so that an epoch has several; two cuts, so that tuning and refit differ.
    (folder / "small.toml").write_text("lists_per_step = 8\ncuts = 2\nlearning_rate = 0.005\n")
    return folder


def arguments(shop: Path, out: Path, *more: str) -> list[str]:
    return [
        "--interactions", str(shop / "purchases.parquet"), "--settings", str(shop / "small.toml"),
        "--out", str(out), "--quick", "--json", *more,
    ]  # fmt: skip


def killed(stage: str, epoch: int, moment: str, given: list[str]) -> None:
    command = [sys.executable, "-c", KILLED, stage, str(epoch), moment, *given]
    ended = subprocess.run(
        command, check=False, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert ended.returncode == -signal.SIGKILL


def finished(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, (result.output, result.exception)
    facts: dict[str, object] = json.loads(result.stdout)
    return facts


def bits(out: Path) -> dict[str, bytes]:
    weights = safetensors.torch.load_file(out.with_name(f"{out.name}.ranker.safetensors"))
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def whole(shop: Path) -> tuple[Path, dict[str, object]]:
    """A run that nothing befell, and what it printed."""
    out = shop / "out" / "whole"
    facts = finished(CliRunner().invoke(train, arguments(shop, out)))
    left = sorted(path.name for path in out.parent.iterdir())
    assert left == ["whole", "whole.ranker.safetensors"]
    return out, facts


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_model(
    shop: Path, whole: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    given = arguments(shop, out)
    killed("tuning", 2, "in", given)
    work = tmp_path / "bundle.training"
    assert not out.exists()
    assert (work / "01-tuning.safetensors").exists()
    killed("tuning", 3, "aside", [*given, "--resume"])
    run = json.loads((work / "run.json").read_text())
    assert run["stages"] == {}, "three epochs are wanted, two are whole"
    killed("refit", 1, "in", [*given, "--resume"])
    assert set(json.loads((work / "run.json").read_text())["stages"]) == {"01-tuning.safetensors"}
    killed("refit", 1, "saved", [*given, "--resume"])
    result = CliRunner().invoke(train, [*given, "--resume"])
    again = finished(result)
    assert "tuning: goes on after epoch 3" in result.stderr
    assert "refit: goes on after epoch 1" in result.stderr
    assert bits(out) == bits(whole[0])
    assert again["model_digest"] == whole[1]["model_digest"]
    assert again["validation_ndcg_at_20"] == whole[1]["validation_ndcg_at_20"]
    curves = [load_bundle(path).manifest.quality["learning_curves"] for path in (out, whole[0])]
    assert curves[0] == curves[1]
    assert not work.exists()


def test_resume_of_another_run_is_refused_and_names_what_differs(
    shop: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    killed("tuning", 1, "saved", arguments(shop, out))
    other = CliRunner().invoke(train, arguments(shop, out, "--resume", "--seed", "5", "--final"))
    assert isinstance(other.exception, Refused)
    assert "final: False then, True now; settings.seed: 0 then, 5 now" in str(other.exception)
    rows = raw(shop_rows())
    rows.head(len(rows) - 1).write_parquet(tmp_path / "less.parquet")
    given = arguments(shop, out, "--resume", "--interactions", str(tmp_path / "less.parquet"))
    less = CliRunner().invoke(train, given)
    assert isinstance(less.exception, Refused)
    assert "data: '" in str(less.exception)
    assert (tmp_path / "bundle.training" / "01-tuning.safetensors").exists()


def test_a_full_disk_at_the_export_leaves_the_old_bundle_and_the_checkpoints(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    finished(CliRunner().invoke(train, arguments(shop, out)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    write_bundle = pipeline.write_bundle

    def full(*given: Any) -> Any:
        def no_room(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", no_room)
            return write_bundle(*given)

    monkeypatch.setattr(pipeline, "write_bundle", full)
    given = arguments(shop, out, "--seed", "3")
    result = CliRunner().invoke(train, given)
    assert isinstance(result.exception, Refused)
    assert "No space left on device; nothing was changed" in str(result.exception)
    work = tmp_path / "bundle.training"
    left = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path: left[path] for path in left if path.parent != work} == before
    monkeypatch.undo()
    monkeypatch.setattr(fitting, "train_ranker", _same_but_no_steps)
    again = CliRunner().invoke(train, [*given, "--resume"])
    finished(again)
    weights = out.with_name("bundle.ranker.safetensors")
    assert weights.read_bytes() != before[weights]
    assert not work.exists()


def test_a_folder_that_is_no_bundle_is_refused_before_an_hour_is_spent(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "train_ranker", None)
    (tmp_path / "thesis.txt").write_text("years")
    result = CliRunner().invoke(train, arguments(shop, tmp_path))
    assert isinstance(result.exception, Refused)
    assert "is not a bundle (holds 'thesis.txt') and is left alone" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def _same_but_no_steps(lists, validation, settings, epochs, on_epoch, stage, *more):
    """All that the resumed run still does to train is to read what was saved."""
    saved = stage.load()
    assert saved is not None
    assert saved.done
    return honest(lists, validation, settings, epochs, on_epoch, stage, *more)


honest = fitting.train_ranker


def test_the_printed_costs_are_those_of_every_part(whole: tuple[Path, dict[str, object]]) -> None:
    seconds, peak = whole[1]["seconds"], whole[1]["peak_rss_bytes"]
    assert isinstance(seconds, dict)
    assert set(seconds) == {"item statistics", "lists", "tuning", "refit", "export", "bundle"}
    assert all(taken > 0 for taken in seconds.values())
    assert isinstance(peak, int)
    assert peak > 50 << 20  # torch alone takes more


def test_the_curves_of_all_stages_are_in_the_manifest(
    whole: tuple[Path, dict[str, object]],
) -> None:
    quality: dict[str, Any] = load_bundle(whole[0]).manifest.quality
    curves = quality["learning_curves"]
    assert set(curves) == {"tuning", "refit"}
    assert curves["tuning"]["epochs"] == [1, 2, 3]
    assert max(curves["tuning"]["validation_ndcg_at_20"]) == quality["validation_ndcg_at_20"]
    losses = curves["tuning"]["training_loss"]
    assert losses[-1] < losses[0]
    assert curves["refit"]["validation_ndcg_at_20"] == [None] * len(curves["refit"]["epochs"])
