"""Requests of real histories: whose they are, what they bring, and which groups they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench.load.command import load
from bench.load.requests import read_requests
from bench.refused import InputRefused
from server.events import Event, EventKind, SqliteEventStore

USERS = 40


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    events = [
        Event(
            f"e-{user}-{n}", user_id=f"u{user}", item_id=f"i{n % 7}", time_ms=1_000 + 10 * n,
            kind=EventKind.VIEW if n % 3 == 2 else EventKind.PURCHASE,
        )
        for user in range(USERS)
        for n in range(user % 9 + 1)
    ]  # fmt: skip
    events.append(Event("v", user_id="looks", item_id="i1", time_ms=9_999, kind=EventKind.VIEW))
    with SqliteEventStore(path) as opened:
        opened.record(events)
    return path


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(load, ["sample", *map(str, arguments)])


def test_each_request_brings_the_purchases_of_somebody(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    result = call("--events", store, "--n", USERS, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{USERS} requests of {USERS} users" in result.output
    requests = read_requests(out)
    # Everybody once; who only looked bought nothing.
    wanted = sorted(sum(n % 3 != 2 for n in range(user % 9 + 1)) for user in range(USERS))
    assert sorted(len(request.history) for request in requests) == wanted
    assert {request.user_id for request in requests} == {""}
    assert {request.as_of_unix_ms for request in requests} == {10_000}
    again = tmp_path / "again.jsonl"
    call("--events", store, "--n", USERS, "--out", again)
    assert again.read_bytes() == out.read_bytes()
    call("--events", store, "--n", USERS, "--seed", 2, "--out", again)
    assert again.read_bytes() != out.read_bytes()


def test_groups_come_along_and_their_mix_is_told(store: Path, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text(
        "user,income\n" + "".join(f"u{n},{'low' if n < 10 else 'high'}\n" for n in range(USERS - 4))
    )
    out = tmp_path / "r.jsonl"
    result = call(
        "--events", store, "--users", tmp_path / "users.csv", "--by-id", "--n", 200, "--out", out
    )
    assert result.exit_code == 0, result.output
    requests = read_requests(out)
    for request in requests:
        number = int(request.user_id.removeprefix("u"))
        wanted = {} if number >= USERS - 4 else {"income": "low" if number < 10 else "high"}
        assert request.groups == wanted
        assert not request.history
    here = sum(request.groups.get("income") == "low" for request in requests) / 200
    assert f"low 25.0% ({here:.1%})" in result.output
    assert "unknown 10.0%" in result.output
    # Groups are never sent.
    assert b"low" not in requests[0].message("r").SerializeToString()


@pytest.mark.parametrize(
    ("content", "told"),
    [("name,income\n1,low\n", "no column 'user'; there are: name, income"), ("", "cannot be read")],
)
def test_a_file_of_groups_that_makes_no_sense_is_refused(
    content: str, told: str, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "users.csv").write_text(content)
    out = tmp_path / "r.jsonl"
    result = call("--events", store, "--users", tmp_path / "users.csv", "--out", out)
    assert told in str(result.exception or result.output)
    assert not out.exists()


def test_a_store_without_purchases_is_refused(tmp_path: Path) -> None:
    with SqliteEventStore(tmp_path / "empty.db"):
        pass
    result = call("--events", tmp_path / "empty.db", "--out", tmp_path / "r.jsonl")
    assert "holds no purchase" in str(result.exception)


def test_a_scenario_and_flags_that_say_the_same_are_refused(tmp_path: Path) -> None:
    scenario = tmp_path / "s.toml"
    scenario.write_text('schema_version = 1\nname = "s"\n[[stage]]\nrate_rps = 5\nduration_s = 1\n')
    for flags, told in (
        (["--scenario", scenario, "--rate", 5], "--rate stands in the scenario"),
        (["--scenario", scenario, "--duration", 5], "--duration stands in the scenario"),
        (["--rate", 5, "--users", 5], "--rate and --users exclude each other"),
    ):
        result = CliRunner().invoke(load, [*map(str, flags), "--out", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert told in result.output
    assert CliRunner().invoke(load, []).exit_code == 2


def test_flags_that_ask_for_too_much_are_refused_in_words(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        load, ["--rate", "1000000", "--duration", "60", "--out", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, InputRefused)
    assert "asks for some 60,000,000 requests, allowed: 5,000,000" in str(result.exception)
