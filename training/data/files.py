"""A user's file as a raw table: parquet, or lines of text with a separator; our names on its columns.

Owns formats, separators, encoding, and which columns are taken. What lines of text say stays text:
"007" is not 7. Whatever could be meant in two ways is refused. Must not know what a column's values
mean; `training.data.tables` does.

    raw = read_raw(Path("purchases.csv"), "interactions", Reading.of(["user=customer_id"]))
    raw.table, raw.notes
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import polars as pl

from server.errors import DataRefused, listed, near_miss, shown
from training.data.reading import COLUMNS, RATING, Reading
from training.data.schema import refuse_rows

REQUIRED = {"interactions": ("user", "item", "time"), "items": ("item",), "users": ("user",)}
IDS = ("user", "item")

ATOMIC = {".inter": "interactions", ".item": "items", ".user": "users"}
"""The files of RecBole: tabs between columns, `name:type` in the first line."""
ATOMIC_NAMES = {"user": "user_id", "item": "item_id", "time": "timestamp"}
TABBED = (".tsv", ".tab", *ATOMIC)
TEXT = (".csv", ".txt", ".dat", ".data", *TABBED)
FORMATS = ".parquet, or text with a line for each row: .csv, .tsv, .txt, .dat, .data, .inter"
SNIFFED = (",", ";", "\t", "|", "::")
# No text has it; a separator of several characters is exchanged for it.
UNIT = "\x1f"
NO_TEXT = "\x01"
WIDE = 240


@dataclass(frozen=True)
class Raw:
    """Columns under our names; what was noticed; where it came from, for messages."""

    table: pl.DataFrame
    source: str
    notes: tuple[str, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()


def read_raw(path: Path, kind: str, reading: Reading) -> Raw:
    """The columns of `path` that a table of this kind has.

    Raises:
        DataRefused: the file cannot be read for certain, or a column is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    file = _File(path, kind, reading)
    if path.suffix != ".parquet" and path.suffix not in TEXT:
        file.refuse(f"file type {path.suffix!r}", FORMATS)
    try:
        return file.parquet() if path.suffix == ".parquet" else file.text()
    except pl.exceptions.PolarsError as error:
        lines = str(error).splitlines()
        file.refuse(
            f"the file does not parse: {lines[0]}" if lines else "the file is empty", FORMATS
        )


class _File:
    def __init__(self, path: Path, kind: str, reading: Reading) -> None:
        self._path, self._kind, self._reading = path, kind, reading
        self._mapped = dict(reading.columns.get(kind, {}))
        told = ", ".join(f"{ours} is its {theirs!r}" for ours, theirs in self._mapped.items())
        self._source = f"{kind} ({path.name}{'; ' if told else ''}{told})"

    def parquet(self) -> Raw:
        there = list(pl.read_parquet_schema(self._path))
        chosen = self._chosen(there)
        table = pl.read_parquet(self._path, columns=list(dict.fromkeys(chosen.values())))
        table = table.select(pl.col(theirs).alias(ours) for ours, theirs in chosen.items())
        return self._tidied(table, self._notes(there, chosen))

    def text(self) -> Raw:
        with self._path.open("rb") as opened:
            if opened.read(2) in (b"\xff\xfe", b"\xfe\xff"):
                self.refuse("the text is UTF-16", "UTF-8")
        first = self._first_line()
        header = self._reading.header if self._kind == "interactions" else ()
        separator = self._reading.separator
        # It is told of the interactions: items may be written otherwise.
        if separator is None or (self._kind != "interactions" and separator not in first):
            separator = self._told_by(first, header)
        content: Path | bytes = self._path
        if len(separator) > 1:
            content = self._path.read_bytes().replace(separator.encode(), UNIT.encode())
            first, separator = first.replace(separator, UNIT), UNIT
        fields = next(csv.reader([first], delimiter=separator))
        if header and len(header) != len(fields):
            self.refuse(
                f"--header names {len(header)} columns, and the first line has {len(fields)}",
                "a name for each column",
                {"line": 1, "text": shown(first, WIDE)},
            )
        names = list(header) or self._names(fields)
        chosen = self._chosen(names)
        places = sorted({names.index(theirs) for theirs in chosen.values()})
        try:
            quote = self._quotes(content, separator, len(names))
            table = pl.read_csv(
                content,
                columns=places,
                separator=separator,
                has_header=not header,
                infer_schema=False,
                quote_char=quote,
            )
        except pl.exceptions.ComputeError as error:
            if "utf-8" in str(error):
                refuse_encoding(self._path, self._source, REQUIRED[self._kind][0])
            self._refuse_quotes(content)
            raise
        columns = {names[place]: table.to_series(at) for at, place in enumerate(places)}
        table = pl.DataFrame([columns[theirs].alias(ours) for ours, theirs in chosen.items()])
        blank = table.select(pl.all_horizontal(pl.all().is_null()).alias("blank"))["blank"]
        lines = ((f"blank line in {self._path.name}", int(blank.sum())),) if blank.any() else ()
        table = self._whole_numbers(table.filter(~blank))
        tidied = self._tidied(table, self._notes(names, chosen))
        return replace(tidied, left_out=lines)

    def refuse(
        self,
        why: str,
        allowed: str,
        example: Mapping[str, object] | None = None,
        *,
        column: str | None = None,
        rows: int = 0,
        of_rows: int | None = None,
    ) -> NoReturn:
        raise DataRefused(
            column or REQUIRED[self._kind][0], rows=rows, of_rows=of_rows, example=example or {},
            why=why, allowed=allowed, source=self._source,
        )  # fmt: skip

    def _first_line(self) -> str:
        """The first line that says anything, as far as a quoted name does not break it."""
        try:
            with self._path.open(encoding="utf-8-sig", newline=None) as text:
                first = text.readline().rstrip("\n")
                empty = not first and not text.read(1)
        except UnicodeDecodeError:
            refuse_encoding(self._path, self._source, REQUIRED[self._kind][0])
        if empty:
            self.refuse("the file is empty", "a first line with the names of the columns")
        return first

    def _told_by(self, first: str, header: Sequence[str]) -> str:
        """The separator, if the first line leaves no doubt."""
        if self._path.suffix in TABBED:
            return "\t"
        there = [one for one in SNIFFED if one in first]
        needed = {self._mapped.get(name, name) for name in REQUIRED[self._kind]}
        if self._reading.in_order:
            needed.discard("time")

        def fits(separator: str) -> bool:
            fields = [field.strip().strip('"') for field in first.split(separator)]
            return len(fields) == len(header) if header else needed <= set(fields)

        fitting = [one for one in there if fits(one)]
        if len(fitting) == 1:
            return fitting[0]
        if len(there) <= 1:
            return there[0] if there else ","
        self.refuse(
            f"what separates the columns? The first line has {' and '.join(map(repr, there))}",
            f"columns {', '.join(sorted(needed))} in it, or --separator",
            {"line": 1, "text": shown(first, WIDE)},
        )

    def _names(self, fields: Sequence[str]) -> list[str]:
        names = [name.strip() or f"column {at}" for at, name in enumerate(fields, 1)]
        if self._path.suffix in ATOMIC:
            names = [name.partition(":")[0] for name in names]
        # Which of two would be meant?
        for name, times in Counter(names).items():
            if times > 1:
                self.refuse(f"{times} columns of this name", "each name once", column=name)
        return names

    def _chosen(self, there: Sequence[str]) -> dict[str, str]:
        """Our name -> the file's, of each column that is taken."""
        chosen = dict(self._mapped)
        for ours, theirs in chosen.items():
            if theirs not in there:
                self.refuse(
                    f"the file has no such column, for {ours}",
                    f"{near_miss(theirs, there)}one of {listed(there)}",
                    column=theirs,
                )
        if self._path.suffix in ATOMIC:
            for ours in (*IDS, *(("time",) if self._kind == "interactions" else ())):
                theirs = ATOMIC_NAMES[ours]
                if theirs in there and ours not in there:
                    chosen.setdefault(ours, theirs)
        taken = set(chosen.values())
        wanted = COLUMNS[self._kind] if self._kind == "interactions" else there
        for name in wanted:
            if name == RATING and self._reading.min_rating is None:
                continue
            if name in there and name not in chosen and name not in taken:
                chosen[name] = name
        for name in REQUIRED[self._kind]:
            if name in chosen or (name == "time" and self._reading.in_order):
                continue
            instead = (
                f"--column {'' if self._kind == 'interactions' else self._kind + '.'}{name}=THEIRS"
            )
            more = "; without times: --protocol leave-one-out" if name == "time" else ""
            headless = (
                "; no names in the first line: --header" if self._kind == "interactions" else ""
            )
            self.refuse(
                f"the column is missing; there are: {listed(there)}",
                f"at least columns {', '.join(REQUIRED[self._kind])}, or {instead}{more}{headless}",
                column=name,
            )
        return chosen

    def _notes(self, there: Sequence[str], chosen: Mapping[str, str]) -> list[str]:
        unused = [name for name in there if name not in chosen.values()]
        if not unused:
            return []
        note = f"{self._path.name}: not used: {', '.join(unused)}"
        if RATING in unused:
            note += " (--min-rating leaves out what was liked less)"
        return [note]

    def _tidied(self, table: pl.DataFrame, notes: list[str]) -> Raw:
        """Without spaces around text; text of nothing else is none."""
        texts = [name for name, dtype in table.schema.items() if dtype == pl.String]
        for name in texts:
            around = pl.col(name).str.contains(r"^\s|\s$")
            spaced = int(table.select(around.sum()).item() or 0)
            bare = pl.col(name).str.strip_chars()
            if spaced:
                table = table.with_columns(bare)
                if name in IDS:
                    notes.append(
                        f"{self._path.name}: spaces around the {name} of {spaced:,} rows are left off"
                    )
            if name not in IDS:
                empty = pl.col(name) == ""
                table = table.with_columns(pl.when(~empty).then(pl.col(name)).alias(name))
        return Raw(table, self._source, tuple(notes))

    def _whole_numbers(self, table: pl.DataFrame) -> pl.DataFrame:
        """Ids without the .0 that pandas writes for whole numbers where some were missing."""
        for name in IDS:
            if name not in table.columns:
                continue
            once = table[name].drop_nulls().unique()
            pointed = once.str.contains(r"^\s*-?\d+\.0\s*$")
            if not pointed.any():
                continue
            if pointed.all():
                table = table.with_columns(pl.col(name).str.replace(r"\.0(\s*)$", ""))
            elif (pointed | once.str.contains(r"^\s*-?\d+\s*$")).all():
                refuse_rows(
                    table, table[name].str.contains(r"\.0\s*$"), name,
                    "some whole numbers with .0 and some without", "one form for all rows",
                    self._source,
                )  # fmt: skip
        return table

    def _quotes(self, content: Path | bytes, separator: str, columns: int) -> str | None:
        """The quote character, if quotes are more than text here; refuses lines of too few or too many
        columns.

        Polars fills what a short line lacks with nulls, and looks at no column that is not read.
        """
        source = content if isinstance(content, Path) else io.BytesIO(content)
        line = pl.col("line")
        quoting = line.str.contains('"', literal=True)
        outside = pl.when(quoting).then(line.str.replace_all(r'"[^"]*"', "")).otherwise(line)
        lines = pl.scan_csv(
            source, separator=NO_TEXT, quote_char=None, has_header=False, infer_schema=False,
            new_columns=["line"], truncate_ragged_lines=True, empty_string_is_null=False,
        ).filter(line.str.strip_chars("\r") != "")  # fmt: skip
        counted = (
            lines.with_columns(outside=outside)
            .select(
                quoted=line.str.contains(rf'(^|{re.escape(separator)})\s*"'),
                odd=line.str.count_matches(separator, literal=True) != columns - 1,
                odd_outside=pl.col("outside").str.count_matches(separator, literal=True)
                != columns - 1,
                unclosed=pl.col("outside").str.contains('"', literal=True),
            )
            .select(pl.all().sum())
            .collect(engine="streaming")
        )
        quoted, odd, odd_outside, unclosed = counted.row(0)
        # 5" pipe: no field begins with one, so quotes are what they say.
        quote = '"' if quoted else None
        if not (odd_outside or unclosed if quoted else odd):
            return quote
        first: dict[str, object] = {}
        ragged = seen = 0
        for number, fields in self._rows(content, separator, quote):
            seen += 1
            if fields and len(fields) != columns:
                ragged += 1
                first = first or {"line": number, "text": shown(separator.join(fields), WIDE)}
        if ragged:
            self.refuse(
                f"lines that do not have {columns} columns", f"{columns} columns in each line, as the "
                "first has; text with the separator in it in double quotes",
                first, rows=ragged, of_rows=seen,
            )  # fmt: skip
        return quote

    def _refuse_quotes(self, content: Path | bytes) -> None:
        """Raise the refusal of a line with a quote that neither begins nor ends a field, if there is one."""
        text = content.read_bytes() if isinstance(content, Path) else content
        for number, line in enumerate(text.decode("utf-8", "replace").split("\n"), 1):
            if '"' in re.sub(r'"[^"]*"', "", line):
                self.refuse(
                    "double quotes that do not enclose a whole text",
                    'text with a quote in it in quotes, and that quote doubled: "5"" pipe"',
                    {"line": number, "text": shown(line, WIDE)},
                )

    def _rows(
        self, content: Path | bytes, separator: str, quote: str | None
    ) -> Iterator[tuple[int, list[str]]]:
        opened = (
            content.open(encoding="utf-8-sig", newline="", errors="replace")
            if isinstance(content, Path)
            else io.StringIO(content.decode("utf-8-sig", "replace"), newline="")
        )
        csv.field_size_limit(1 << 30)
        with opened as text:
            reader = csv.reader(
                text, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
            )
            try:
                for fields in reader:
                    yield reader.line_num, fields
            except csv.Error as error:
                self.refuse(f"line {reader.line_num} does not parse: {error}", "CSV")


def lines_of(path: Path, source: str) -> pl.DataFrame:
    """The lines of a text file in one column, `line`; `DataRefused` if they are not UTF-8."""
    try:
        return pl.read_csv(
            path, separator=NO_TEXT, quote_char=None, has_header=False, infer_schema=False,
            new_columns=["line"], empty_string_is_null=False, raise_if_empty=False,
            schema={"line": pl.String},
        )  # fmt: skip
    except pl.exceptions.PolarsError as error:
        if "utf-8" in str(error):
            refuse_encoding(path, source)
        raise DataRefused(
            "user", rows=0, example={}, why=f"the file does not parse: {str(error).splitlines()[0]}",
            allowed="text without control characters", source=source,
        ) from None  # fmt: skip


def refuse_encoding(path: Path, source: str, column: str = "user") -> NoReturn:
    """Raise the refusal that names the lines which are not UTF-8."""
    first: dict[str, object] = {}
    bad = seen = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            seen = number
            if not line.isascii():
                try:
                    line.decode()
                except UnicodeDecodeError:
                    bad += 1
                    told = line.rstrip().decode("utf-8", "backslashreplace")
                    first = first or {"line": number, "text": shown(told, WIDE)}
    raise DataRefused(
        column, rows=bad, of_rows=seen, example=first, why="the text is not UTF-8",
        allowed="UTF-8, as of iconv -f WINDOWS-1252 -t UTF-8", source=source,
    )  # fmt: skip
