"""Prepared data -> a release bundle: tune, refit, export, gate, write. Reads top to bottom.

Tuning trains on cuts before the validation window and picks the epoch there.
The refit repeats that number of epochs one window later, so that what ships has
seen the validation weeks too; the test window is never touched, so that
`evaluate` can measure what ships. A final refit learns from it as well: for the
release that follows a passed evaluation, which nothing is left to measure on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from rich.console import Console

from server import __version__
from server.bundle import Manifest, check_target, write_bundle
from server.errors import Refused
from server.features.types import DAY_MS
from training.checkpoints import CPU, WorkFolder, aside, work_path
from training.choose_policies import choose_policies
from training.data.prepare import Prepared
from training.device import deterministic
from training.export import ParityFailed, check_parity, export_onnx, scorer_of
from training.fair_training import FairChoice, FairSettings, check_attribute
from training.families import family_of
from training.fit_features import with_levels
from training.fitting import Fitter
from training.lists_at_cuts import ListsAtCuts
from training.release import assemble, group_tables
from training.retrieval.search import searches, two_stage
from training.run_log import RunLog
from training.sequence_model import SequenceRanker
from training.settings import TrainSettings
from training.spent import peak_rss_bytes
from training.towers import TowerRanker


@dataclass(frozen=True)
class Released:
    """A written bundle, and what was measured on the way.

    curves: the learning curve of each stage. seconds: by part of the run.
    """

    manifest: Manifest
    validation_ndcg_at_20: float
    validation_users: int
    best_epoch: int
    parity: float
    curves: dict[str, dict[str, list[Any]]]
    fair: FairChoice | None
    seconds: dict[str, float]
    peak_rss_bytes: int


class Pipeline:
    """One training run, with a progress bar on whatever takes long.

    fair: groups whose lists count for more. device: what trains; see `training.device`.
    """

    def __init__(
        self,
        prepared: Prepared,
        settings: TrainSettings,
        console: Console,
        *,
        fair: FairSettings | None = None,
        device: torch.device = CPU,
    ) -> None:
        self._data = with_levels(prepared.dataset)
        self._split = prepared.split
        self._settings = settings
        self._fair = fair
        self._log = RunLog(console, settings.seed, device)
        self.lists = ListsAtCuts(self._data, self._split, settings, self._log)

    def run(
        self,
        *,
        name: str,
        policies: Path | None,
        default_policy: str | None,
        out: Path,
        final: bool = False,
        refit: bool = True,
        resume: bool = False,
        keep_checkpoints: bool = False,
    ) -> Released:
        """Train and write the bundle.

        policies, default_policy: see `training.choose_policies`; checked before anything is
        trained. final: learn from the test window too. refit: False ships what tuning found, which has
        seen nothing of the validation window: to compare with published figures. resume: go on from the checkpoints of a run
        that was killed; item statistics and lists are computed again.

        Raises:
            Refused: too little data, a leak, a loss that is no number, a failed parity gate, a policy
                that makes no sense, another run's checkpoints, or a folder that cannot be written. No
                bundle is written then.
        """
        check_target(out)
        if self._fair is not None:
            check_attribute(self._data, self._fair.attribute)
            sequence = self._settings.sequence
            if sequence is not None and sequence.alone:
                raise Refused(
                    f"--fair-by weighs the lists of the pair features' ranker; {sequence.family!r} by "
                    "itself has none: take --family auto or pairs"
                )
        with WorkFolder.open(
            work_path(out),
            self._key(final),
            resume=resume,
            keep=keep_checkpoints,
            tell=self._log.tell,
        ) as work:
            self._log.work = work
            try:
                return self._run(name, policies, default_policy, out, final, refit)
            except ParityFailed:
                work.discard()  # to go on would lead here again
                raise

    def _run(
        self,
        name: str,
        policies: Path | None,
        default_policy: str | None,
        out: Path,
        final: bool,
        refit: bool,
    ) -> Released:
        split, settings = self._split, self._settings
        until_ms = split.test_until_ms if final else split.validation_until_ms
        if not refit:
            until_ms = split.train_until_ms
        history = self._data.until(until_ms)
        groups = group_tables(history)
        chosen = choose_policies(policies, default_policy, groups)
        for left_out, why in chosen.left_out.items():
            self._log.tell(f"policy {left_out} is left out: {why}")
        for never, why in chosen.never_met.items():
            self._log.tell(f"policy {never}: {why}")
        deterministic(warn_only=self._log.device.type != "cpu")
        fitter = Fitter(self._data, settings, self.lists, self._log, self._fair)
        fitted = fitter.fitted(until_ms, final=final, refit=refit)
        state = self.lists.state("bundle", history, until_ms)
        family = family_of(fitted.whole)
        horizon_days = max(1, round(split.horizon_ms / DAY_MS))
        self._log.tell("exporting to ONNX, and comparing onnxruntime with torch")
        with self._log.spent("export"):
            # No digest of the data: it tells of users' attributes, of which a model must not depend.
            about = {"horizon_days": str(horizon_days), "data_until_unix_ms": str(until_ms)}
            model = export_onnx(fitted.whole, about)
            parity = check_parity(fitted.whole, scorer_of(model, family), fitted.validation)
        retrieval = None
        if searches(family, history.n_items):
            assert isinstance(fitted.whole, SequenceRanker | TowerRanker)
            with self._log.spent("retrieval"):
                retrieval = two_stage(
                    fitted.whole, fitted.validation.recent, settings.n_novel, settings.seed
                )
            self._log.tell(retrieval.line)
        with self._log.spent("bundle"):
            parts = assemble(
                name=name,
                data=history,
                until_ms=until_ms,
                state=state,
                model=model,
                family=family,
                groups=groups,
                policies=chosen,
                settings=settings,
                horizon_days=horizon_days,
                retrieval=None if retrieval is None else (retrieval.told, retrieval.graph),
                quality={
                    "protocol": split.protocol,
                    "settings": settings.name,
                    "learned_from_test_window": final,
                    "refit": refit,
                    "validation_ndcg_at_20": round(fitted.ndcg, 5),
                    "validation_users": len(fitted.validation),
                    "parity_max_difference": parity,
                    "track": fitted.track,
                    "learning_curves": self._log.curves,
                }
                | ({"retrieval": retrieval.as_json()} if retrieval is not None else {})
                | ({"no_history": fitted.unknown.as_json()} if fitted.unknown is not None else {})
                | ({"fair_training": fitted.fair.as_json()} if fitted.fair is not None else {}),
            )
            weights = safetensors.torch.save(fitted.whole.state_dict())
            ranker_path = out.with_name(f"{out.name}.ranker.safetensors")
            # Its room is taken first: a bundle never stands beside another one's weights.
            with aside(ranker_path, weights, "the model's weights", folder=work_path(out)) as place:
                manifest = write_bundle(parts, out)
                place()
        return Released(
            manifest, fitted.ndcg, len(fitted.validation), fitted.best_epoch, parity,
            self._log.curves, fitted.fair, self._log.spent.seconds, peak_rss_bytes(),
        )  # fmt: skip

    def _key(self, final: bool) -> dict[str, Any]:
        """All that the stages of training depend on. A refit is a stage of its own, which one may leave out:
        what was tuned is the same with it and without."""
        return {
            "made_with": {
                "equipoise": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "device": self._log.device.type,
                "threads": torch.get_num_threads(),
            },
            **self.data_key(),
            "final": final,
            "settings": asdict(self._settings),
            "fair": None if self._fair is None else asdict(self._fair),
        }

    def data_key(self) -> dict[str, Any]:
        """The data and its cuts."""
        split = self._split
        return {
            "data": self._data.digest(),
            "cuts_ms": [split.train_until_ms, split.validation_until_ms, split.test_until_ms],
        }
