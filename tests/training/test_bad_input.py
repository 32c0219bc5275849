"""What people's files are like: each gives right results or one line that says why not, and exit code 2."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from server.cli import main
from server.features.types import DAY_MS
from strategies.purchases import START_MS, raw, shop_rows

HEAD = "user,item,time\n"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    raw(shop_rows()).drop("basket").write_csv(tmp_path / "bought.csv")
    return tmp_path


class Run:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["equipoise", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = self._capsys.readouterr()
        code = left.value.code
        assert isinstance(code, int)
        return code, out, err

    def described(self, *words: object) -> dict[str, Any]:
        code, out, err = self("train", "--dry-run", "--json", "--interactions", *words)
        assert code == 0, err
        told: dict[str, Any] = json.loads(out)
        return told | {"stderr": err}

    def refused(self, *words: object) -> str:
        code, out, err = self("train", "--dry-run", "--interactions", *words)
        assert code == 2, out + err
        assert not out
        assert "Traceback" not in err
        assert err.count("\n") == 1, "one line"
        return err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def days(rows: list[tuple[str, str, int]], path: Path) -> Path:
    lines = "".join(f"{user},{item},{START_MS + day * DAY_MS}\n" for user, item, day in rows)
    path.write_text(HEAD + lines)
    return path


GOOD = [(f"u{n % 5}", f"i{n % 7}", n) for n in range(70)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", ["column 'user'", "the file is empty"]),
        (b"\n\n", ["column 'user'", "missing"]),
        (HEAD.encode(), ["the table is empty"]),
        (b"ann,milk,2026-01-01\n", ["column 'user'", "there are: 2026-01-01, ann, milk", "--header"]),
        (
            b"customer,item,time\nann,milk,2026-01-01\n",
            ["column 'user'", "there are: customer, item, time", "--column user=THEIRS"],
        ),
        (
            b"user,item\nann,milk\n",
            ["column 'time'", "there are: item, user", "--protocol leave-one-out"],
        ),
        (
            b"user,item,time\nann,milk,2026-01-01\nbob,caf\xe9,2026-01-02\n",
            ["1 of 3 rows", "not UTF-8", "'line': 3", "caf", "iconv"],
        ),
        ("user,item,time\nann,milk,2026-01-01\n".encode("utf-16"), ["UTF-16", "allowed: UTF-8"]),
        (
            b"user,item,time\nann,milk\nbob,oats,2026-01-01\n",
            ["1 of 3 rows", "do not have 3 columns", "'line': 2", "ann,milk"],
        ),
        (
            b"user,item,time,quantity\nann,milk,2026-01-01\nbob,oats,2026-01-02,2\n",
            ["1 of 3 rows", "do not have 4 columns", "'line': 2"],
        ),
        (
            b"user,item,time\nann,milk, whole,2026-01-01\nbob,oats,2026-01-02\n",
            ["1 of 3 rows", "do not have 3 columns", "in double quotes"],
        ),
        (b'user,item,time\n"ann,milk,2026-01-01\n', ["do not have 3 columns"]),
        (b"user,item,time\nann,,2026-01-01\n", ["column 'item'", "1 of 1 rows", "null"]),
        (b"user,item,time\n1,a,2026-01-01\n1.0,b,2026-01-01\n", ["column 'user'", "with .0"]),
        (
            b"user,item,time\nann,a,2026-01-01T10:00:00+02:00\nann,b,2026-01-01 10:00\n",
            ["column 'time'", "1 of 2 rows", "with and without a time zone"],
        ),
        (b"user,item,time\nann,a,01/02/2026\n", ["column 'time'", "text that is no time"]),
        (b"user,item,time\nann,a,3\nann,b,4\n", ["column 'time'", "not a time since 1970"]),
        (
            b"user,item,time\nann,a,2026-01-01\nbob,b,2026-01-01\n",
            ["column 'time'", "span 0.0 days", "--protocol leave-one-out"],
        ),
        (b"user;item|x,y\n1;2|3,4\n", ["what separates the columns?", "--separator"]),
        (
            b"user,item,time,kind\nann,a,2026-01-01,view\nann,b,2026-03-01,view\n",
            ["column 'kind'", "2 of 2 rows", "no row is of kind purchase", "--kind purchase=WORD"],
        ),
        (b"user,item,time,item\nann,a,2026-01-01,b\n", ["column 'item'", "2 columns of this name"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_for_certain_is_refused(
    tmp_path: Path, run: Run, content: bytes, told: list[str]
) -> None:
    (tmp_path / "bought.csv").write_bytes(content)
    err = run.refused(tmp_path / "bought.csv")
    assert "bought.csv" in err or "span" in err or "kind" in err
    for words in told:
        assert words in err


def test_nothing_left_after_cleaning_is_refused(tmp_path: Path, run: Run) -> None:
    path = days([(f"u{n}", f"i{n}", n) for n in range(60)], tmp_path / "bought.csv")
    err = run.refused(path)
    assert "60 of 60 rows: cleaning dropped every row" in err
    assert "2 purchases" in err


def test_the_same_however_the_file_is_written(tmp_path: Path, run: Run) -> None:
    plain = run.described(days(GOOD, tmp_path / "bought.csv"))
    text = (tmp_path / "bought.csv").read_text()
    rows = [line.split(",") for line in text.splitlines()]
    forms = {
        "bom.csv": "\ufeff" + text,
        "crlf.csv": text.replace("\n", "\r\n"),
        "blank.csv": text.replace("\n", "\n\n"),
        "spaces.csv": "\n".join(" , ".join(row) for row in rows),
        "semicolons.csv": text.replace(",", ";"),
        "pipes.csv": text.replace(",", "|"),
        "tabs.tsv": text.replace(",", "\t"),
        "colons.dat": text.replace(",", "::"),
        "quoted.csv": "\n".join(",".join(f'"{field}"' for field in row) for row in rows),
        "points.csv": text.replace("000\n", "000.0\n"),
        "recbole.inter": text.replace(",", "\t").replace(
            "user\titem\ttime", "user_id:token\titem_id:token\ttimestamp:float"
        ),
    }
    for name, written in forms.items():
        (tmp_path / name).write_text(written)
        told = run.described(tmp_path / name)
        for fact in ("users", "items", "events", "time", "quantiles", "cuts"):
            assert told[fact] == plain[fact], name
    assert "spaces around the user" not in plain["stderr"]
    assert "spaces around the item of" in run.described(tmp_path / "spaces.csv")["stderr"]
    assert run.described(tmp_path / "blank.csv")["dropped"][0] == {
        "reason": "blank line in blank.csv",
        "rows": 71,
    }


def test_a_file_without_names_is_read_with_those_that_are_told(tmp_path: Path, run: Run) -> None:
    plain = run.described(days(GOOD, tmp_path / "bought.csv"))
    lines = (tmp_path / "bought.csv").read_text().splitlines()[1:]
    fields = (line.split(",") for line in lines)
    (tmp_path / "u.data").write_text(
        "\n".join(f"{user}\t{item}\t5\t{time}" for user, item, time in fields)
    )
    told = run.described(tmp_path / "u.data", "--header", "user,item,rating,time")
    assert (told["cuts"], told["events"]) == (plain["cuts"], plain["events"])
    assert "not used: rating" in told["stderr"]
    err = run.refused(tmp_path / "u.data", "--header", "user,item,time", "--separator", "tab")
    assert "--header names 3 columns, and the first line has 4" in err


def test_ids_are_the_same_as_numbers_and_as_text(tmp_path: Path, run: Run) -> None:
    rows = [(n % 5, n % 7, START_MS + n * DAY_MS) for n in range(70)]
    table = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    table.write_parquet(tmp_path / "whole.parquet")
    table.with_columns(pl.col("user", "item").cast(pl.Float64)).write_parquet(
        tmp_path / "pointed.parquet"
    )
    table.with_columns(pl.col("user").cast(pl.Float64)).write_csv(tmp_path / "pointed.csv")
    table.select(pl.col("item").unique(), pl.lit("FOOD").alias("category_path")).write_csv(
        tmp_path / "items.csv"
    )
    told = [
        run.described(tmp_path / name, "--items", tmp_path / "items.csv")
        for name in ("whole.parquet", "pointed.parquet", "pointed.csv")
    ]
    for one in told:
        assert one["groups"] == told[0]["groups"] != []
        assert "not in --items" not in one["stderr"], "the tables meet"
        assert one["cuts"] == told[0]["cuts"]


def test_ids_may_have_spaces_inside(tmp_path: Path, run: Run) -> None:
    path = days([(f"ann {n % 5}", f"oat milk {n % 7}", n) for n in range(70)], tmp_path / "b.csv")
    told = run.described(path)
    assert (told["users"], told["items"]) == (5, 7)


def test_tables_that_do_not_meet_are_told_of(shop: Path, run: Run) -> None:
    (shop / "wrong.csv").write_text("item,brand\n001,A\n002,B\n")
    told = run.refused(shop / "bought.csv", "--items", shop / "wrong.csv")
    assert "none of these ids is among the 60 of the interactions, such as 'item-000'" in told
    assert "001" in told
    (shop / "items.csv").write_text("item,brand\nitem-000,A\n002,B\n")
    (shop / "users.csv").write_text("user,region\nuser-00,north\n")
    told = run.described(
        shop / "bought.csv", "--items", shop / "items.csv", "--users", shop / "users.csv"
    )
    assert "59 of 60 items of the interactions are not in --items" in told["stderr"]
    assert "29 of 30 users of the interactions are not in --users" in told["stderr"]


def test_all_equal_times_are_no_trouble_where_only_the_order_counts(
    tmp_path: Path, run: Run
) -> None:
    path = days([(user, item, 0) for user, item, _ in GOOD], tmp_path / "bought.csv")
    told = run.described(path, "--protocol", "leave-one-out")
    assert [cut.get("users_with_targets") for cut in told["cuts"]] == [None, 5, 5]
    (tmp_path / "ordered.csv").write_text(
        "user,item\n" + "".join(f"{user},{item}\n" for user, item, _ in GOOD)
    )
    ordered = run.described(tmp_path / "ordered.csv", "--protocol", "leave-one-out")
    assert ordered["cuts"] == told["cuts"]
    assert "no column 'time'" in ordered["stderr"]
    (tmp_path / "steps.csv").write_text(
        "user,item,time\n" + "".join(f"{user},{item},{n}\n" for user, item, n in GOOD[::-1])
    )
    steps = run.described(tmp_path / "steps.csv", "--protocol", "leave-one-out")
    assert steps["cuts"] == told["cuts"]
    assert "column 'time' counts steps" in steps["stderr"]
    (tmp_path / "pairs.txt").write_text("".join(f"{user} {item}\n" for user, item, _ in GOOD))
    assert run.described(tmp_path / "pairs.txt")["cuts"] == told["cuts"]


def test_a_sequence_file_of_another_encoding_is_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "lines.txt").write_bytes(b"ann milk tea\nbob caf\xe9 tea\n")
    err = run.refused(tmp_path / "lines.txt")
    assert "1 of 2 rows: the text is not UTF-8" in err
    assert "'line': 2" in err
