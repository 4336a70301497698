"""The addresses of the ranges that this peer owns: free, in use, or cooling down after use.

An address that was freed stays out of use for a minute, because neighbours still have its last
holder in their ARP tables. The lowest free address is given out first, which keeps the free
blocks large; what is donated is cut from the upper half of the biggest one. In ranges that were
taken over from a dead peer it is the other way round, and they come last: that peer began from
below as well, and its containers may still run with what it gave them.

Rows of addresses outside our ranges are kept (a container holds the address, whatever the ring
says) but never become free here. Frozen ranges, those in contradiction, keep their rows, too.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ipam.core.effects import PersistedAddress
from ipam.core.ranges import Range, normalise, subtract

COOLING_S = 60.0
"""How long a freed address rests: Linux forgets an ARP neighbour within about this time."""


class Space:
    """Sets of addresses, kept consistent; whoever calls decides and persists."""

    def __init__(self) -> None:
        self._ours: list[Range] = []
        self._usable: list[Range] = []
        """Of ours what is not frozen."""
        self._inherited: list[Range] = []
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._free_count = 0
        self._in_use: dict[int, PersistedAddress] = {}
        self._cooling: dict[int, PersistedAddress] = {}
        self._by_owner: dict[str, dict[int, None]] = {}
        self._changed: dict[int, None] = {}

    def set_ranges(
        self, owned: Iterable[Range], frozen: Iterable[Range], inherited: Iterable[Range] = ()
    ) -> None:
        """Say anew which ranges are ours, and in which of all nothing may be given out.

        `inherited` are those of ours that were a dead peer's.
        """
        self._inherited = normalise(inherited)
        self._ours = normalise(owned)
        self._usable = subtract(self._ours, normalise(frozen))
        taken = normalise(Range(at, at + 1) for at in (*self._in_use, *self._cooling))
        free = subtract(self._usable, taken)
        self._starts = [piece.start for piece in free]
        self._ends = [piece.end for piece in free]
        self._free_count = sum(piece.size for piece in free)

    # --- queries ---------------------------------------------------------------------------

    @property
    def free_count(self) -> int:
        return self._free_count

    @property
    def in_use_count(self) -> int:
        return len(self._in_use)

    @property
    def cooling_count(self) -> int:
        return len(self._cooling)

    def owns(self, address: int) -> bool:
        """True if the address is ours to give out, now or when it gets free."""
        at = bisect_right(self._usable, address, key=lambda piece: piece.start) - 1
        return at >= 0 and address in self._usable[at]

    def owned(self) -> Sequence[Range]:
        """Return the ranges that are ours to give out of."""
        return tuple(self._usable)

    def touches(self, piece: Range) -> bool:
        """True if any address of `piece` is ours, frozen or not."""
        at = bisect_right(self._ours, piece.start, key=lambda mine: mine.start)
        return any(mine.meet(piece) is not None for mine in self._ours[max(0, at - 1) : at + 1])

    def row(self, address: int) -> PersistedAddress | None:
        """Return who uses the address here, or None."""
        return self._in_use.get(address)

    def rows(self) -> Sequence[PersistedAddress]:
        return tuple(self._in_use.values())

    def cooling_rows(self) -> Sequence[PersistedAddress]:
        return tuple(self._cooling.values())

    def rows_of(self, owner: str) -> Sequence[PersistedAddress]:
        return tuple(self._in_use[address] for address in sorted(self._by_owner.get(owner, ())))

    def is_free(self, address: int) -> bool:
        at = bisect_right(self._starts, address) - 1
        return at >= 0 and address < self._ends[at]

    def is_cooling(self, address: int) -> bool:
        return address in self._cooling

    def lowest_free(self, bounds: Range) -> int | None:
        at = bisect_right(self._ends, bounds.start)
        if at == len(self._starts):
            return None
        address = max(self._starts[at], bounds.start)
        return address if address < bounds.end else None

    def next_free(self, bounds: Range) -> int | None:
        """Return the address to give out next; see the file's opening."""
        if not self._inherited:
            return self.lowest_free(bounds)
        free = [
            common
            for at in range(bisect_right(self._ends, bounds.start), len(self._starts))
            if (common := Range(self._starts[at], self._ends[at]).meet(bounds)) is not None
        ]
        if not free:
            return None
        own = subtract(free, self._inherited)
        return own[0].start if own else free[-1].end - 1

    def biggest_free(self, bounds: Range) -> Range | None:
        """Return the biggest block of free addresses inside `bounds`; of equals the highest."""
        biggest: Range | None = None
        for at in range(bisect_right(self._ends, bounds.start), len(self._starts)):
            if self._starts[at] >= bounds.end:
                break
            common = Range(self._starts[at], self._ends[at]).meet(bounds)
            if common and (biggest is None or common.size >= biggest.size):
                biggest = common
        return biggest

    def oldest_cooling(self, bounds: Range) -> int | None:
        """Return the address inside `bounds` that has been cooling the longest."""
        return next((at for at in self._cooling if at in bounds and self.owns(at)), None)

    def next_cooled_at(self) -> float | None:
        """Return when the next address has cooled down."""
        first = next(iter(self._cooling.values()), None)
        if first is None:
            return None
        assert first.freed_at is not None
        return first.freed_at + COOLING_S

    # --- changes ---------------------------------------------------------------------------

    def use(self, row: PersistedAddress) -> None:
        """Put an address into use, wherever it was before."""
        assert row.freed_at is None
        self._drop_row(row.address)
        self._take_from_free(row.address)
        self._in_use[row.address] = row
        self._by_owner.setdefault(row.owner, {})[row.address] = None

    def cool(self, address: int, now: float) -> PersistedAddress:
        """Take an address out of use and let it rest; returns its row."""
        row = replace(self._in_use[address], freed_at=now)
        self._drop_row(address)
        self._cooling[address] = row
        return row

    def forget(self, address: int) -> None:
        """Drop the address's row; it is free if it is ours."""
        self._drop_row(address)
        if self.owns(address) and not self.is_free(address):
            self._give_to_free(address)

    def cooled(self, now: float) -> list[int]:
        """Return the addresses that have rested long enough, and make them free."""
        done: list[int] = []
        for address, row in self._cooling.items():
            assert row.freed_at is not None
            if row.freed_at + COOLING_S > now:
                break
            done.append(address)
        for address in done:
            self.forget(address)
        return done

    def drain_changes(self) -> tuple[tuple[PersistedAddress, ...], tuple[int, ...]]:
        """Return rows to write and addresses whose rows are gone, since the last call."""
        written: list[PersistedAddress] = []
        gone: list[int] = []
        for address in sorted(self._changed):
            row = self._in_use.get(address) or self._cooling.get(address)
            if row is None:
                gone.append(address)
            else:
                written.append(row)
        self._changed.clear()
        return tuple(written), tuple(gone)

    def check(self) -> None:
        """Assert that each address is in exactly one place."""
        free = [Range(s, e) for s, e in zip(self._starts, self._ends, strict=True)]
        assert free == normalise(free), "free blocks are sorted and do not touch"
        taken = normalise(Range(at, at + 1) for at in (*self._in_use, *self._cooling))
        assert free == subtract(self._usable, taken), "free is what is ours and has no row"
        assert self._free_count == sum(piece.size for piece in free)
        assert not self._in_use.keys() & self._cooling.keys()
        owners = {(row.owner, at) for at, row in self._in_use.items()}
        assert owners == {(owner, at) for owner, ats in self._by_owner.items() for at in ats}

    # --- helpers ---------------------------------------------------------------------------

    def _drop_row(self, address: int) -> None:
        self._changed[address] = None
        self._cooling.pop(address, None)
        row = self._in_use.pop(address, None)
        if row is not None:
            addresses = self._by_owner[row.owner]
            del addresses[address]
            if not addresses:
                del self._by_owner[row.owner]

    def _take_from_free(self, address: int) -> None:
        at = bisect_right(self._starts, address) - 1
        if at < 0 or address >= self._ends[at]:
            return
        start, end = self._starts[at], self._ends[at]
        pieces = [(s, e) for s, e in ((start, address), (address + 1, end)) if s < e]
        self._starts[at : at + 1] = [start for start, _ in pieces]
        self._ends[at : at + 1] = [end for _, end in pieces]
        self._free_count -= 1

    def _give_to_free(self, address: int) -> None:
        at = bisect_left(self._starts, address)
        start, end = address, address + 1
        first = last = at
        if at > 0 and self._ends[at - 1] == start:
            first, start = at - 1, self._starts[at - 1]
        if at < len(self._starts) and self._starts[at] == end:
            last, end = at + 1, self._ends[at]
        # Blocks never join across the border of a usable range: `set_ranges` normalised those.
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self._free_count += 1
