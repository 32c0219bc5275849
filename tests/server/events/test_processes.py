"""Several processes on one store: kill -9, a full disk, and who sees what."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from server.events import Event, HistoryCache, SqliteEventStore
from server.events.schema import _make

pytestmark = pytest.mark.slow

PREAMBLE = """
import resource, sys
from pathlib import Path
from server.errors import EventStoreUnavailable
from server.events import Event, HistoryCache, SqliteEventStore
path = Path(sys.argv[1])
def event(number, user="ann", size=1):
    return Event(f"e{number}", user, "i" * size, 4, number)
def say(*words):
    print(*words, flush=True)
"""

# Record batches for ever: each id is printed only after its commit was acknowledged. Ids start
# before the last acknowledged one, so that every round also sends duplicates.
WRITER = """
store = SqliteEventStore(path)
number = int(sys.argv[2])
while True:
    batch = [event(n) for n in range(number, number + 3)]
    store.record(batch)
    say(number + 2)
    number += 2
"""

# A lowered file size limit is a full disk: writes fail with EFBIG in the middle of a commit.
FULL_DISK = """
store = SqliteEventStore(path)
store.record([event(1)])
log = path.with_name(path.name + "-wal")
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 20_000, hard))
failed = 0
for start in (2, 2):
    try:
        store.record([event(n, size=200) for n in range(start, 1_000)])
    except EventStoreUnavailable as error:
        assert "nothing is recorded" in str(error), error
        failed += 1
    assert len(store.history("ann")) == 1
cache = HistoryCache(store, len, max_users=10)
say("failed", failed, "read", cache.get("ann"))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
say("recorded", store.record([event(n, size=200) for n in range(2, 1_000)]).recorded)
say("read", cache.get("ann"), store.damage())
"""

# One line in, one answer out.
SERVANT = """
store = SqliteEventStore(path)
cache = HistoryCache(store, lambda history: history.item_ids, max_users=10)
for line in sys.stdin:
    verb, user, number = line.split()
    if verb == "get":
        say(len(cache.get(user)))
    elif verb == "record":
        say(store.record([event(int(number), user)]).recorded)
    else:
        say(store.erase(user))
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def servant(path):
    process = start(SERVANT, path)

    def ask(verb, user, number=0):
        process.stdin.write(f"{verb} {user} {number}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    with process:
        yield ask
        process.stdin.close()


def test_every_acknowledged_event_survives_kill_9_and_none_is_there_twice(tmp_path):
    path = tmp_path / "events.db"
    chance = random.Random(11)
    acknowledged = 0
    for _ in range(12):
        # Killed after a random number of acknowledgements, so somewhere in the next commits.
        with start(WRITER, path, acknowledged) as process:
            for _ in range(chance.randrange(1, 40)):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in process.stdout)])
        assert process.returncode == -signal.SIGKILL
        with SqliteEventStore(path, create=False) as store:
            times = store.history("ann").times_ms.tolist()
            assert times[: acknowledged + 1] == list(range(acknowledged + 1))
            assert times == list(range(len(times)))  # no duplicate, no half batch in between
            assert store.damage() is None
    assert acknowledged > 12


def test_a_full_disk_fails_the_write_alone_and_is_forgotten_when_there_is_room(tmp_path):
    with start(FULL_DISK, tmp_path / "events.db") as process:
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert lines == ["failed 2 read 1", "recorded 998", "read 999 None"]


def test_a_write_of_one_process_is_in_the_next_get_of_the_other_ones_cache(tmp_path):
    path = tmp_path / "events.db"
    with SqliteEventStore(path) as store, servant(path) as ask:
        cache = HistoryCache(store, lambda history: history.item_ids, max_users=10)
        for number in range(1, 20):
            assert store.record([Event(f"ours-{number}", "ann", "i", 4, number)]).recorded == 1
            assert ask("get", "ann") == 2 * number - 1
            assert ask("record", "ann", number) == 1
            assert len(cache.get("ann")) == 2 * number
        assert ask("erase", "ann") == 38
        assert cache.get("ann") == ()
        assert len(cache) == 0
        # Back again: the new history must not be taken for the old one.
        assert ask("record", "ann", 1) == 1
        assert len(cache.get("ann")) == 1


def test_a_duplicate_from_another_process_is_ignored(tmp_path):
    path = tmp_path / "events.db"
    with SqliteEventStore(path) as store, servant(path) as ask:
        assert ask("record", "ann", 7) == 1
        assert store.record([Event("e7", "ann", "i", 4, 7)]).duplicates == 1
        assert ask("record", "ann", 7) == 0
        assert ask("get", "ann") == 1


def test_the_second_of_two_processes_that_make_a_store_keeps_the_first_ones(tmp_path):
    path = tmp_path / "events.db"
    with SqliteEventStore(path) as store:
        store.record([Event("e1", "ann", "i", 4, 1)])
    _make(path)  # what a process does that saw no file a moment earlier
    with SqliteEventStore(path) as store:
        assert store.stats().events == 1


def test_processes_that_make_one_store_at_once_share_it(tmp_path):
    path = tmp_path / "events.db"
    code = "store = SqliteEventStore(path)\nsay(store.record([event(1, sys.argv[2])]).recorded)\n"
    processes = [start(code, path, f"user-{number}") for number in range(4)]
    answers = [process.communicate()[0].strip() for process in processes]
    assert answers == ["1"] * 4
    with SqliteEventStore(path) as store:
        assert store.stats().events == store.stats().users == 4
    assert os.listdir(tmp_path) == ["events.db"]
