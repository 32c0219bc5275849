"""The options that several of training's commands share, and what they lead to.

Owns where purchases come from: a data set by name, or a user's own tables.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from training.data.prepare import Prepared
    from training.data.reading import Reading
    from training.data.tables import Tables

COMPLETE_JOURNEY = "complete-journey"
SEQUENCES = ".txt"

EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)

dataset_option = click.option(
    "--dataset", type=click.Choice([COMPLETE_JOURNEY]), help="A data set by name."
)
interactions_option = click.option(
    "--interactions",
    type=EXISTING_FILE,
    help="Or your own: a table (.parquet, .csv, .tsv, .inter) with user, item, time; or a .txt, oldest "
    "first, with one user a line, user item item ..., or one event a line, user item.",
)
LEAVE_ONE_OUT = "leave-one-out"
protocol_option = click.option(
    "--protocol",
    type=click.Choice(["time", LEAVE_ONE_OUT]),
    help="What is held out of your own data: the last weeks, or each user's last two events, of which "
    "only the order counts.  [default: leave-one-out for a .txt, else time]",
)
events_option = click.option(
    "--events",
    type=EXISTING_FILE,
    help="Or an event store: what was loaded and what feedback added.",
)
items_option = click.option(
    "--items",
    type=EXISTING_FILE,
    help="Items of your own data: item, name, category_path, provider, brand.",
)
users_option = click.option(
    "--users",
    type=EXISTING_FILE,
    help="Users of your own data: user, and attributes to report groups by; never features.",
)


def reading_options(command: Callable[..., None]) -> Callable[..., None]:
    """What is to be told of files beside their names; the command gets it as `reading`."""

    @click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="NAME=COLUMN",
        help="Which column of your file is NAME, such as user=customer_id or items.name=title; "
        "again for each.",
    )
    @click.option(
        "--columns",
        "document",
        type=EXISTING_FILE,
        help="The same as TOML: tables [interactions], [items], [users] and [kind].",
    )
    @click.option(
        "--kind",
        "kinds",
        multiple=True,
        metavar="KIND=WORD",
        help="What your file calls a purchase, view, click or cart, such as purchase=buy; "
        "leave_out=WORD drops rows.",
    )
    @click.option(
        "--min-rating", type=float, help="Leave out rows whose column 'rating' is below this."
    )
    @click.option(
        "--separator",
        help="What is between columns, such as ';', '::' or tab.  [default: told by the first line]",
    )
    @click.option(
        "--header",
        metavar="NAMES",
        help="Names of the columns of interactions whose first line has none: user,item,rating,time.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        columns: tuple[str, ...],
        document: Path | None,
        kinds: tuple[str, ...],
        min_rating: float | None,
        separator: str | None,
        header: str | None,
        **options: Any,
    ) -> None:
        from training.data.reading import Reading

        reading = Reading.of(columns, document, kinds, separator, header, min_rating)
        command(*args, reading=reading, **options)

    return wrapped


# That of `training.user_groups`, which is too heavy to import for --help; a test compares them.
MIN_USERS = 20
min_users_option = click.option(
    "--min-users",
    type=click.IntRange(1),
    default=MIN_USERS,
    show_default=True,
    help="Of groups of fewer users only the number is told.",
)
cache_option = click.option(
    "--cache",
    type=NEW_FOLDER,
    help="Folder that keeps the prepared data set, to start faster the next time.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of text."
)


def tables_of_source(
    dataset: str | None, interactions: Path | None, cache: Path | None, reading: Reading
) -> Tables:
    """The tables as they are, behind the schema's door."""
    from training.data.prepare import prepare_complete_journey
    from training.data.tables import read_tables

    _one_of(dataset=dataset, interactions=interactions)
    if interactions is not None:
        tables = read_tables(interactions, reading=reading)
        _tell(tables.notes)
        return tables
    _untold(reading)
    return prepare_complete_journey(cache).tables


def prepared_source(
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    items: Path | None,
    users: Path | None,
    cache: Path | None,
    protocol: str | None = None,
    reading: Reading | None = None,
) -> Prepared:
    """The tables cleaned, coded and split; what reading noticed is told on standard error."""
    from training.data.prepare import prepare_complete_journey
    from training.data.reading import Reading

    _one_of(dataset=dataset, interactions=interactions, events=events)
    reading = reading or Reading()
    if dataset is None:
        prepared = _own(interactions, events, items, users, protocol, reading)
        _tell(prepared.tables.notes)
        return prepared
    if protocol is not None:
        raise click.UsageError("--protocol goes with --interactions or --events.")
    if items is not None or users is not None:
        raise click.UsageError("--items and --users go with --interactions or --events.")
    _untold(reading)
    return prepare_complete_journey(cache)


def _own(
    interactions: Path | None,
    events: Path | None,
    items: Path | None,
    users: Path | None,
    protocol: str | None,
    reading: Reading,
) -> Prepared:
    from server.events import SqliteEventStore
    from training.data.prepare import prepare_in_order, prepare_tables
    from training.data.sequences import in_order, read_sequences
    from training.data.stored import tables_of
    from training.data.tables import read_items, read_tables, read_users

    if interactions is not None and not _sequences(interactions, reading):
        ordered = protocol == LEAVE_ONE_OUT
        tables = read_tables(interactions, items, users, replace(reading, in_order=ordered))
        return prepare_in_order(in_order(tables)) if ordered else prepare_tables(tables)
    notes: list[str] = []
    described = read_items(items, reading, notes) if items is not None else None
    people = read_users(users, reading, notes) if users is not None else None
    if interactions is not None:
        if protocol == "time":
            raise click.UsageError(f"{interactions.name} has no times: --protocol {LEAVE_ONE_OUT}.")
        tables = read_sequences(interactions, described, people)
        return prepare_in_order(replace(tables, notes=(*notes, *tables.notes)))
    assert events is not None
    if reading.of_interactions:
        raise click.UsageError("An event store has no columns to be told: only items and users.")
    with SqliteEventStore(events, create=False) as opened:
        tables = tables_of(opened, described, people)
    tables = replace(tables, notes=(*notes, *tables.notes))
    return (
        prepare_in_order(in_order(tables)) if protocol == LEAVE_ONE_OUT else prepare_tables(tables)
    )


def _sequences(interactions: Path, reading: Reading) -> bool:
    return interactions.suffix == SEQUENCES and not reading.of_interactions


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _untold(reading: Reading) -> None:
    if reading.of_anything:
        raise click.UsageError("Columns are told of --interactions, --items and --users.")


def _one_of(**sources: object) -> None:
    if sum(source is not None for source in sources.values()) != 1:
        *first, last = (f"--{name}" for name in sources)
        raise click.UsageError(f"Give one, and only one, of {', '.join(first)} and {last}.")
