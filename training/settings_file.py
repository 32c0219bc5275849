"""Train settings <-> a TOML or JSON file. Owns what is allowed in it: every field of `TrainSettings`.

hidden = [128, 64]          settings_from(Path("my.toml"), TrainSettings())
learning_rate = 0.001       changes these two, and refuses what it does not know
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from server.errors import SettingsRefused, near_miss, shown
from training.settings import SequenceSettings, TrainSettings

JSON = ".json"
SEQUENCE = "sequence"


def settings_from(path: Path, base: TrainSettings) -> TrainSettings:
    """`base`, with what the file says instead.

    A table `sequence` switches the sequence model on. The name says where settings come from, unless the
    file gives another.

    Raises:
        SettingsRefused: it cannot be read, or holds an unknown key or a value out of range.
    """
    given = _read(path)
    known = {one.name for one in fields(TrainSettings)}
    inner = given.get(SEQUENCE)
    _check_keys(path, given, known, "")
    whole = asdict(base) | {"name": path.stem} | given
    if isinstance(inner, dict):
        _check_keys(path, inner, {one.name for one in fields(SequenceSettings)}, f"{SEQUENCE}.")
        before = base.sequence or SequenceSettings()
        whole[SEQUENCE] = asdict(before) | inner
    try:
        checked: TrainSettings = _STRICT.validate_json(json.dumps(whole, default=str))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SettingsRefused(
            f"{path.name}: {key}: got {shown(first['input'])}: {first['msg'].lower()}"
        ) from invalid
    told = checked.sequence
    if told is not None and told.width % told.heads:
        raise SettingsRefused(
            f"{path.name}: {SEQUENCE}.width: got {told.width}, allowed: a multiple of heads, "
            f"{told.heads}"
        )
    return checked


def settings_text(settings: TrainSettings, suffix: str) -> str:
    """All of it, as a file with this suffix holds it; `settings_from` reads it back."""
    content = {name: value for name, value in asdict(settings).items() if value is not None}
    if suffix == JSON:
        return json.dumps(content, indent=1) + "\n"
    inner = content.pop(SEQUENCE, None)
    # A number, a text or a list of them reads the same in TOML as in JSON.
    lines = [f"{name} = {json.dumps(value)}" for name, value in content.items()]
    if inner is not None:
        lines += ["", f"[{SEQUENCE}]", *(f"{name} = {json.dumps(v)}" for name, v in inner.items())]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
        content = json.loads(text) if path.suffix == JSON else tomllib.loads(text)
    except OSError as error:
        raise SettingsRefused(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # of JSON, of TOML, or no UTF-8
        kind = "JSON" if path.suffix == JSON else "TOML"
        raise SettingsRefused(f"{path.name} is no {kind}: {error}") from error
    if not isinstance(content, dict):
        raise SettingsRefused(f"{path.name}: got {shown(content)}, allowed: an object of settings")
    return content


def _check_keys(path: Path, given: Mapping[str, Any], known: set[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            allowed = ", ".join(sorted(known))
            raise SettingsRefused(
                f"{path.name}: unknown setting {prefix}{key!s}; {near_miss(key, known)}allowed: {allowed}"
            )


# In strict JSON a list is a tuple, a table a dataclass, and nothing else is taken for another kind.
_STRICT = TypeAdapter(with_config(ConfigDict(strict=True))(TrainSettings))
