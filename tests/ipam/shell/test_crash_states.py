"""What the machine's death leaves on the disk: the store always opens, and nothing told is lost.

A run of writes is recorded by copying the files after each. Then every state that a crash between
two syncs can leave is made by hand: the log cut off at every place of interest in what was being
written, its tail zeroed, garbled or swapped sector by sector, and a main file into which only some
pages of a checkpoint made it. Each must open without a warning, and hold either what was synced
before or, whole, the write that was under way.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from ipam.core.effects import HistoryEvent, Persist, PersistedAddress, Saved
from ipam.shell.store import Store
from weavepy.base.names import PeerName

NAME = PeerName("02:00:00:00:00:01")
PAGE_BYTES = 4096
FRAME_BYTES = 24 + PAGE_BYTES
SECTOR_BYTES = 512


@dataclass(frozen=True)
class Moment:
    """The files after a write had returned, and what they must hold."""

    main: bytes
    log: bytes
    saved: Saved | None


def writes() -> Iterator[Persist]:
    """A small life: rings that grow and shrink, addresses that come, cool down and go."""
    for number in range(8):
        ring = bytes([number]) * (200 if number % 3 else 9000)
        row = PersistedAddress(1000 + number, f"c{number}", 24, kind="attachment")
        cooling = PersistedAddress(1000 + number - 1, f"c{number - 1}", 24, freed_at=1.0)
        event = HistoryEvent("donated", ("10.32.0.0-10.32.0.7",), 8, "host2", "it asked")
        yield Persist(
            ring if number % 2 == 0 else None,
            (row, cooling) if number else (row,),
            (1000 + number - 2,) if number > 1 else (),
            (event,),
        )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    path = tmp_path_factory.mktemp("run") / "weavepy.db"
    store = Store.open(path, NAME)
    moments = [_moment(path, store)]
    for effect in writes():
        store.persist(effect)
        moments.append(_moment(path, store))
    store.close()
    return moments


def _moment(path: Path, store: Store) -> Moment:
    log = path.with_name(path.name + "-wal")
    return Moment(path.read_bytes(), log.read_bytes(), store.load())


def _opened(where: Path, main: bytes, log: bytes) -> tuple[Saved | None, str]:
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    path = where / "weavepy.db"
    path.write_bytes(main)
    path.with_name(path.name + "-wal").write_bytes(log)
    store = Store.open(path, NAME)
    try:
        saved = store.load()
        assert len(store.history(100)) <= 8
        return saved, store.warning
    finally:
        store.close()


def test_each_write_that_returned_is_there(recorded: list[Moment], tmp_path: Path) -> None:
    for moment in recorded:
        assert _opened(tmp_path / "db", moment.main, moment.log) == (moment.saved, "")


def _torn(before: bytes, after: bytes) -> Iterator[bytes]:
    """All ways in which the step from one log to the next may have come to the disk in part."""
    assert after.startswith(before)
    new = range(len(before), len(after))
    cuts = {
        *range(len(before), len(after), FRAME_BYTES),
        *(at + 24 for at in range(len(before), len(after), FRAME_BYTES)),
        *(at + 1 for at in new[::PAGE_BYTES]),
        *new[:: 7 * SECTOR_BYTES],
        len(after) - 1,
    }
    for cut in sorted(cut for cut in cuts if cut < len(after)):
        yield after[:cut]
        yield after[:cut] + bytes(len(after) - cut)
    for at in new[:: 5 * SECTOR_BYTES]:
        end = min(at + SECTOR_BYTES, len(after))
        yield after[:at] + bytes(end - at) + after[end:]
        yield after[:at] + bytes(255 - byte for byte in after[at:end]) + after[end:]


def test_a_torn_write_is_there_whole_or_not_at_all(recorded: list[Moment], tmp_path: Path) -> None:
    states = 0
    for before, after in pairwise(recorded):
        for log in _torn(before.log, after.log):
            saved, warning = _opened(tmp_path / "db", after.main, log)
            assert saved in (before.saved, after.saved)
            assert warning == ""
            states += 1
    print(f"{states} states of the log")
    assert states > 200


def test_a_checkpoint_that_was_interrupted_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run" / "weavepy.db"
    store = Store.open(path, NAME)
    for effect in writes():
        store.persist(effect)
    before = _moment(path, store)
    store._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
    after = _moment(path, store)
    store.close()
    assert before.main != after.main
    pages = range(0, len(after.main), PAGE_BYTES)
    for at in pages:
        for end in (at, at + SECTOR_BYTES, at + PAGE_BYTES // 2):
            main = after.main[:end] + before.main[end:]
            assert _opened(tmp_path / "db", main, before.log) == (before.saved, "")
        only = before.main[:at] + after.main[at : at + PAGE_BYTES] + before.main[at + PAGE_BYTES :]
        assert _opened(tmp_path / "db", only, before.log) == (before.saved, "")


def test_a_crash_while_the_database_is_made_leaves_something_that_opens(
    recorded: list[Moment], tmp_path: Path
) -> None:
    first = recorded[0]
    for cut in range(0, len(first.log), FRAME_BYTES // 2):
        saved, _ = _opened(tmp_path / "db", first.main, first.log[:cut])
        assert saved is None
    for cut in range(0, len(first.main) + 1, SECTOR_BYTES):
        saved, _ = _opened(tmp_path / "db", first.main[:cut], b"")
        assert saved is None
