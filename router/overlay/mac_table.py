"""Which peer a MAC address lives behind, as learnt from the sources of frames.

The entries are kept in the order in which they were last seen, so the oldest is always the
first, and both limits, of number and of age, only ever look at the front. To keep the cost per
frame at one look-up, an entry that was seen within the last second is not moved to the back.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

MAX_ENTRIES = 16_384
"""A container that invents source addresses pushes out the oldest, and the table stays small."""

MAX_AGE_S = 600.0

_REFRESH_S = 1.0


@dataclass(slots=True)
class _Entry:
    short_id: int
    seen_at: float


class MacTable:
    def __init__(self, max_entries: int = MAX_ENTRIES, max_age_s: float = MAX_AGE_S) -> None:
        self._max_entries = max_entries
        self._max_age_s = max_age_s
        self._entries: dict[bytes, _Entry] = {}
        self.moves = 0
        """How often an address was seen behind another peer than before."""

    def __len__(self) -> int:
        return len(self._entries)

    def learn(self, mac: bytes, short_id: int, now: float) -> bool:
        """Note that a frame from `mac` came from this peer; True if that is news.

        Group addresses and the zero address are no one's and are not learnt.
        """
        entry = self._entries.get(mac)
        if entry is not None:
            if entry.short_id == short_id:
                if now - entry.seen_at >= _REFRESH_S:
                    self._touch(mac, entry, now)
                return False
            self.moves += 1
            entry.short_id = short_id
            self._touch(mac, entry, now)
            return True
        if mac[0] & 1 or mac == b"\0\0\0\0\0\0":
            return False
        if len(self._entries) >= self._max_entries:
            del self._entries[next(iter(self._entries))]
        self._entries[mac] = _Entry(short_id, now)
        return True

    def lookup(self, mac: bytes) -> int | None:
        """The peer behind which this address was last seen; None: unknown, so flood."""
        entry = self._entries.get(mac)
        return None if entry is None else entry.short_id

    def forget(self, short_id: int) -> int:
        """Drop all that was learnt behind a peer; how many addresses that were."""
        gone = [mac for mac, entry in self._entries.items() if entry.short_id == short_id]
        for mac in gone:
            del self._entries[mac]
        return len(gone)

    def expire(self, now: float) -> int:
        """Drop what was not seen for too long; how many. Call it every few seconds."""
        expired = 0
        while self._entries:
            mac = next(iter(self._entries))
            if now - self._entries[mac].seen_at < self._max_age_s:
                break
            del self._entries[mac]
            expired += 1
        return expired

    def behind(self, short_ids: Collection[int]) -> Iterator[tuple[bytes, int, float]]:
        """Address, peer and when it was seen, of these peers' entries, newest first."""
        for mac in reversed(self._entries):
            entry = self._entries[mac]
            if entry.short_id in short_ids:
                yield mac, entry.short_id, entry.seen_at

    def drop(self, macs: Iterable[bytes]) -> None:
        for mac in macs:
            del self._entries[mac]

    def newest(self, limit: int, now: float) -> Iterator[tuple[bytes, int, float]]:
        """Address, peer and age in seconds of the `limit` entries seen last, newest first."""
        for mac, _ in zip(reversed(self._entries), range(limit), strict=False):
            entry = self._entries[mac]
            yield mac, entry.short_id, max(0.0, now - entry.seen_at)

    def _touch(self, mac: bytes, entry: _Entry, now: float) -> None:
        entry.seen_at = now
        del self._entries[mac]
        self._entries[mac] = entry
