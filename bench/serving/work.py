"""The work that every server is given: 50 items of history and 200 candidates to a fair list of 20.

`write_work` takes it out of a bundle: the model, each item's group, the policy. `ListMaker` does it,
inside of the peers and as the reference that answers are compared with; it needs numpy, onnxruntime,
numba and pydantic, and of the checkout the fair stage alone. Equipoise does the same with the same
model and kernels, and besides what it does for any caller (texts to items, receipts, counts).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime

from bench.serving.calls import COUNT, Calls, Int32, Shape, draw_arrays
from server.fairness import TableGroups, compile_tables, parse_policy, rerank

LANES = 16
"""Widths that are whole vectors give the same scores in every batch; the server keeps to them too."""


def write_work(bundle: Path, folder: Path) -> None:
    """The model, groups and default policy of a bundle, without what reading a bundle needs."""
    from server.bundle import load_bundle

    held = load_bundle(bundle)
    name = held.manifest.default_policy
    policy = held.policies[name].policy
    [table] = policy.tables
    groups = held.groups[table]
    folder.mkdir(parents=True)
    shutil.copyfile(bundle / held.manifest.model.file, folder / "model.onnx")
    np.save(folder / "groups.npy", groups.codes.astype(np.int32))
    (folder / "policy.toml").write_text(policy.document, encoding="utf-8")
    told = {
        "table": table,
        "labels": groups.labels,
        "sizes": groups.sizes.items.tolist(),
        "items": len(held.items.ids),
    }
    (folder / "ids.json").write_text(json.dumps(held.items.ids), encoding="utf-8")
    (folder / "work.json").write_text(json.dumps(told), encoding="utf-8")


class ListMaker:
    """Makes the lists, one thread, no spinning."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "work.json").read_text(encoding="utf-8"))
        self.items: int = told["items"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._groups: Int32 = np.load(folder / "groups.npy")
        policy = parse_policy((folder / "policy.toml").read_text(encoding="utf-8"), "policy.toml")
        groups = TableGroups(tuple(told["labels"]), np.array(told["sizes"], np.int64))
        self._policy = compile_tables(policy, {told["table"]: groups})

    def scores(
        self, history: Int32, candidates: Int32
    ) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """`[B, n] float32` of histories `[B, h]` and candidates `[B, n]`."""
        rows, n = candidates.shape
        # Item i is i + 1 to the model, 0 is nothing.
        padded = np.zeros((rows, -(-n // LANES) * LANES), np.int32)
        np.add(candidates, 1, out=padded[:, :n])
        found = self._session.run(
            ["scores"], {"history": history + np.int32(1), "candidates": padded}
        )
        return found[0][:, :n]  # type: ignore[no-any-return]

    def make(self, history: Int32, candidates: Int32) -> Int32:
        """Fair lists `[B, COUNT]` of a batch."""
        lists = np.empty((len(candidates), COUNT), np.int32)
        for row, (own, items) in enumerate(
            zip(self.scores(history, candidates), candidates, strict=True)
        ):
            fair = rerank(own, self._groups[items], COUNT, self._policy, items.astype(np.int64))
            lists[row] = items[fair.order]
        return lists

    def draw(self, shape: Shape, requests: int, seed: int) -> Calls:
        """Requests and what they must be answered with, each list made alone."""
        history, candidates = draw_arrays(self.items, shape, requests, seed)
        expected = [self.make(history[i : i + 1], candidates[i : i + 1]) for i in range(requests)]
        return Calls(history, candidates, np.concatenate(expected))
