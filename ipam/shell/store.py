"""The database of the ring and of the addresses in use: one SQLite file, a transaction per write.

What a `Persist` holds is written, whole or not at all, before `persist` returns; a router that is
killed has it. It is synced as well, unless it is only about attachments: of these a power failure
leaves none, and what then is or is not in here about them, `reconcile` puts right. So a pod's start
waits for no disk, and the next write that is synced syncs all before it.

The journal is a write-ahead log with `synchronous=FULL`: a commit costs one sync where a rollback
journal costs three, each part of the log carries a checksum, so a torn tail is found and dropped,
and what was synced is never undone. An exclusive lock keeps a second router out and makes the
shared-memory file unnecessary. Closing folds the log into the main file.

The store always opens, unless it belongs to another peer, to a newer weavepy or to a running
router, or the disk is at fault: a file that is damaged is moved aside, never deleted, and an empty
one begun. The ring is then learnt anew from other peers and from running containers.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ipam.core.effects import HistoryEvent, Persist, PersistedAddress, Saved
from weavepy.base.errors import WeavepyError
from weavepy.base.names import PeerName

log = logging.getLogger(__name__)

SCHEMA_VERSION = 2

MAX_HISTORY = 1000
"""Events that are kept; older ones are forgotten."""

MAX_MOVED_ASIDE = 100
"""Damaged files that may lie beside the database; then somebody must look at the disk."""

_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PRIMARY_CODE = 0xFF
_COMPANIONS = ("", "-wal", "-shm", "-journal")

_SCHEMA = """
CREATE TABLE peer (only INTEGER PRIMARY KEY CHECK (only = 1), name TEXT NOT NULL) STRICT;
CREATE TABLE ring (
    only INTEGER PRIMARY KEY CHECK (only = 1), data BLOB NOT NULL, checksum BLOB NOT NULL
) STRICT;
CREATE TABLE address (
    address TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    prefix_length INTEGER NOT NULL,
    cooling INTEGER NOT NULL,
    kind TEXT NOT NULL,
    since REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL
) STRICT;
"""
_FROM_VERSION_1 = """
ALTER TABLE address ADD COLUMN kind TEXT NOT NULL DEFAULT 'manual';
ALTER TABLE address ADD COLUMN since REAL NOT NULL DEFAULT 0;
UPDATE address SET kind = 'attachment'
    WHERE owner GLOB '/*' OR owner = 'weave:expose'
    OR (length(owner) = 64 AND owner NOT GLOB '*[^0-9a-f]*');
CREATE TABLE history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL
) STRICT;
"""
# Version 1 did not say what an owner is: a path and a container's full id are attachments.

# An address is text because an IPv6 address does not fit into SQLite's integers.


_WRITE_ADDRESS = """
INSERT INTO address VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (address) DO UPDATE SET
    since = CASE WHEN owner = excluded.owner AND NOT cooling THEN since ELSE excluded.since END,
    owner = excluded.owner, prefix_length = excluded.prefix_length, cooling = excluded.cooling,
    kind = excluded.kind
"""


class StoreError(WeavepyError):
    """The database cannot be opened or written; nothing of the write is in it."""


class _Damaged(Exception):
    """The file is no database of ours, or is one no more."""


class Store:
    """Made by `Store.open`; used from one thread."""

    def __init__(self, path: Path, database: sqlite3.Connection, warning: str) -> None:
        self._path = path
        self._database = database
        self._synced = True
        """Whether what is written next is synced."""
        self.warning = warning
        """What was wrong with the file found at start and where it is now; empty if nothing."""

    @classmethod
    def open(cls, path: Path, name: PeerName) -> Store:
        """Raises `StoreError`; a file that is damaged is moved aside and begun anew."""
        try:
            return cls(path, _open(path, name), "")
        except _Damaged as error:
            aside = _move_aside(path)
            warning = (
                f"the database {path} was damaged ({error}) and is now {aside.name}: the address"
                " ring is learnt anew from the other hosts; keep the file for a bug report"
            )
            log.warning("%s", warning)
        try:
            return cls(path, _open(path, name), warning)
        except _Damaged as error:
            raise StoreError(
                f"a new database {path} reads back damaged ({error}): check the disk"
            ) from error

    def load(self) -> Saved | None:
        """Return what was stored, or None if nothing ever was. Cooling rows have `freed_at` 0."""
        try:
            ring = self._database.execute("SELECT data FROM ring").fetchone()
            rows = self._database.execute(
                "SELECT address, owner, prefix_length, cooling, kind FROM address"
            ).fetchall()
        except sqlite3.Error as error:
            raise _store_error(self._path, error) from error
        if ring is None and not rows:
            return None
        addresses = sorted(
            (
                PersistedAddress(
                    int(address),
                    owner,
                    prefix_length,
                    0.0 if cooling else None,
                    "manual" if kind == "manual" else "attachment",
                )
                for address, owner, prefix_length, cooling, kind in rows
            ),
            key=lambda row: row.address,
        )
        return Saved(None if ring is None else ring[0], tuple(addresses))

    def persist(self, effect: Persist) -> None:
        """Write all of it, or raise `StoreError` and leave everything as it was."""
        now = time.time()
        try:
            self._set_synced(not _is_passing(effect))
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                if effect.ring is not None:
                    self._database.execute(
                        "INSERT OR REPLACE INTO ring VALUES (1, ?, ?)",
                        (effect.ring, _checksum(effect.ring)),
                    )
                self._database.executemany(
                    "DELETE FROM address WHERE address = ?",
                    [(str(address),) for address in effect.released],
                )
                self._database.executemany(
                    _WRITE_ADDRESS,
                    [
                        (
                            str(row.address),
                            row.owner,
                            row.prefix_length,
                            row.freed_at is not None,
                            row.kind,
                            now,
                        )
                        for row in effect.allocated
                    ],
                )
                self._append(effect.history, now)
        except sqlite3.Error as error:
            raise _store_error(self._path, error) from error

    def _set_synced(self, synced: bool) -> None:
        if synced != self._synced:
            self._database.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
            self._synced = synced

    def _append(self, events: Sequence[HistoryEvent], now: float) -> None:
        if not events:
            return
        self._database.executemany(
            "INSERT INTO history (at, event) VALUES (?, ?)",
            [(now, msgspec.json.encode(event).decode()) for event in events],
        )
        self._database.execute(
            "DELETE FROM history WHERE number <= (SELECT max(number) FROM history) - ?",
            (MAX_HISTORY,),
        )

    def since(self) -> dict[int, float]:
        """Return since when each address is in use, in seconds of the wall clock; 0 if unknown."""
        rows = self._database.execute("SELECT address, since FROM address WHERE NOT cooling")
        return {int(address): since for address, since in rows}

    def history(self, limit: int) -> list[tuple[float, HistoryEvent]]:
        """Return the newest events, the newest first, each with the wall clock's time."""
        rows = self._database.execute(
            "SELECT at, event FROM history ORDER BY number DESC LIMIT ?", (limit,)
        )
        return [(at, msgspec.json.decode(event, type=HistoryEvent)) for at, event in rows]

    def close(self) -> None:
        """Fold the log into the main file if the disk lets us; nothing written is lost if not."""
        try:
            self._database.close()
        except sqlite3.Error as error:
            log.warning("closing the database %s: %s", self._path, error)


def _open(path: Path, name: PeerName) -> sqlite3.Connection:
    """Raises `StoreError`, or `_Damaged` for what another file would cure."""
    database: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        os.chmod(path, 0o600)
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        _begin_or_check(path, database, name)
    except BaseException as error:
        if database is not None:
            database.close()
        if isinstance(error, sqlite3.DatabaseError) and _code(error) in _DAMAGED:
            raise _Damaged(str(error)) from error
        if isinstance(error, sqlite3.Error):
            raise _store_error(path, error) from error
        if isinstance(error, OSError):
            raise StoreError(f"cannot open the database {path}: {error.strerror}") from error
        raise
    return database


def _begin_or_check(path: Path, database: sqlite3.Connection, name: PeerName) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not database.execute("SELECT name FROM sqlite_schema").fetchone():
        database.executescript(
            f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    elif version == 1:
        _migrate(database)
    elif version > SCHEMA_VERSION:
        raise StoreError(
            f"the database {path} was written by a newer weavepy (format {version}, this one knows"
            f" {SCHEMA_VERSION}): start that version again"
        )
    elif version != SCHEMA_VERSION:
        raise _Damaged(f"unknown format {version}")
    _check_content(database)
    stored = database.execute("SELECT name FROM peer").fetchone()
    if stored is None:
        database.execute("INSERT INTO peer VALUES (1, ?)", (name,))
    elif stored[0] != name:
        raise StoreError(
            f"the database {path} belongs to peer {stored[0]}, but the identity here is {name}:"
            " put back the identity file that belongs to it, or move the database aside to start"
            " without its addresses"
        )


def _migrate(database: sqlite3.Connection) -> None:
    try:
        database.executescript(
            f"BEGIN IMMEDIATE; {_FROM_VERSION_1} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_ERROR:
            raise
        raise _Damaged(f"not what format 1 was like: {error}") from error


def _check_content(database: sqlite3.Connection) -> None:
    verdict = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _Damaged(verdict)
    try:
        ring = database.execute("SELECT data, checksum FROM ring").fetchone()
        rows = database.execute("SELECT address, owner, prefix_length FROM address").fetchall()
        database.execute("SELECT at, event FROM history LIMIT 1").fetchone()
        database.execute("SELECT name FROM peer").fetchone()
    except sqlite3.OperationalError as error:
        raise _Damaged(str(error)) from error
    if ring is not None and _checksum(ring[0]) != ring[1]:
        raise _Damaged("the ring does not match its checksum")
    if not all(address.isdecimal() for address, _, _ in rows):
        raise _Damaged("an address is not a number")


def _is_passing(effect: Persist) -> bool:
    """Whether it would be wrong anyway after a power failure, in which all containers end."""
    lasting = effect.ring is not None or effect.history
    return not lasting and all(row.kind == "attachment" for row in effect.allocated)


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE


def _store_error(path: Path, error: sqlite3.Error) -> StoreError:
    hints = {
        sqlite3.SQLITE_FULL: f"free some space on the disk that holds {path.parent}",
        sqlite3.SQLITE_IOERR: f"check the disk that holds {path.parent} and the space left on it",
        sqlite3.SQLITE_READONLY: f"make {path.parent} writable for the router",
        sqlite3.SQLITE_CANTOPEN: f"make {path.parent} writable for the router",
        sqlite3.SQLITE_BUSY: "another router is running with this state directory; stop it first",
    }
    advice = hints.get(_code(error), "see the log, and start the router again")
    return StoreError(f"the database {path} failed ({error}): {advice}")


def _move_aside(path: Path) -> Path:
    """Rename the file, and its log with it, to the first free name beside it."""
    for number in range(1, MAX_MOVED_ASIDE + 1):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            break
    else:
        raise StoreError(
            f"{MAX_MOVED_ASIDE} damaged databases lie beside {path}: check the disk, then remove"
            " them"
        )
    try:
        for companion in _COMPANIONS:
            found = path.with_name(path.name + companion)
            if found.exists():
                found.rename(aside.with_name(aside.name + companion))
    except OSError as error:
        raise StoreError(
            f"the damaged database {path} cannot be moved aside: {error.strerror}"
        ) from error
    return aside
