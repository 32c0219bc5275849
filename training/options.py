"""The options that several of training's commands share, and what they lead to.

Owns where purchases come from: a data set by name, or a user's own tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from training.data.prepare import Prepared
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
    help="Or your own: a .parquet or .csv table with user, item, time; or a .txt with one user a line: "
    "user item item ..., oldest first.",
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


def tables_of_source(dataset: str | None, interactions: Path | None, cache: Path | None) -> Tables:
    """The tables as they are, behind the schema's door."""
    from training.data.prepare import prepare_complete_journey
    from training.data.tables import read_tables

    _one_of(dataset=dataset, interactions=interactions)
    if interactions is not None:
        return read_tables(interactions)
    return prepare_complete_journey(cache).tables


def prepared_source(
    dataset: str | None,
    interactions: Path | None,
    events: Path | None,
    items: Path | None,
    users: Path | None,
    cache: Path | None,
    protocol: str | None = None,
) -> Prepared:
    """The tables cleaned, coded and split."""
    from server.events import SqliteEventStore
    from training.data.prepare import (
        prepare_complete_journey,
        prepare_files,
        prepare_in_order,
        prepare_tables,
    )
    from training.data.sequences import in_order, read_sequences
    from training.data.stored import tables_of
    from training.data.tables import read_items, read_tables, read_users

    _one_of(dataset=dataset, interactions=interactions, events=events)
    described = read_items(items) if items is not None else None
    people = read_users(users) if users is not None else None
    if interactions is not None and interactions.suffix == SEQUENCES:
        if protocol == "time":
            raise click.UsageError(f"{interactions.name} has no times: --protocol {LEAVE_ONE_OUT}.")
        return prepare_in_order(read_sequences(interactions, described, people))
    if interactions is not None:
        if protocol == LEAVE_ONE_OUT:
            return prepare_in_order(in_order(read_tables(interactions, items, users)))
        return prepare_files(interactions, items, users)
    if events is not None:
        with SqliteEventStore(events, create=False) as opened:
            tables = tables_of(opened, described, people)
        return (
            prepare_in_order(in_order(tables))
            if protocol == LEAVE_ONE_OUT
            else prepare_tables(tables)
        )
    if protocol is not None:
        raise click.UsageError("--protocol goes with --interactions or --events.")
    if items is not None or users is not None:
        raise click.UsageError("--items and --users go with --interactions or --events.")
    return prepare_complete_journey(cache)


def _one_of(**sources: object) -> None:
    if sum(source is not None for source in sources.values()) != 1:
        *first, last = (f"--{name}" for name in sources)
        raise click.UsageError(f"Give one, and only one, of {', '.join(first)} and {last}.")
