"""The database on a real disk: killed, damaged, full, foreign."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ipam.core.effects import HistoryEvent, Persist, PersistedAddress, Saved
from ipam.shell.store import MAX_HISTORY, SCHEMA_VERSION, Store, StoreError
from weavepy.base.names import PeerName

NAME = PeerName("02:00:00:00:00:01")
ROW = PersistedAddress(2**127 + 5, "abc", 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "weavepy.db"


def test_an_empty_store_has_nothing_saved(path: Path) -> None:
    store = Store.open(path, NAME)
    assert store.load() is None
    assert store.warning == ""
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()


def test_what_was_persisted_is_there_after_reopening(path: Path) -> None:
    store = Store.open(path, NAME)
    store.persist(Persist(b"ring", (ROW, PersistedAddress(7, "def", 24)), ()))
    store.persist(Persist(None, (PersistedAddress(8, "ghi", 24, freed_at=4.0),), (7,)))
    store.close()
    store = Store.open(path, NAME)
    cooling = PersistedAddress(8, "ghi", 24, freed_at=0.0)
    assert store.load() == Saved(b"ring", (cooling, ROW))
    store.close()


def test_what_was_persisted_survives_a_kill(path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from ipam.core.effects import Persist, PersistedAddress\n"
        "from ipam.shell.store import Store\n"
        f"store = Store.open(Path(sys.argv[1]), '{NAME}')\n"
        "for number in range(20):\n"
        "    row = PersistedAddress(number, 'abc', 24)\n"
        "    store.persist(Persist(b'ring %d' % number, (row,), ()))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    store = Store.open(path, NAME)
    saved = store.load()
    assert saved is not None
    assert saved.ring == b"ring 19"
    assert [row.address for row in saved.addresses] == list(range(20))
    store.close()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, 0.999])
def test_a_torn_log_loses_only_its_end_and_no_transaction_by_half(
    path: Path, tmp_path: Path, kept: float
) -> None:
    store = Store.open(path, NAME)
    for number in range(10):
        row = PersistedAddress(number, "abc", 24)
        store.persist(Persist(b"ring %d" % number, (row,), ()))
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    wal = path.with_name(path.name + "-wal").read_bytes()
    copy.with_name("copy.db-wal").write_bytes(wal[: int(len(wal) * kept)])
    store.close()
    torn = Store.open(copy, NAME)
    saved = torn.load()
    count = len(saved.addresses) if saved else 0
    if saved is not None:
        assert saved.ring == b"ring %d" % (count - 1)
    torn.close()


@pytest.mark.parametrize("damage", [b"not a database at all, but long enough" * 100, b"SQL"])
def test_a_damaged_file_is_moved_aside_with_a_warning(path: Path, damage: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(damage)
    store = Store.open(path, NAME)
    assert store.load() is None
    assert "learnt anew" in store.warning
    assert path.with_name("weavepy.db.damaged-1").read_bytes() == damage
    store.persist(Persist(b"ring", (), ()))
    store.close()


def test_a_flipped_byte_in_the_ring_is_found(path: Path) -> None:
    store = Store.open(path, NAME)
    store.persist(Persist(b"the whole ring", (), ()))
    store.close()
    content = path.read_bytes()
    assert b"the whole ring" in content
    path.write_bytes(content.replace(b"the whole ring", b"the whole rong"))
    store = Store.open(path, NAME)
    assert "checksum" in store.warning
    assert store.load() is None
    store.close()


def test_any_page_of_zeros_is_found_or_harmless(path: Path) -> None:
    store = Store.open(path, NAME)
    store.persist(Persist(b"r" * 20_000, (ROW,), ()))
    store.close()
    content = path.read_bytes()
    for at in range(0, len(content), 4096):
        path.write_bytes(content[:at] + bytes(4096) + content[at + 4096 :])
        store = Store.open(path, NAME)
        assert store.load() in (None, Saved(b"r" * 20_000, (ROW,)))
        assert store.load() is not None or store.warning
        store.close()


def test_the_database_of_another_peer_is_refused_and_left_alone(path: Path) -> None:
    Store.open(path, NAME).close()
    other = PeerName("02:00:00:00:00:02")
    with pytest.raises(StoreError, match=f"belongs to peer {NAME}"):
        Store.open(path, other)
    Store.open(path, NAME).close()


def test_a_database_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    Store.open(path, NAME).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(StoreError, match="newer weavepy"):
        Store.open(path, NAME)
    assert list(path.parent.glob("*damaged*")) == []


def test_a_second_router_is_kept_out(path: Path) -> None:
    store = Store.open(path, NAME)
    with pytest.raises(StoreError, match="another router"):
        Store.open(path, NAME)
    store.persist(Persist(b"ring", (), ()))
    store.close()


def test_a_full_disk_fails_the_write_whole_and_space_cures_it(path: Path) -> None:
    store = Store.open(path, NAME)
    store.persist(Persist(b"before", (), ()))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        with pytest.raises(StoreError, match="disk"):
            store.persist(Persist(b"x" * 200_000, (ROW,), ()))
        assert store.load() == Saved(b"before", ())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    store.persist(Persist(b"x" * 200_000, (ROW,), ()))
    store.close()
    store = Store.open(path, NAME)
    assert store.load() == Saved(b"x" * 200_000, (ROW,))
    store.close()


def test_a_state_directory_that_is_no_directory_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StoreError, match="cannot open the database"):
        Store.open(tmp_path / "state" / "weavepy.db", NAME)
    assert os.listdir(tmp_path) == ["state"]


_VERSION_1 = """
CREATE TABLE peer (only INTEGER PRIMARY KEY CHECK (only = 1), name TEXT NOT NULL) STRICT;
CREATE TABLE ring (
    only INTEGER PRIMARY KEY CHECK (only = 1), data BLOB NOT NULL, checksum BLOB NOT NULL
) STRICT;
CREATE TABLE address (
    address TEXT PRIMARY KEY, owner TEXT NOT NULL, prefix_length INTEGER NOT NULL,
    cooling INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO peer VALUES (1, '02:00:00:00:00:01');
INSERT INTO address VALUES ('7', '/run/netns/web', 24, 0), ('8', 'backup', 24, 0),
    ('9', '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef', 24, 0),
    ('10', 'weave:expose', 24, 1);
PRAGMA user_version = 1;
"""


def test_a_database_of_version_1_is_taken_over(path: Path) -> None:
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    database.executescript(_VERSION_1)
    database.close()
    store = Store.open(path, NAME)
    saved = store.load()
    assert store.warning == ""
    assert saved is not None
    kinds = {row.address: row.kind for row in saved.addresses}
    assert kinds == {7: "attachment", 8: "manual", 9: "attachment", 10: "attachment"}
    store.persist(Persist(b"ring", (ROW,), ()))
    store.close()


def test_a_version_1_that_lacks_a_table_is_moved_aside(path: Path) -> None:
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    database.executescript("CREATE TABLE other (x); PRAGMA user_version = 1;")
    database.close()
    store = Store.open(path, NAME)
    assert "was damaged" in store.warning
    store.close()


def test_since_is_when_the_owner_got_the_address(path: Path) -> None:
    store = Store.open(path, NAME)
    row = PersistedAddress(7, "web", 24)
    store.persist(Persist(None, (row,), ()))
    first = store.since()[7]
    assert first > 0
    store.persist(Persist(None, (PersistedAddress(7, "web", 16),), ()))
    assert store.since() == {7: first}
    store.persist(Persist(None, (PersistedAddress(7, "web", 24, freed_at=1.0),), ()))
    assert store.since() == {}
    store.persist(Persist(None, (row,), ()))
    assert store.since()[7] > first
    store.close()


def test_only_what_outlives_the_machine_is_synced(path: Path) -> None:
    """An attachment ends with the machine; a ring and what an operator claimed do not."""
    attachment = PersistedAddress(10, "c1", 24, kind="attachment")
    store = Store.open(path, NAME)

    def is_synced(effect: Persist) -> bool:
        store.persist(effect)
        level: int = store._database.execute("PRAGMA synchronous").fetchone()[0]
        return level == 2

    try:
        assert is_synced(Persist(b"ring", (), ()))
        assert not is_synced(Persist(None, (attachment,), ()))
        assert not is_synced(Persist(None, (), (10,)))
        assert is_synced(Persist(None, (attachment, replace(attachment, kind="manual")), ()))
        assert not is_synced(Persist(None, (attachment,), ()))
        assert is_synced(Persist(b"ring", (attachment,), ()))
    finally:
        store.close()


def test_history_is_bounded_and_the_newest_comes_first(path: Path) -> None:
    def event(number: int) -> HistoryEvent:
        return HistoryEvent("donated", ("10.32.0.0-10.32.0.7",), number, "host2", "it asked")

    store = Store.open(path, NAME)
    store.persist(Persist(None, (), (), tuple(event(n) for n in range(MAX_HISTORY + 5))))
    store.close()
    store = Store.open(path, NAME)
    events = [one for _, one in store.history(MAX_HISTORY * 2)]
    assert len(events) == MAX_HISTORY
    assert events[0] == event(MAX_HISTORY + 4)
    assert [one.addresses for one in events[-1:]] == [5]
    store.close()
