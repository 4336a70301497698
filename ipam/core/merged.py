"""Which entries were merged, found by the addresses that they absorb.

Entries that never were merged are not in here, so that a ring without merging pays nothing.
The others lie by the magnitude of their sizes: of one magnitude only the last few that begin
before an address can reach it, unless they overlap each other.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from ipam.core.entry import Entry
from ipam.core.ranges import Universe


class MergedEntries:
    def __init__(self, universe: Universe) -> None:
        self._universe = universe
        self._entries: dict[int, Entry] = {}
        self._tokens: dict[int, list[int]] = {}
        """By magnitude, sorted."""

    def add(self, entry: Entry) -> None:
        if entry.level:
            self._entries[entry.token] = entry
            insort(self._tokens.setdefault(entry.size.bit_length(), []), entry.token)

    def remove(self, entry: Entry) -> None:
        if entry.level:
            del self._entries[entry.token]
            tokens = self._tokens[entry.size.bit_length()]
            del tokens[bisect_left(tokens, entry.token)]
            if not tokens:
                del self._tokens[entry.size.bit_length()]

    def absorb(self, entry: Entry) -> bool:
        """True if one of them absorbs this entry."""
        return any(one.absorbs(entry, self._universe) for one in self.reaching(entry.token))

    def reaching(self, address: int) -> Iterator[Entry]:
        """Yield all that cover the address, and some that do not."""
        for magnitude, tokens in self._tokens.items():
            before = bisect_right(tokens, address)
            for step in range(1, len(tokens) + 1):
                token = tokens[before - step]
                if self._universe.distance(token, address) >> magnitude:
                    break  # no entry of this magnitude is so long
                yield self._entries[token]
