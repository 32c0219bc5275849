"""Leave-one-out as a cut in time: what is left out, and what a model may see of it."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import DataRefused
from strategies.purchases import Row, purchase_rows, tables
from training.data.prepare import prepare_in_order
from training.data.sequences import NEWEST, in_order, leave_one_out, read_sequences
from training.data.split import targets_between
from training.data.tables import Tables

sequences = st.dictionaries(
    st.integers(1, 9),
    st.lists(st.integers(1, 7), min_size=1, max_size=8),
    min_size=1,
    max_size=6,
)


def held_out(found: Tables) -> tuple[dict[str, list[str]], dict[str, str], dict[str, str]]:
    """Each user's history before the test, his validation target, and his test target."""
    prepared = prepare_in_order(found)
    data, split = prepared.dataset, prepared.split
    history = data.until(split.validation_until_ms)
    seen = {
        user: [data.item_ids[item] for item in history.history(place).items]
        for place, user in enumerate(data.user_ids)
    }
    told = []
    for after, until in (
        (split.train_until_ms, split.validation_until_ms),
        (split.validation_until_ms, split.test_until_ms),
    ):
        targets = targets_between(data, after, until)
        told.append(
            {
                data.user_ids[user]: data.item_ids[int(targets.of(place)[0])]
                for place, user in enumerate(targets.users.tolist())
            }
        )
        assert all(len(targets.of(place)) == 1 for place in range(len(targets)))
    return seen, told[0], told[1]


@given(sequences)
def test_the_last_event_is_the_test_and_the_one_before_it_validation(
    lines: dict[int, list[int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "purchases.txt"
        path.write_text(
            "".join(f"{user} {' '.join(map(str, items))}\n\n" for user, items in lines.items())
        )
        found = read_sequences(path)
    seen, validation, test = held_out(found)
    for user, items in lines.items():
        own = [str(item) for item in items]
        assert seen[str(user)] == own[:-1]
        assert test.get(str(user)) == (own[-1] if len(own) > 1 else None)
        assert validation.get(str(user)) == (own[-2] if len(own) > 2 else None)


@given(purchase_rows())
def test_of_a_table_with_times_the_order_stays(rows: list[Row]) -> None:
    rows = list(
        {
            (user, item, when): (user, item, when, basket) for user, item, when, basket in rows
        }.values()
    )
    seen, _, test = held_out(in_order(tables(rows)))
    for user in {row[0] for row in rows}:
        own = [item for name, item, when, _ in sorted(rows, key=lambda row: row[2]) if name == user]
        assert (seen[user], test.get(user)) == (own[:-1], own[-1] if len(own) > 1 else None)


def test_older_events_than_have_places_are_left_out_and_told(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text(f"ann {' '.join(['a', 'b'] * (NEWEST // 2))} c\nbob d e\n")
    found = read_sequences(path)
    assert found.left_out == ((f"older than a user's newest {NEWEST:,} events", 1),)
    assert found.interactions.filter(user="ann").height == NEWEST
    assert leave_one_out().test_until_ms == int(
        found.interactions["time"].dt.epoch("ms").max()  # type: ignore[arg-type]
    )


@given(sequences)
def test_one_event_a_line_says_the_same_as_one_user_a_line(lines: dict[int, list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, pairs = Path(folder) / "whole.txt", Path(folder) / "pairs.txt"
        whole.write_text("".join(f"{u} {' '.join(map(str, i))}\n" for u, i in lines.items()))
        turns = [
            (place, user, item) for user, items in lines.items() for place, item in enumerate(items)
        ]
        pairs.write_text("".join(f"{user}\t{item}\n" for _, user, item in sorted(turns)))
        assert held_out(read_sequences(pairs)) == held_out(read_sequences(whole))


def test_only_purchases_have_places() -> None:
    bought = tables([("ann", "a", 1, "1"), ("ann", "b", 2, "2"), ("ann", "c", 3, "3")])
    seen = bought.interactions.with_columns(
        kind=pl.when(pl.col("item") == "c").then(pl.lit("view")).otherwise("kind")
    )
    ordered = in_order(dataclasses.replace(bought, interactions=seen))
    assert ("no purchase, so it has no place", 1) in ordered.left_out
    assert held_out(ordered)[2] == {"ann": "b"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("ann milk\nbob\n", "a line with a user and no item.*'number': 2"),
        ("ann milk oats\nbob oats\nann tea\n", "the same user on two lines"),
        ("user,item,time\n", "--separator"),
    ],
)
def test_lines_that_are_no_sequences_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "lines.txt"
    path.write_text(text)
    with pytest.raises(DataRefused, match=message):
        read_sequences(path)
