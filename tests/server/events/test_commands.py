"""`equipoise events`, and command groups that packages contribute to."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner

from server.commands import parts
from server.commands.events import command
from server.commands.parts import Parts
from server.errors import Refused
from server.events import Event, SqliteEventStore


@pytest.fixture
def path(tmp_path):
    with SqliteEventStore(tmp_path / "events.db") as store:
        store.record([Event(f"e{n}", f"user-{n % 3}", "item", 1 + n % 2, n) for n in range(9)])
    return tmp_path / "events.db"


def run(*arguments, **options):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], **options)


def test_stats_counts_events_and_users_for_machines(path):
    result = run("stats", path, "--check", "--json")
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["events"] == 9
    assert found["users"] == 3
    assert found["events_by_kind"] == {"view": 5, "click": 4}
    assert (found["first_ms"], found["last_ms"], found["damage"]) == (0, 8, None)


def test_stats_of_a_damaged_store_exits_1(path):
    with path.open("r+b") as file:
        for page in range(2, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xa5" * 64)
    result = run("stats", path, "--check")
    assert result.exit_code == 1
    assert "is damaged" in result.output


def test_erase_asks_and_prints_how_many(path):
    result = run("erase", path, "user-1", input="y\n")
    assert "Erase 3 events of user 'user-1'" in result.output
    assert "erased 3 events of user 'user-1'" in result.output
    with SqliteEventStore(path) as store:
        assert store.stats().users == 2


def test_erase_without_consent_erases_nothing(path):
    result = run("erase", path, "user-1", input="n\n")
    assert result.exit_code == 1
    with SqliteEventStore(path) as store:
        assert len(store.history("user-1")) == 3


def test_erase_with_yes_does_not_ask_and_may_be_repeated(path):
    assert run("erase", path, "user-1", "--yes").output == "erased 3 events of user 'user-1'\n"
    again = run("erase", path, "user-1", "--yes")
    assert (again.exit_code, again.output) == (0, "erased 0 events of user 'user-1'\n")


def test_a_file_that_is_missing_is_refused_and_not_made(tmp_path):
    result = run("erase", tmp_path / "none.db", "user-1", "--yes")
    assert isinstance(result.exception, Refused)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["stats", "erase", "load"])
def test_each_help_has_an_example(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"equipoise events {name} " in result.output


def test_a_mistyped_command_names_the_near_one_of_its_own_and_of_the_contributed(path):
    assert "Did you mean 'erase'?" in run("erese", path).output
    assert "Did you mean 'load'?" in run("loda", path).output


@pytest.fixture
def group(monkeypatch, tmp_path):
    (tmp_path / "needs_absent.py").write_text("import a_package_that_is_absent\n")
    (tmp_path / "lazy_absent.py").write_text(
        "import click\n@click.command('late')\ndef late():\n    import a_package_that_is_absent\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("early", "needs_absent:early [bench]", "test.group"),
        EntryPoint("late", "lazy_absent:late [training]", "test.group"),
    ]
    monkeypatch.setattr(parts, "entry_points", lambda group: points)

    @click.group(cls=Parts, entry_points="outer")
    def outer(): ...

    outer._points = dict
    outer.add_command(click.group("inner", cls=Parts, entry_points="test.group")(lambda: None))
    return outer


@pytest.mark.parametrize(("name", "extra"), [("early", "bench"), ("late", "training")])
def test_a_nested_command_whose_package_is_absent_names_its_path_and_extra(group, name, extra):
    result = CliRunner().invoke(group, ["inner", name], prog_name="equipoise")
    assert result.exit_code == 2
    assert f"'equipoise inner {name}' needs the package 'a_package_that_is_absent'" in result.output
    assert f"pip install '.[{extra}]'" in result.output


def test_the_help_lists_commands_that_cannot_be_imported(group):
    result = CliRunner().invoke(group, ["inner", "--help"])
    assert result.exit_code == 0
    assert "pip install '.[bench]'" in result.output
    with_options = CliRunner().invoke(group, ["inner", "early", "--any", "x"], prog_name="e")
    assert with_options.exit_code == 2
    assert "pip install '.[bench]'" in with_options.output


def test_a_profile_is_told_in_the_bundles_words(bundle_path, tmp_path):
    path = tmp_path / "events.db"
    with SqliteEventStore(path) as store:
        day = 86_400_000
        store.record([Event(f"e{n}", "ann", "item-006", 4, n * 7 * day) for n in range(3)])
        store.record([Event("other", "ann", "item-001", 4, 14 * day)])
    arguments = ["profile", str(path), "ann", "--bundle", str(bundle_path)]
    told = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).output)
    assert told["trips"] == 3
    assert told["days_between_trips"] == 7
    assert told["distinct_items"] == 2
    assert told["favourites"] == ["Item number 6", "Item number 1"]
    assert next(iter(told["categories"])) == "category 0"
    text = CliRunner().invoke(command, arguments).output
    assert "Item number 6" in text
    stranger = CliRunner().invoke(command, [*arguments[:2], "bob", *arguments[3:]])
    assert (stranger.exit_code, "no events" in stranger.output) == (0, True)
