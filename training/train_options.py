"""The options of `train` that say how it runs: settings, checkpoints, fairness, device, tracking.

Owns their help, and what they lead to. Where purchases come from is in `training.options`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from training.options import EXISTING_FILE

if TYPE_CHECKING:
    from training.device import Choice
    from training.fair_training import FairSettings, Method
    from training.settings import HistoryFamily, TrainSettings


FAMILIES = ("auto", "pairs", "sasrec", "two-tower", "two-tower-difference", "recanet")
"""Of `--family`."""


@dataclass(frozen=True)
class RunOptions:
    """What was asked for; the names are those of the options."""

    settings: Path | None
    resume: bool
    keep_checkpoints: bool
    fair_by: str | None
    fair_method: str
    fair_most_lost: float
    device: Choice
    mlflow: bool

    def fair(self) -> FairSettings | None:
        """Groups whose lists count for more."""
        from training.fair_training import FairSettings

        if self.fair_by is None:
            return None
        return FairSettings(
            self.fair_by, cast("Method", self.fair_method), self.fair_most_lost / 100
        )


def base_settings(
    file: Path | None, quick: bool, seed: int | None, family: str | None
) -> TrainSettings:
    """The settings: the file's over those of --quick or the defaults; --seed over both.

    Raises:
        SettingsRefused: the file cannot be read, or holds what is no setting.
    """
    from training.settings import SequenceSettings, TrainSettings
    from training.settings_file import settings_from

    base = TrainSettings.quick() if quick else TrainSettings()
    if family is None:
        family = "pairs" if quick else "auto"
    if family != "pairs":
        sequence = SequenceSettings(epochs=2) if quick else SequenceSettings()
        if family != "auto":
            sequence = sequence.of(cast("HistoryFamily", family))
        base = replace(base, sequence=sequence)
    if file is not None:
        base = settings_from(file, base)
    return base if seed is None else replace(base, seed=seed)


_OPTIONS = (
    click.option(
        "--settings",
        type=EXISTING_FILE,
        help="A .toml or .json file of settings to change, such as learning_rate = 0.001; 'equipoise "
        "sweep' writes one. An unknown name is refused with those that are allowed.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on after a kill: from the last whole epoch in OUT.training, to the same model. The data "
        "and settings must be those of before.",
    ),
    click.option(
        "--keep-checkpoints", is_flag=True, help="Leave OUT.training there when training has ended."
    ),
    click.option(
        "--fair-by",
        help="A user attribute, such as income: lists of its groups count for more in the loss, as much "
        "as validation allows. It is never a feature.",
    ),
    click.option(
        "--fair-method",
        type=click.Choice(["reweight", "group-dro"]),
        default="reweight",
        show_default=True,
        help="By inverse group frequency, or by the worst-off group's loss (GroupDRO).",
    ),
    click.option(
        "--fair-most-lost",
        type=click.FloatRange(0, 100),
        default=1.0,
        show_default=True,
        help="Percent of overall validation NDCG@20 that may be given up for the worst group's.",
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="What trains; auto: a GPU if there is one. The export is computed on the CPU.",
    ),
    click.option(
        "--mlflow",
        is_flag=True,
        help="Also log settings, learning curves and figures to MLflow, which must be installed; it "
        "reads MLFLOW_TRACKING_URI.",
    ),
)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options; the command is given them as one argument, `run`."""

    @wraps(command)
    def packed(**named: Any) -> None:
        run = RunOptions(**{one.name: named.pop(one.name) for one in fields(RunOptions)})
        command(run=run, **named)

    for option in reversed(_OPTIONS):
        packed = option(packed)
    return packed
