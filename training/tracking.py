"""A finished run -> MLflow, where that is asked for and installed. Owns what is logged.

MLflow is no dependency: `require` says what to install before anything is trained.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from server.errors import Refused
from training.settings import TrainSettings

if TYPE_CHECKING:
    from training.pipeline import Released

EXPERIMENT = "equipoise"


def require() -> Any:
    """The module.

    Raises:
        Refused: it is not installed.
    """
    try:
        return importlib.import_module("mlflow")
    except ImportError as error:
        raise Refused(
            f"--mlflow: MLflow cannot be imported ({error}): pip install mlflow, or leave --mlflow out"
        ) from error


def log_run(mlflow: Any, released: Released, settings: TrainSettings) -> None:
    """One run: settings as parameters, a step for each epoch, what was measured at the end.

    Raises:
        Refused: the tracking store does not take it; the bundle is written already.
    """
    try:
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=released.manifest.bundle_id):
            mlflow.log_params(_flat(asdict(settings)))
            mlflow.set_tags(
                {
                    "bundle_id": released.manifest.bundle_id,
                    "data_digest": released.manifest.data.digest,
                    "model_digest": released.manifest.model.digest,
                }
            )
            for stage, curve in released.curves.items():
                for name in ("validation_ndcg_at_20", "training_loss"):
                    for epoch, value in zip(curve["epochs"], curve[name], strict=True):
                        if value is not None:
                            mlflow.log_metric(f"{_key(stage)}/{name}", value, step=epoch)
            mlflow.log_metrics(
                {
                    "validation_ndcg_at_20": released.validation_ndcg_at_20,
                    "validation_users": float(released.validation_users),
                    "best_epoch": float(released.best_epoch),
                    "parity_max_difference": released.parity,
                    "peak_rss_bytes": float(released.peak_rss_bytes),
                    **{f"seconds/{_key(part)}": s for part, s in released.seconds.items()},
                }
            )
    except Exception as error:
        raise Refused(
            f"--mlflow: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; "
            f"the bundle {released.manifest.bundle_id} is written"
        ) from error


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def _key(text: str) -> str:
    # Of other signs MLflow allows few in a metric's name.
    return "".join(char if char.isalnum() or char in " -_." else "_" for char in text)
