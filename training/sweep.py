"""A sweep of train settings by Optuna, on validation only: which settings give the ranker that ranks best.

Owns what is swept, and how a sweep that was stopped goes on. Lists are made once: what changes them
(candidates, item statistics, cuts) is not swept, and comes from the settings that the sweep starts with,
which are also its first trial. Each trial has a sampler seeded by its number, so a sweep that was killed
makes the same trials as one that was not.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from server.errors import Refused
from training.checkpoints import differences
from training.rows import Lists
from training.settings import TrainSettings
from training.train import train_ranker

STUDY = "equipoise"
KEY = "key"
NAME = "swept"
WARM_UP_EPOCHS = 3
"""No trial is given up before."""
FIRST_LAYER, SECOND_LAYER = (32, 64, 128, 256), (16, 32, 64, 128)
STEPS = (16, 32, 64, 128)
LEARNING_RATES, WEIGHT_DECAYS = (5e-4, 1e-2), (1e-6, 1e-2)

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Swept:
    """The best settings, their validation NDCG@20, that of the settings at the start, and the trials."""

    best: TrainSettings
    ndcg: float
    ndcg_at_start: float
    trials: int
    given_up: int


def sweep(
    tuning: list[Lists],
    validation: Lists,
    base: TrainSettings,
    trials: int,
    study_file: Path,
    data_key: dict[str, Any],
    tell: Tell,
) -> Swept:
    """Try up to `trials` settings, those that `study_file` knows already among them.

    data_key: what the lists were made from, as JSON; a study of other data is refused.

    Raises:
        Refused: the study is of other data or settings, or cannot be read or written.
    """
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        study = _study(study_file, base, data_key)
        _take_up(study, base)
        while (number := len(_ended(study))) < trials:
            seed = (base.seed * 1_000_003 + number) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed)
            study.optimize(lambda trial: _ndcg(trial, tuning, validation, base), n_trials=1)
            tell(_told(study.trials[-1], number + 1, trials))
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as error:
        raise Refused(
            f"the study {study_file} cannot be read or written: {str(error).splitlines()[0]}"
        ) from error
    ended = _ended(study)
    first = next(trial for trial in ended if trial.state == TrialState.COMPLETE)
    best = study.best_trial
    assert best.value is not None
    assert first.value is not None
    return Swept(
        replace(_settings(optuna.trial.FixedTrial(best.params), base), name=_name(base)),
        best.value,
        first.value,
        len(ended),
        sum(trial.state == TrialState.PRUNED for trial in ended),
    )


def _name(base: TrainSettings) -> str:
    return NAME if base.name == TrainSettings().name else f"{base.name}, {NAME}"


def _study(path: Path, base: TrainSettings, data_key: dict[str, Any]) -> optuna.Study:
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=STUDY,
        storage=f"sqlite:///{path.resolve()}",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=WARM_UP_EPOCHS),
        load_if_exists=True,
    )
    key = {"settings": asdict(base), **data_key, "torch": torch.__version__}
    known = study.user_attrs.get(KEY)
    if known is None:
        study.set_user_attr(KEY, json.loads(json.dumps(key)))
    elif differing := differences(known, json.loads(json.dumps(key))):
        raise Refused(
            f"the study {path} was started otherwise: {'; '.join(differing[:8])}. Start it as it was "
            "started, or name another --study"
        )
    return study


def _take_up(study: optuna.Study, base: TrainSettings) -> None:
    """A trial that was running when its sweep was killed is made anew: from the same seed and the same
    trials before it the same one is drawn, but for the first, which is not drawn."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    if not _ended(study) and not study.get_trials(states=(TrialState.WAITING,)):
        study.enqueue_trial(_parameters(base))


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _parameters(base: TrainSettings) -> dict[str, Any]:
    """The settings that are swept, as a trial names them."""
    return {
        "learning_rate": base.learning_rate,
        "weight_decay": max(base.weight_decay, WEIGHT_DECAYS[0]),
        "hidden_first": base.hidden[0],
        "hidden_second": base.hidden[1],
        "lists_per_step": base.lists_per_step,
    }


def _settings(trial: Trial | optuna.trial.FixedTrial, base: TrainSettings) -> TrainSettings:
    """Those of the trial. Where the sweep starts is always within what is swept."""
    start = _parameters(base)

    def between(name: str, bounds: tuple[float, float]) -> float:
        low, high = min(bounds[0], start[name]), max(bounds[1], start[name])
        return trial.suggest_float(name, low, high, log=True)

    def one_of(name: str, values: tuple[int, ...]) -> int:
        return int(trial.suggest_categorical(name, sorted({*values, start[name]})))

    return replace(
        base,
        learning_rate=between("learning_rate", LEARNING_RATES),
        weight_decay=between("weight_decay", WEIGHT_DECAYS),
        hidden=(one_of("hidden_first", FIRST_LAYER), one_of("hidden_second", SECOND_LAYER)),
        lists_per_step=one_of("lists_per_step", STEPS),
    )


def _ndcg(trial: Trial, tuning: list[Lists], validation: Lists, base: TrainSettings) -> float:
    """The best epoch's; a trial that is below the others' median is given up."""
    settings = _settings(trial, base)

    def on_epoch(epoch: int, ndcg: float) -> None:
        trial.report(ndcg, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the pipeline
    try:
        trained = train_ranker(tuning, validation, settings, settings.epochs, on_epoch)
    finally:
        torch.set_num_threads(threads)
    return trained.course.best_ndcg


def _told(trial: FrozenTrial, number: int, trials: int) -> str:
    best = max(trial.intermediate_values.values(), default=math.nan)
    given_up = " (given up)" if trial.state == TrialState.PRUNED else ""
    values = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.params.items()
    )
    return f"trial {number} of {trials}: validation NDCG@20 {best:.4f}{given_up}: {values}"
