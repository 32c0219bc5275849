"""The work folder of a training run: a checkpoint for each stage, and what the run was started with.

Owns files and their safety: written aside and renamed, safetensors and JSON only, one run at a time.
Must not know models, losses or the order of stages.

    with WorkFolder.open(work_path(out), RunKey(...), resume=True, tell=print) as work:
        stage = work.stage("tuning", seed=0)
        stage.save(Saved(tensors, facts, done=False))
        stage.load()                                # after a kill: what was saved last

A killed run leaves the folder; a run that ends removes it, unless it is to be kept. Stages are
numbered in the order in which a run comes to them, which is the same in each run of equal settings.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from server.errors import Refused, shown

FORMAT = 1
RUN = "run.json"
SUFFIX = ".safetensors"
FACTS = "facts"
SHOWN_DIFFERENCES = 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Saved:
    """What a stage must know to go on: tensors by name, the rest as JSON; done: it has ended."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    done: bool = False


def work_path(out: Path) -> Path:
    """The folder beside the bundle `out`."""
    return out.with_name(f"{out.name}.training")


@dataclass
class Stage:
    """One training of one model within a run; without a folder nothing is saved.

    on_restored: told the epoch after which the stage goes on.
    """

    name: str
    seed: int
    device: torch.device = CPU
    path: Path | None = None
    on_restored: Callable[[int], None] = lambda epoch: None
    on_saved: Callable[[str, Saved], None] = lambda stage, saved: None

    def load(self) -> Saved | None:
        """What was saved last; None where nothing was.

        Raises:
            Refused: the file cannot be read.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, "pt") as file:
                facts = json.loads(file.metadata()[FACTS])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Saved(tensors, facts["facts"], bool(facts["done"]))
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise Refused(
                f"the checkpoint {self.path} cannot be read ({error}): start without --resume"
            ) from error

    def save(self, saved: Saved) -> None:
        """Put it in the place of what was saved before, whole or not at all.

        Raises:
            Refused: there is no room, or the folder is gone; what was saved before is kept.
        """
        if self.path is None:
            return
        # A copy each: parameters that share their memory are saved as often as they are named.
        tensors = {
            name: tensor.detach().to("cpu", copy=True).contiguous()
            for name, tensor in saved.tensors.items()
        }
        facts = json.dumps({"facts": saved.facts, "done": saved.done, "stage": self.name})
        write_whole(
            self.path, safetensors.torch.save(tensors, {FACTS: facts}), f"a checkpoint of {self.name}",
            "; what was saved before is kept: make room, then --resume",
        )  # fmt: skip
        self.on_saved(self.path.name, saved)


def write_whole(path: Path, content: bytes, what: str, then: str = "") -> None:
    """The file, written aside and renamed, or as it was.

    Raises:
        Refused: it cannot be written.
    """
    with aside(path, content, what, then) as place:
        place()


@contextlib.contextmanager
def aside(
    path: Path, content: bytes, what: str, then: str = "", folder: Path | None = None
) -> Iterator[Callable[[], None]]:
    """The content beside `path`, with its room taken; what is yielded moves it there.

    folder: where it waits, on the same file system: what a kill leaves of it is then cleared away
    with that folder.

    Raises:
        Refused: it cannot be written, or moved.
    """
    beside = (folder or path.parent) / f".{path.name}.{os.getpid()}"

    def refused(error: OSError) -> Refused:
        return Refused(
            f"cannot write {what}, {path} ({len(content):,} bytes): {error.strerror or error}{then}"
        )

    def place() -> None:
        try:
            beside.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            raise refused(error) from error

    try:
        try:
            beside.parent.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise refused(error) from error
        yield place
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class WorkFolder:
    """The open folder of one run. See the module; made by `open`."""

    path: Path
    key: Mapping[str, Any]
    tell: Callable[[str], None]
    keep: bool = False
    _stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    _opened: int = 0

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        path: Path,
        key: Mapping[str, Any],
        *,
        resume: bool,
        keep: bool = False,
        tell: Callable[[str], None],
    ) -> Iterator[WorkFolder]:
        """The folder for as long as the block runs, and gone when it ends without an error.

        key: all that the result depends on, as JSON. resume: go on from what is there.
        keep: leave the folder there. tell: what is found is told.

        Raises:
            Refused: what is there is of another run (resume), is no work folder, or is in use.
        """
        key = json.loads(json.dumps(key))
        with _locked(path):
            work = cls(path, key, tell, keep)
            found = work._found()
            if resume:
                work._go_on(found)
            else:
                if found:
                    tell(f"an unfinished run in {path} is discarded (--resume would go on from it)")
                _clear(path)
            work._write_run()
            try:
                yield work
            except BaseException:
                # Nothing to go on from: nothing to keep.
                if not any(path.glob(f"*{SUFFIX}")):
                    work.discard()
                raise
            if not keep:
                work.discard()

    def stage(self, name: str, seed: int, device: torch.device = CPU) -> Stage:
        """The next stage of the run."""
        self._opened += 1
        slug = "".join(char if char.isalnum() else "-" for char in name.lower())
        file = f"{self._opened:02}-{slug}{SUFFIX}"
        return Stage(
            name, seed, device, self.path / file,
            on_restored=lambda epoch: self.tell(f"{name}: goes on after epoch {epoch}"),
            on_saved=self._saved,
        )  # fmt: skip

    def discard(self) -> None:
        """Remove the folder; the run has ended, or to go on with it would lead to the same end."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _saved(self, file: str, saved: Saved) -> None:
        if saved.done:
            self._stages[file] = {"done": True, **saved.facts.get("told", {})}
            self._write_run()

    def _write_run(self) -> None:
        document = {"format": FORMAT, "key": self.key, "stages": self._stages}
        write_whole(self.path / RUN, json.dumps(document, indent=1).encode(), "the run's settings")

    def _found(self) -> dict[str, Any] | None:
        try:
            document = json.loads((self.path / RUN).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _go_on(self, found: dict[str, Any] | None) -> None:
        if found is None:
            self.tell(f"nothing to resume in {self.path}: training starts at the beginning")
            _clear(self.path)
            return
        if found.get("format") != FORMAT or not isinstance(found.get("key"), dict):
            raise Refused(
                f"--resume: {self.path / RUN} is of another version or damaged: start without --resume"
            )
        if differing := differences(found["key"], dict(self.key)):
            more = len(differing) - SHOWN_DIFFERENCES
            told = "; ".join(differing[:SHOWN_DIFFERENCES]) + (f"; {more} more" if more > 0 else "")
            raise Refused(
                f"--resume: the run in {self.path} was started otherwise: {told}. Start it as it was "
                "started, or without --resume"
            )
        self._stages = dict(found.get("stages", {}))
        done = len(self._stages)
        self.tell(f"resumed from {self.path}: {done} {'stage' if done == 1 else 'stages'} done")
        for left in self.path.glob(".*"):
            left.unlink(missing_ok=True)  # of a write that was killed


def differences(then: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs, by the dotted path of its key."""
    out: list[str] = []
    for name in sorted(then.keys() | now.keys()):
        one, other = then.get(name), now.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            out += differences(one, other, f"{prefix}{name}.")
        elif one != other:
            out.append(f"{prefix}{name}: {shown(one)} then, {shown(other)} now")
    return out


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The folder, made where it is missing and for this process alone."""
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Refused(f"cannot make the work folder {path}: {error.strerror}") from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(f"{path} is in use by another training run") from None
        yield
    finally:
        os.close(descriptor)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only where nothing came of it


def _clear(path: Path) -> None:
    """Empty a work folder; nothing else is ever removed."""
    strange = [
        entry.name
        for entry in path.iterdir()
        if entry.name != RUN and not entry.name.endswith(SUFFIX) and not entry.name.startswith(".")
    ]
    if strange:
        raise Refused(
            f"{path} is not a work folder of training (holds {shown(min(strange))}) and is left alone: "
            "move it away, or name another --out"
        )
    for entry in path.iterdir():
        entry.unlink()
