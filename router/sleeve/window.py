"""The replay window: each record counter is accepted once, the very old ones never.

In the common case records arrive in order, so the window remembers what is *missing* below the
highest counter, not what was seen: nothing is missing, and the next counter only raises
`highest`. Missing counters are bits in blocks of 1,024 (after RFC 6479), and a block exists only
while something in it is missing, so a window never holds more than 17 blocks.

Call `check` before decrypting, `accept` only once the record proved authentic: otherwise a
forged counter could push the window on and lock the true records out.
"""

_BLOCK_SHIFT = 10
_BLOCK_BITS = 1 << _BLOCK_SHIFT
_BLOCK_MASK = _BLOCK_BITS - 1


class ReplayWindow:
    SIZE = 16_384
    """Counters this far below the highest are still accepted, once."""

    __slots__ = ("_missing", "highest", "missing")

    def __init__(self) -> None:
        self.highest = -1
        """The highest counter accepted so far; -1 before the first."""
        self.missing = 0
        """How many counters below the highest did not come, those too old to come included."""
        self._missing: dict[int, int] = {}
        """Block number to its missing counters as bits; only blocks that miss something."""

    def check(self, counter: int) -> bool:
        """Whether `accept` would take this counter; changes nothing."""
        if counter > self.highest:
            return True
        if counter <= self.highest - self.SIZE:
            return False
        return bool(self._missing.get(counter >> _BLOCK_SHIFT, 0) >> (counter & _BLOCK_MASK) & 1)

    def accept(self, counter: int) -> bool:
        """Mark the counter as seen. False, and no change, if it was seen or is too old."""
        if counter == self.highest + 1 and (counter & _BLOCK_MASK or not self._missing):
            # Blocks that fell out of the window are dropped when a new one is entered.
            self.highest = counter
            return True
        if counter > self.highest:
            self._raise_to(counter, 1)
            return True
        if not self.check(counter):
            return False
        self._fill(counter)
        return True

    def accept_run(self, first: int, count: int) -> int:
        """Accept `count` consecutive counters; bit `i` of the answer says `first + i` was new."""
        if first > self.highest:
            self._raise_to(first, count)
            return (1 << count) - 1
        accepted = 0
        for position in range(count):
            if self.accept(first + position):
                accepted |= 1 << position
        return accepted

    def _raise_to(self, first: int, count: int) -> None:
        """Move the top of the window to `first + count - 1`, noting the gap below `first`."""
        gap_start = self.highest + 1
        self.missing += first - gap_start
        self.highest = first + count - 1
        floor = max(0, self.highest - self.SIZE + 1)
        missing = self._missing
        if missing:
            floor_block = floor >> _BLOCK_SHIFT
            for block in [block for block in missing if block < floor_block]:
                del missing[block]
        gap_start = max(gap_start, floor)
        while gap_start < first:
            block = gap_start >> _BLOCK_SHIFT
            gap_end = min(first, (block + 1) << _BLOCK_SHIFT)
            bits = ((1 << (gap_end - gap_start)) - 1) << (gap_start & _BLOCK_MASK)
            missing[block] = missing.get(block, 0) | bits
            gap_start = gap_end

    def _fill(self, counter: int) -> None:
        block = counter >> _BLOCK_SHIFT
        self.missing -= 1
        left = self._missing[block] & ~(1 << (counter & _BLOCK_MASK))
        if left:
            self._missing[block] = left
        else:
            del self._missing[block]
