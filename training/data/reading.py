"""How a user's files are to be read: which of their columns is which of ours, and what their words mean.

Owns the names that may be mapped, and the TOML form of a mapping. Must not know files.

    reading = Reading.of(["user=customer_id", "items.name=title"], Path("columns.toml"))

    [interactions]              # ours = "the file's"
    user = "customer_id"
    [items]
    name = "title"
    [kind]                      # ours = what the file writes for it, or a list of that
    purchase = "buy"
    leave_out = ["scroll"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from server.errors import Refused, listed, near_miss, shown
from training.data.schema import INTERACTIONS, ITEMS, KINDS, USERS

RATING = "rating"
COLUMNS = {
    "interactions": (*INTERACTIONS.columns, RATING),
    "items": tuple(ITEMS.columns),
    "users": tuple(USERS.columns),
}
"""Table -> the names that a column of a file may be mapped to."""
LEAVE_OUT = "leave_out"
MAX_SEPARATOR = 4
SEPARATORS = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";"}


class MappingRefused(Refused):
    """A mapping that does not make sense: where it stands, what was seen, what is allowed."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"columns refused: {where}: {why}")


@dataclass(frozen=True)
class Reading:
    """What is known of files beside what is in them.

    columns: table -> our name -> the file's. kinds: the file's word -> ours, or `LEAVE_OUT`.
    separator: between columns; None: told by the first line. header: the names of the columns of
    interactions, where the first line has none. min_rating: rows below it leave. in_order: whether
    the order of rows may stand for times that the file does not have.
    """

    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    header: tuple[str, ...] = ()
    min_rating: float | None = None
    in_order: bool = False

    @property
    def of_interactions(self) -> bool:
        """Whether anything is told of how interactions are read."""
        told = (self.columns.get("interactions"), self.kinds, self.separator, self.header)
        return any(told) or self.min_rating is not None

    @property
    def of_anything(self) -> bool:
        """Whether anything is told at all."""
        return self.of_interactions or any(self.columns.values())

    @classmethod
    def of(
        cls,
        columns: Iterable[str] = (),
        document: Path | None = None,
        kinds: Iterable[str] = (),
        separator: str | None = None,
        header: str | None = None,
        min_rating: float | None = None,
    ) -> Reading:
        """Of options as they are written; a flag goes before the same name in the document.

        Raises:
            MappingRefused: an unknown name, or two columns for one.
        """
        mapped: dict[str, dict[str, str]] = {}
        words: dict[str, str] = {}
        if document is not None:
            mapped, words = _document(document)
        own: dict[str, dict[str, str]] = {}
        for text in columns:
            ours, theirs = _pair(text, "--column", "NAME=COLUMN or TABLE.NAME=COLUMN")
            table, _, name = ours.rpartition(".")
            table = table or "interactions"
            if table not in COLUMNS:
                raise MappingRefused(
                    f"--column {text}", f"no table {table!r}; there are: {listed(COLUMNS)}"
                )
            _known(name, table, f"--column {text}")
            if name in own.setdefault(table, {}):
                raise MappingRefused(
                    f"--column {text}",
                    f"two columns for {table}.{name}: {own[table][name]!r} and {theirs!r}",
                )
            own[table][name] = theirs
        for text in kinds:
            ours, theirs = _pair(text, "--kind", "KIND=WORD")
            _word(words, ours, theirs, f"--kind {text}")
        return cls(
            {name: mapped.get(name, {}) | own.get(name, {}) for name in COLUMNS},
            words,
            None if separator is None else _separator(separator),
            _header(header),
            min_rating,
        )


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    ours, sign, theirs = (part.strip() for part in text.partition("="))
    if not (ours and sign and theirs):
        raise MappingRefused(f"{option} {text}", f"allowed: {form}")
    return ours, theirs


def _known(name: str, table: str, where: str) -> None:
    known = COLUMNS[table]
    if name not in known:
        more = "; other columns keep their own names" if table != "interactions" else ""
        raise MappingRefused(
            where,
            f"{table} have no {name!r}; {near_miss(name, known)}there are: {listed(known)}{more}",
        )


def _word(words: dict[str, str], ours: str, theirs: str, where: str) -> None:
    if ours not in (*KINDS, LEAVE_OUT):
        known = (*KINDS, LEAVE_OUT)
        raise MappingRefused(
            where, f"no kind {ours!r}; {near_miss(ours, known)}there are: {listed(known)}"
        )
    if words.get(theirs, ours) != ours:
        raise MappingRefused(where, f"two kinds for {theirs!r}: {words[theirs]} and {ours}")
    words[theirs] = ours


def _document(path: Path) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingRefused(str(path), f"no TOML: {error}") from None
    mapped: dict[str, dict[str, str]] = {}
    words: dict[str, str] = {}
    for table, entries in document.items():
        tables = (*COLUMNS, "kind")
        if table not in tables or not isinstance(entries, dict):
            raise MappingRefused(
                str(path),
                f"no table [{table}]; {near_miss(table, tables)}there are: {listed(tables)}",
            )
        for ours, theirs in entries.items():
            where = f"{path}: {table}.{ours}"
            told = theirs if table == "kind" and isinstance(theirs, list) else [theirs]
            if not all(isinstance(one, str) and one for one in told):
                raise MappingRefused(where, f"got {shown(theirs)}, allowed: a name in quotes")
            if table == "kind":
                for one in told:
                    _word(words, ours, one, where)
                continue
            _known(ours, table, where)
            mapped.setdefault(table, {})[ours] = theirs
    return mapped, words


def _separator(text: str) -> str:
    found = SEPARATORS.get(text, text)
    if not 0 < len(found) <= MAX_SEPARATOR or '"' in found or "\n" in found or not found.isascii():
        raise MappingRefused(
            f"--separator {text}",
            f"allowed: 1 to {MAX_SEPARATOR} characters such as ';' or '::', or {listed(SEPARATORS)}",
        )
    return found


def _header(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise MappingRefused(
            f"--header {text}", "allowed: a name for each column, each once: user,item,rating,time"
        )
    return names
