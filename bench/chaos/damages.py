"""What may be wrong with a release: ways to damage a bundle's folder.

Some are seen by digests; others are sealed again with a manifest that fits, so that only loading the
model, or asking it, tells.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from server.bundle.manifest import Manifest, bundle_id, manifest_bytes


def manifest_id(bundle: Path) -> str:
    """The id that a bundle's manifest tells; nothing is checked, for the server has to."""
    return str(json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["bundle_id"])


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _overwrite(path: Path) -> None:
    path.write_text("{", encoding="utf-8")


def _link(path: Path) -> None:
    target = path.rename(path.with_name("elsewhere"))
    path.symlink_to(target)


def _reseal(folder: Path, name: str, raw: bytes) -> None:
    """Another file, and a manifest that says so: only its content tells."""
    (folder / name).write_bytes(raw)
    path = folder / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    digest = hashlib.sha256(raw).hexdigest()
    document["files"][name] = {"bytes": len(raw), "sha256": digest}
    if name == "model.onnx":
        document["model"]["digest"] = digest
    document["bundle_id"] = bundle_id(document["name"], document)
    path.write_bytes(manifest_bytes(Manifest.model_validate(document)))


def _other_answers(folder: Path) -> None:
    raw = bytearray((folder / "model.onnx").read_bytes())
    # In the middle of the largest weights, so that it still loads.
    middle = np.frombuffer(raw, np.uint8)[len(raw) * 2 // 5 : len(raw) * 3 // 5]
    middle ^= 0x01
    _reseal(folder, "model.onnx", bytes(raw))


def _other_inputs(folder: Path) -> None:
    raw = (folder / "model.onnx").read_bytes()
    _reseal(
        folder,
        "model.onnx",
        raw.replace(b"features", b"featurez").replace(b"candidates", b"candidatez"),
    )


def _wrong_policy(folder: Path) -> None:
    path = min((folder / "policies").iterdir())
    text = path.read_text(encoding="utf-8").replace('group_table = "', 'group_table = "no-')
    _reseal(folder, f"policies/{path.name}", (text + "\nno_such_key = 1\n").encode())


DAMAGES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("model", lambda folder: _flip(folder / "model.onnx")),
    ("answers", _other_answers),
    ("inputs", _other_inputs),
    ("policy", _wrong_policy),
    ("truncated", lambda folder: _truncate(folder / "items.json")),
    ("missing", lambda folder: (folder / "warmups.json").unlink()),
    ("extra", lambda folder: _overwrite(folder / "notes.txt")),
    ("manifest", lambda folder: _overwrite(folder / "manifest.json")),
    ("link", lambda folder: _link(folder / "groups.json")),
    ("gone", _remove),
)
