"""The ledger on real files: processes, kill -9, full disks, and commits of unknown outcome."""

from __future__ import annotations

import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.errors import ExposuresUnavailable, Refused
from server.events import SqliteEventStore
from server.exposures import ExposureLedger
from server.exposures.ledger import SCHEMA_VERSION
from server.fairness.amortise import accumulate
from server.fairness.metrics import discounts

LABELS = ["large", "small"]
WEIGHTS = discounts(4)


def rows(*groups: int) -> np.ndarray:
    return np.array(groups, np.int32)


def counted(*lists: np.ndarray, n_groups: int = 2) -> list[float]:
    """What one worker has that served these lists."""
    exposure = np.zeros(n_groups)
    for groups in lists:
        accumulate(exposure, groups, WEIGHTS)
    return exposure.tolist()


class Wrapped:
    """A connection whose COMMIT fails, either before it is done or, worse, after."""

    def __init__(self, connection: sqlite3.Connection, fail: str) -> None:
        self._connection = connection
        self._fail = fail

    def __getattr__(self, name: str):
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments):
        if statement == "COMMIT" and self._fail == "before":
            raise sqlite3.OperationalError("disk I/O error")
        cursor = self._connection.execute(statement, *arguments)
        if statement == "COMMIT":
            raise sqlite3.OperationalError("disk I/O error")
        return cursor


def break_commit(ledger: ExposureLedger, fail: str) -> None:
    ledger._connection = Wrapped(ledger._usable(), fail)


def test_a_restart_has_the_same_totals_to_the_bit(tmp_path):
    lists = [rows(0, 0, 1), rows(1), rows(1, 0, 1, 1)]
    with ExposureLedger(tmp_path / "exposures.db") as ledger:
        account = ledger.account("digest", LABELS)
        for groups in lists:
            account.charge(groups, WEIGHTS)
        before = account.totals().tolist()
    with ExposureLedger(tmp_path / "exposures.db") as ledger:
        account = ledger.account("digest", LABELS)
        assert account.totals().tolist() == before == counted(*lists)
        assert account.lists == 3
        assert ledger.account("another", LABELS).totals().tolist() == [0, 0]


def test_a_new_numbering_goes_on_with_the_history_and_shares_it_with_the_old(tmp_path):
    with ExposureLedger(tmp_path / "exposures.db") as ledger:
        ledger.account("digest", LABELS).charge(rows(0, 1), WEIGHTS)
    with ExposureLedger(tmp_path / "exposures.db") as ledger:
        old = ledger.account("digest", LABELS)
        new = ledger.account("digest", ["new", "small", "large"])
        assert new.totals().tolist() == [0, *reversed(counted(rows(0, 1)))]
        new.charge(rows(2, 0), WEIGHTS)  # seen at once by the other, before any flush
        assert old.totals().tolist() == counted(rows(0, 1), rows(0))
        ledger.flush()
        assert new.totals()[[2, 1]].tolist() == old.totals().tolist()
        assert old.totals().tolist() == counted(rows(0, 1), rows(0))


@pytest.mark.parametrize("groups", [rows(0, 2), rows(-1), rows(0, 0, 0, 0, 0)])
def test_a_list_that_does_not_fit_is_refused_and_not_counted(groups):
    with ExposureLedger(None) as ledger:
        account = ledger.account("digest", LABELS)
        with pytest.raises(IndexError):
            account.charge(groups, WEIGHTS)
        assert (account.totals().tolist(), account.lists) == ([0, 0], 0)


def test_without_a_path_it_counts_in_memory_and_asks_for_no_flush():
    with ExposureLedger(None) as ledger:
        account = ledger.account("digest", LABELS)
        account.charge(rows(1, 0), WEIGHTS)
        assert not ledger.due(0)
        assert not ledger.due(1e9)
        ledger.flush()
        assert account.totals().tolist() == counted(rows(1, 0))


def test_a_flush_is_due_once_in_every_period(tmp_path):
    with ExposureLedger(tmp_path / "exposures.db", flush_every_s=5) as ledger:
        asked = [second for second in range(100, 118) if ledger.due(second)]
    assert asked == [105, 110, 115]
    assert not ledger.due(1_000)


def test_two_ledgers_on_one_file_see_each_other_at_their_flushes(tmp_path):
    path = tmp_path / "exposures.db"
    with ExposureLedger(path) as one, ExposureLedger(path) as two:
        ours, theirs = one.account("digest", LABELS), two.account("digest", LABELS[::-1])
        ours.charge(rows(0), WEIGHTS)
        theirs.charge(rows(0), WEIGHTS)
        one.flush()
        assert (ours.totals().tolist(), theirs.totals().tolist()) == ([1, 0], [1, 0])
        two.flush()
        assert theirs.totals().tolist() == [1, 1]
        one.flush()  # sends nothing, and learns
        assert ours.totals().tolist() == [1, 1]
        assert (ours.lists, theirs.lists) == (2, 2)


@pytest.mark.parametrize("fail", ["before", "after"])
def test_a_commit_of_unknown_outcome_is_neither_lost_nor_counted_twice(tmp_path, fail):
    path = tmp_path / "exposures.db"
    ledger = ExposureLedger(path)
    account = ledger.account("digest", LABELS)
    account.charge(rows(0, 1), WEIGHTS)
    for _ in range(2):
        break_commit(ledger, fail)
        with pytest.raises(ExposuresUnavailable, match="stay counted in memory"):
            ledger.flush()
        account.charge(rows(1), WEIGHTS)
    want = counted(rows(0, 1), rows(1), rows(1))
    assert account.totals().tolist() == want
    assert ledger.account("digest", LABELS).totals().tolist() == want
    ledger.flush()
    assert (account.totals().tolist(), account.lists) == (want, 3)
    ledger.close()
    with ExposureLedger(path) as again:
        assert again.account("digest", LABELS).totals().tolist() == want
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM writers").fetchone() == (0,)


def test_a_file_that_may_not_be_written_fails_the_flush_and_keeps_the_sums(tmp_path):
    with ExposureLedger(tmp_path / "exposures.db") as ledger:
        account = ledger.account("digest", LABELS)
        account.charge(rows(0), WEIGHTS)
        ledger._usable().execute("PRAGMA query_only = ON")
        with pytest.raises(ExposuresUnavailable, match="not saved: its file may not be written"):
            ledger.flush()
        assert account.totals().tolist() == [1, 0]
        ledger.flush()
        assert account.totals().tolist() == [1, 0]


def test_a_file_that_another_process_keeps_locked_fails_the_flush_and_keeps_the_sums(tmp_path):
    path = tmp_path / "exposures.db"
    with ExposureLedger(path, busy_timeout_ms=20) as ledger:
        account = ledger.account("digest", LABELS)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            account.charge(rows(0), WEIGHTS)
            with pytest.raises(ExposuresUnavailable, match="another process keeps it locked"):
                ledger.flush()
            assert account.totals().tolist() == [1, 0]
    with ExposureLedger(path) as ledger:
        assert ledger.account("digest", LABELS).totals().tolist() == [1, 0]


def test_closing_says_that_the_last_flush_failed_and_closes_all_the_same(tmp_path):
    ledger = ExposureLedger(tmp_path / "exposures.db")
    account = ledger.account("digest", LABELS)
    account.charge(rows(0), WEIGHTS)
    break_commit(ledger, "before")
    with pytest.raises(ExposuresUnavailable):
        ledger.close()
    ledger.close()
    account.charge(rows(0), WEIGHTS)  # a list that was on its way
    assert account.totals().tolist() == [2, 0]
    with pytest.raises(ExposuresUnavailable, match="closed"):
        ledger.flush()


def test_what_is_no_ledger_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "text.db"
    text.write_text("not a database, though long enough to hold a header " * 9)
    with SqliteEventStore(tmp_path / "events.db"):
        pass
    ExposureLedger(tmp_path / "newer.db").close()
    with closing(sqlite3.connect(tmp_path / "newer.db")) as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name, why in {
        "text.db": "is not an SQLite file, so it is no exposure ledger",
        "events.db": "of another program, so it is no exposure ledger",
        "newer.db": f"schema version {SCHEMA_VERSION + 1}, allowed: {SCHEMA_VERSION}; upgrade",
        "missing/exposures.db": "needs a folder that you may write to",
        ".": "is not a file",
    }.items():
        with pytest.raises(Refused, match=why) as refusal:
            ExposureLedger(tmp_path / name)
        assert str(refusal.value).startswith(f"exposure ledger {tmp_path / name}: ")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_files_are_for_their_owner_only_and_commits_are_full(tmp_path):
    with ExposureLedger(tmp_path / "exposures.db") as ledger:
        ledger.account("digest", LABELS).charge(rows(0), WEIGHTS)
        ledger.flush()
        modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        assert ledger._usable().execute("PRAGMA synchronous").fetchone() == (2,)
    assert modes == {0o600}
    assert [file.name for file in tmp_path.iterdir()] == ["exposures.db"]


def test_threads_charge_while_others_flush_and_nothing_is_lost(tmp_path):
    path, failures, stop = tmp_path / "exposures.db", [], threading.Event()

    def charge(account) -> None:
        try:
            for _ in range(3_000):
                account.charge(rows(0, 1), WEIGHTS)
        except BaseException as error:
            failures.append(error)

    def flush(ledger: ExposureLedger) -> None:
        try:
            last = 0.0
            while not stop.is_set():
                ledger.flush()
                total = float(ledger.account("digest", LABELS).totals()[0])
                assert total >= last
                last = total
        except BaseException as error:
            failures.append(error)

    with ExposureLedger(path) as one, ExposureLedger(path) as two:
        flushers = [threading.Thread(target=flush, args=(ledger,)) for ledger in (one, two)]
        chargers = [
            threading.Thread(target=charge, args=(ledger.account("digest", LABELS),))
            for ledger in (one, one, two)
        ]
        for thread in (*flushers, *chargers):
            thread.start()
        for thread in chargers:
            thread.join()
        stop.set()
        for thread in flushers:
            thread.join()
    assert failures == []
    with ExposureLedger(path) as ledger:
        account = ledger.account("digest", LABELS)
        assert account.lists == 9_000
        assert account.totals().tolist() == [9_000 * value for value in counted(rows(0, 1))]


class Ledgers(RuleBasedStateMachine):
    """Ledgers come, flush, fail and crash on one file; a dictionary knows what each must see."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "exposures.db"
        self.durable = np.zeros(3)
        self.ledgers: list[ExposureLedger] = []
        self.accounts: list = []
        self.pending: list[np.ndarray] = []
        self.seen: list[np.ndarray] = []
        self.orders: list[list[int]] = []
        self.unknown: list[str] = []  # how the last flush failed
        self.open_one(order=[0, 1, 2])

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for ledger in self.ledgers:
                ledger._discard()
            self.folder.cleanup()

    @rule(order=st.permutations([0, 1, 2]))
    def open_one(self, order: list[int]) -> None:
        if len(self.ledgers) == 3:
            return
        ledger = ExposureLedger(self.path)
        self.ledgers.append(ledger)
        self.accounts.append(ledger.account("digest", [f"group-{group}" for group in order]))
        self.pending.append(np.zeros(3))
        self.seen.append(self.durable.copy())
        self.orders.append(order)
        self.unknown.append("")

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.ledgers) - 1))

    @rule(data=st.data(), groups=st.lists(st.integers(0, 2), max_size=4))
    def charge(self, data: st.DataObject, groups: list[int]) -> None:
        if self.ledgers:
            at = self.pick(data)
            inverse = [self.orders[at].index(group) for group in groups]
            self.accounts[at].charge(rows(*inverse), WEIGHTS)
            accumulate(self.pending[at], rows(*groups), WEIGHTS)

    @rule(data=st.data())
    def flush(self, data: st.DataObject) -> None:
        if self.ledgers:
            at = self.pick(data)
            self.ledgers[at].flush()
            self.durable += self.pending[at]
            self.pending[at] = np.zeros(3)
            self.seen[at] = self.durable.copy()
            self.unknown[at] = ""

    @rule(data=st.data(), fail=st.sampled_from(["before", "after"]))
    def fail_to_flush(self, data: st.DataObject, fail: str) -> None:
        if self.ledgers:
            at = self.pick(data)
            break_commit(self.ledgers[at], fail)
            if (
                self.unknown[at] == "after"
            ):  # it finds out, and reads the file, before it fails again
                self.seen[at] = self.durable.copy()
            try:
                self.ledgers[at].flush()
            except ExposuresUnavailable:
                self.unknown[at] = fail
                if fail == "after":  # for all others it is in the file
                    self.durable += self.pending[at]
                    self.seen[at] = self.seen[at] + self.pending[at]
                    self.pending[at] = np.zeros(3)
            else:
                self.seen[at] = self.durable.copy()  # there was nothing to commit
            self.ledgers[at]._discard()

    @rule(data=st.data(), politely=st.booleans())
    def leave(self, data: st.DataObject, politely: bool) -> None:
        if self.ledgers:
            at = self.pick(data)
            if politely:
                self.ledgers[at].close()
                self.durable += self.pending[at]
            else:
                self.ledgers[at]._discard()  # a crash: what was not flushed is lost, and no more
            for column in (
                self.ledgers, self.accounts, self.pending, self.seen, self.orders, self.unknown,
            ):  # fmt: skip
                del column[at]

    @invariant()
    def each_sees_what_it_must(self) -> None:
        for at, account in enumerate(self.accounts):
            want = self.seen[at] + self.pending[at]
            got = dict(zip(self.orders[at], account.totals().tolist(), strict=True))
            assert [got[group] for group in range(3)] == want.tolist()

    @invariant()
    def the_file_holds_what_was_flushed(self) -> None:
        if hasattr(self, "path"):
            with closing(sqlite3.connect(self.path)) as connection:
                stored = dict(connection.execute("SELECT group_label, amount FROM exposure"))
            assert [stored.get(f"group-{g}", 0.0) for g in range(3)] == self.durable.tolist()


TestLedgers = Ledgers.TestCase
TestLedgers.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


# Processes

PREAMBLE = """
import resource, sys
from pathlib import Path
import numpy as np
from server.errors import ExposuresUnavailable
from server.exposures import ExposureLedger
from server.fairness.metrics import discounts
path, count = Path(sys.argv[1]), int(sys.argv[2])
groups, weights = np.array([0, 0, 1], np.int32), discounts(3)
ledger = ExposureLedger(path)
account = ledger.account("digest", ["large", "small"])
def say(*words):
    print(*words, flush=True)
"""

SHARER = """
say("ready")
sys.stdin.readline()
for number in range(count):
    account.charge(groups, weights)
    if number % 7 == 0:
        ledger.flush()
ledger.close()
"""

# Charge and flush for ever: a number is printed only after its flush was acknowledged.
ENDLESS = """
while True:
    for _ in range(count):
        account.charge(groups, weights)
    ledger.flush()
    say(account.lists)
"""

# A lowered file size limit is a full disk: writes fail with EFBIG in the middle of a commit.
FULL_DISK = """
labels = [f"{number}-{'x' * 200}" for number in range(count)]
many = ledger.account("digest", labels)
everyone = np.arange(count, dtype=np.int32)
many.charge(everyone, np.ones(count))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
log = path.with_name(path.name + "-wal")
resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 20_000, hard))
failed = 0
for _ in range(2):
    try:
        ledger.flush()
    except ExposuresUnavailable as error:
        assert "not saved: the disk" in str(error), error
        failed += 1
    many.charge(everyone, np.ones(count))
say("failed", failed, "counted", many.totals().sum())
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
ledger.flush()
say("counted", many.totals().sum(), many.lists)
ledger.close()
"""


def start(code: str, path: Path, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, str(path), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def in_file(path: Path) -> tuple[int, list[float]]:
    with ExposureLedger(path) as ledger:
        account = ledger.account("digest", LABELS)
        return account.lists, account.totals().tolist()


@pytest.mark.slow
def test_two_processes_add_to_one_file_at_once_and_nothing_is_lost(tmp_path):
    path = tmp_path / "exposures.db"
    processes = [start(SHARER, path, 400) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert in_file(path) == (800, [800 * value for value in counted(rows(0, 0, 1))])


@pytest.mark.slow
def test_kill_9_loses_at_most_what_was_not_flushed_and_never_half_a_flush(tmp_path):
    path = tmp_path / "exposures.db"
    chance = random.Random(3)
    acknowledged = 0
    for _ in range(4):
        with start(ENDLESS, path, 5) as process:
            for _ in range(chance.randrange(1, 40)):
                acknowledged = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            acknowledged = max([acknowledged, *(int(line) for line in process.stdout)])
        assert process.returncode == -signal.SIGKILL
        lists, totals = in_file(path)
        assert lists in {acknowledged, acknowledged + 5}
        assert totals == [lists * value for value in counted(rows(0, 0, 1))]
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        acknowledged = lists


@pytest.mark.slow
def test_a_full_disk_fails_the_flush_alone_and_is_forgotten_when_there_is_room(tmp_path):
    with start(FULL_DISK, tmp_path / "exposures.db", 400) as process:
        lines = process.stdout.read().splitlines()
    assert process.returncode == 0
    assert lines == ["failed 2 counted 1200.0", "counted 1200.0 3"]
