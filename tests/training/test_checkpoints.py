"""Checkpoints: a stage that was stopped ends as one that was not; what cannot be gone on from is refused."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from server.errors import Refused
from strategies.learning import lists_of
from training import checkpoints, loop
from training import train as ranker
from training.checkpoints import Stage, WorkFolder, aside
from training.data.dataset import Dataset
from training.data.split import Targets
from training.fair_training import GroupDro
from training.loop import TrainingStopped
from training.sequence_train import train_sequences
from training.settings import SequenceSettings, TrainSettings
from training.train import Trained, train_ranker

SETTINGS = TrainSettings(epochs=5, lists_per_step=8, hidden=(8, 4), learning_rate=1e-2)


class Stopped(Exception):
    """As a kill, but one that a test outlives."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(model: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


@contextlib.contextmanager
def stopped_in(epoch: int, step: int) -> Iterator[None]:
    """Stopped in the middle of an epoch, after so many of its steps."""
    honest = loop._epoch

    def stopping(learner, batches, loss, stage, number):
        def some(rng):
            for place, batch in enumerate(batches(rng)):
                if number == epoch and place == step:
                    raise Stopped
                yield batch

        return honest(learner, some, loss, stage, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_epoch", stopping)
        with pytest.raises(Stopped):
            yield


def trained(stage: Stage | None, fair: bool = False) -> tuple[Trained, list[int]]:
    told: list[int] = []
    lists = lists_of(0)
    weighting = GroupDro(np.arange(len(lists), dtype=np.int32) % 3 - 1, 2, 0.1) if fair else None
    found = train_ranker(
        [lists], lists_of(2), SETTINGS, 5, lambda epoch, _: told.append(epoch), stage, weighting
    )
    return found, told


@pytest.mark.parametrize("fair", [False, True], ids=["plain", "group-dro"])
@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_a_ranker_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, epoch: int, fair: bool
) -> None:
    whole, _ = trained(None, fair)
    stage = Stage("tuning", 0, path=tmp_path / "tuning.safetensors")
    with stopped_in(epoch, 3):
        trained(stage, fair)
    assert stage.path is not None
    assert stage.path.exists() is (epoch > 1)
    went_on: list[int] = []
    stage = replace(stage, on_restored=went_on.append)
    again, told = trained(stage, fair)
    assert went_on == ([epoch - 1] if epoch > 1 else [])
    assert told == list(range(1, len(told) + 1))
    assert again.course == whole.course
    assert weights(again.model) == weights(whole.model)
    # And one that had ended is not trained again.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_epoch", None)
        ended, _ = trained(stage, fair)
    assert weights(ended.model) == weights(whole.model)


def rounds() -> tuple[Dataset, Targets]:
    """Everyone goes round 40 items; what comes next is the target."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 9, 60)
    starts = rng.integers(0, 40, 60)
    items = np.concatenate(
        [(start + np.arange(n)) % 40 for start, n in zip(starts, lengths, strict=True)]
    )
    n = len(items)
    ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    data = Dataset(
        tuple(f"u{number:02}" for number in range(60)),
        tuple(f"i{number:02}" for number in range(40)),
        ptr, items.astype(np.int32), np.arange(n), np.arange(n), np.ones(n, np.float32), np.ones(n),
        {"brand": tuple(f"b{number % 5}" for number in range(40))}, {}, "rounds",
    )  # fmt: skip
    places = np.arange(61, dtype=np.int64)
    following = ((starts + lengths) % 40).astype(np.int32)
    return data, Targets(np.arange(60, dtype=np.int32), places, following, places, following)


@pytest.mark.parametrize("drawn", [False, True], ids=["whole softmax", "drawn"])
def test_a_sequence_model_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, drawn: bool
) -> None:
    data, targets = rounds()
    settings = SequenceSettings(
        length=5, width=8, epochs=4, dropout=0.3, windows_per_step=16, learning_rate=1e-2,
        whole_softmax=0 if drawn else 100, drawn=10,
    )  # fmt: skip

    def run(stage: Stage | None):
        return train_sequences(data, settings, 0, 4, targets, lambda *_: None, stage)

    whole = run(None)
    stage = Stage("sequences", 0, path=tmp_path / "s.safetensors")
    with stopped_in(3, 2):
        run(stage)
    torch.manual_seed(99)  # whatever another process starts with
    again = run(stage)
    assert again.course == whole.course
    assert weights(again.model) == weights(whole.model)


def test_a_loss_that_is_no_number_stops_with_stage_epoch_step_and_seed_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = trained(None)
    stage = Stage("tuning", 0, path=tmp_path / "tuning.safetensors")
    honest, calls = ranker.list_losses, 0
    steps = -(-len(lists_of(0)) // SETTINGS.lists_per_step)

    def spoilt(*arguments):
        nonlocal calls
        calls += 1
        losses, used = honest(*arguments)
        # The third step of the second epoch.
        return (losses * torch.nan if calls == steps + 3 else losses), used

    monkeypatch.setattr(ranker, "list_losses", spoilt)
    with pytest.raises(TrainingStopped) as caught:
        trained(stage)
    assert (caught.value.stage, caught.value.epoch, caught.value.step) == ("tuning", 2, 3)
    assert "tuning: the loss is nan at epoch 2, step 3, seed 0" in str(caught.value)
    assert "the checkpoint of epoch 1 is kept" in str(caught.value)
    saved = stage.load()
    assert saved is not None
    assert len(saved.facts["losses"]) == 1
    monkeypatch.undo()
    again, _ = trained(stage)
    assert weights(again.model) == weights(whole.model)


def test_features_that_are_no_numbers_stop_at_the_first_step() -> None:
    lists = lists_of(0)
    lists.features[5, 0] = np.inf
    with pytest.raises(TrainingStopped, match=r"the loss is nan at epoch 1, step 1, seed 0"):
        train_ranker([lists], None, SETTINGS, 1, lambda *_: None)


def test_a_last_gradient_that_spoils_the_weights_is_no_good_epoch() -> None:
    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.nan

    model = torch.nn.Linear(1, 1)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser)
    learner = loop.Learner(model, optimiser, schedule, np.random.default_rng(0))
    with pytest.raises(TrainingStopped, match="the weight weight is no number at epoch 1, seed 7"):
        loop.train_epochs(
            learner, lambda rng: [torch.ones(1, 1)], lambda one: Spoilt.apply(model(one)).sum(),
            epochs=1, patience=1, validate=None, on_epoch=lambda *_: None, stage=Stage("x", 7),
        )  # fmt: skip


def open_work(path: Path, key: dict[str, object], told: list[str], resume: bool = False):
    return WorkFolder.open(path, key, resume=resume, tell=told.append)


def left_unfinished(path: Path, key: dict[str, object]) -> None:
    """As a killed run leaves it."""
    with contextlib.suppress(Stopped), open_work(path, key, []) as work:
        train_ranker([lists_of(0)], None, SETTINGS, 1, lambda *_: None, work.stage("refit", 0))
        raise Stopped


def test_the_folder_says_what_is_done_and_goes_when_the_run_ends(tmp_path: Path) -> None:
    path, told = tmp_path / "b.training", []
    left_unfinished(path, {"data": "d"})
    assert sorted(entry.name for entry in path.iterdir()) == ["01-refit.safetensors", "run.json"]
    run = json.loads((path / "run.json").read_text())
    assert run["key"] == {"data": "d"}
    assert run["stages"] == {"01-refit.safetensors": {"done": True, "epochs": 1, "best_epoch": 1}}
    with open_work(path, {"data": "d"}, told, resume=True):
        pass
    assert told == [f"resumed from {path}: 1 stage done"]
    assert list(tmp_path.iterdir()) == []


def test_resume_with_other_data_or_settings_says_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "b.training"
    left_unfinished(path, {"data": "aa", "settings": {"epochs": 3, "seed": 0}})
    other = {"data": "bb", "settings": {"epochs": 4, "seed": 0}}
    with pytest.raises(Refused) as caught, open_work(path, other, [], resume=True):
        pass
    assert "data: 'aa' then, 'bb' now; settings.epochs: 3 then, 4 now." in str(caught.value)
    assert (path / "01-refit.safetensors").exists()


def test_without_resume_an_unfinished_run_is_discarded_and_that_is_told(tmp_path: Path) -> None:
    path, told = tmp_path / "b.training", []
    left_unfinished(path, {})
    with open_work(path, {}, told) as work:
        assert work.stage("refit", 0).load() is None
    assert "discarded" in told[0]
    with open_work(path, {}, told, resume=True):
        pass
    assert "nothing to resume" in told[1]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "b.training"
    path.mkdir()
    (path / "thesis.txt").write_text("years")
    for resume in (False, True):
        with (
            pytest.raises(Refused, match=r"thesis\.txt"),
            open_work(path, {}, [], resume=resume),
        ):
            pass
    assert (path / "thesis.txt").read_text() == "years"


def test_two_runs_of_one_bundle_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "b.training"
    with (
        open_work(path, {}, []),
        pytest.raises(Refused, match="in use by another"),
        open_work(path, {}, []),
    ):
        pass


def test_nothing_is_left_of_a_run_that_learned_nothing(tmp_path: Path) -> None:
    with pytest.raises(Stopped), open_work(tmp_path / "new" / "b.training", {}, []):
        raise Stopped
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"\x10" + b"\0" * 7 + b"{}", None])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "tuning.safetensors"
    stage = Stage("tuning", 0, path=path)
    with stopped_in(2, 0):
        trained(stage)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(Refused, match=r"tuning\.safetensors cannot be read .*without --resume"):
        trained(stage)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    stage = Stage("tuning", 0, path=tmp_path / "tuning.safetensors")
    trained(stage)
    wider = replace(SETTINGS, hidden=(9, 4))
    with pytest.raises(Refused, match="of another model"):
        train_ranker([lists_of(0)], lists_of(2), wider, 5, lambda *_: None, stage)


def test_a_full_disk_keeps_the_checkpoint_of_before_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage("tuning", 0, path=tmp_path / "tuning.safetensors")
    with stopped_in(3, 0):
        trained(stage)
    before = stage.load()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(Refused, match=r"checkpoint of tuning.* bytes\): No space left.*--resume"):
        trained(stage)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tuning.safetensors"]
    after = stage.load()
    assert before is not None
    assert after is not None
    assert after.facts == before.facts


def test_what_is_placed_aside_appears_when_it_is_placed(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(b"old")
    with pytest.raises(Stopped), aside(path, b"new", "weights"):
        raise Stopped
    assert path.read_bytes() == b"old"
    with aside(path, b"new", "weights") as place:
        assert path.read_bytes() == b"old"
        place()
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"new"]
