"""Parity: on a path that loses datagrams, what one of a group lost follows from the others.

A batch of datagrams falls into groups, and each group gets one datagram more: the XOR of its
members, the shorter ones as if zeros followed. Whoever has all of them but one has that one too.
The groups interleave, so that a burst of losses hits each of them once:

    datagrams in a batch          0  1  2  3  4  5  6  7  8  9
    groups, three of them         a  b  c  a  b  c  a  b  c  a
    what leaves in one send       0  1  2  3  4  5  6  7  8  A  B  C  9

Parity comes before the last datagram because only the last of one send may be shorter, and is
exactly as long as a full one. All that the header of a member says and the group does not (its
type, the index, its counter) gives way to what the group is:

    type 1 | receiver index 4 | first counter, low bits 4 | members 1 | stride 1
      | XOR of what each member lacks in length 2 | XOR of piece numbers 1 | of piece counts 1

Parity is not authenticated: a tag would not fit, and is not needed. What it yields is a datagram
like any other, which has to open and which the replay window takes once. So a forged one costs
time and is counted, and `Mender` bounds that time; it never spoils what came whole. In an
insecure mesh it is as good as forged data, not more.

Nearly all of the cost is turning bytes into one large integer and back, 2.5 µs for a datagram
at each end that needs it: every one at the sender, at the receiver only groups that lost one.
"""

import math
from collections import deque
from collections.abc import Sequence
from struct import Struct

from router.sleeve.format import (
    HEADER,
    HEADER_BYTES,
    TYPE_DATA,
    TYPE_PARITY,
    TYPE_PLAIN_DATA,
    TYPE_PLAIN_PARITY,
)
from router.sleeve.window import ReplayWindow

Part = bytes | memoryview
Batch = tuple[memoryview, int]
"""Datagrams that came together, and the size of all of them but the last."""

GROUP = 4
"""Datagrams at most in a group. At a loss of 1 % two of five are lost once in a thousand groups."""

PARITY = Struct("!BIIBBHBB")
assert PARITY.size == HEADER_BYTES

MAX_MEMBERS = 16
"""Of a group that we take, so that a forged one does not cost much."""

MAX_KEPT = 128
"""Datagrams whose parity has not come yet, per session, two sends and more. The oldest give way."""

MAX_HELD = 128
"""Datagrams that wait for a hole before them to be filled, per session."""

HOLD_S = 0.002
"""They wait no longer. A whole send with its parity takes half a millisecond at 1 Gbit/s, and two
where it comes in one datagram at a time and keeps us busy."""

MAX_IDLE_BATCHES = 256
"""Batches without any parity, after which a peer sends none any more."""

MAX_FRUITLESS = 500
"""Per second, attempts that yielded nothing authentic, at 0.1 ms at most."""

MAX_REMEMBERED = 64
"""Datagrams that were made good lately, which might yet come."""

PARITY_TYPES = {TYPE_DATA: TYPE_PARITY, TYPE_PLAIN_DATA: TYPE_PLAIN_PARITY}


def parity_of(parts: Sequence[Part], size: int) -> list[Part]:
    """Header and rest of each parity datagram for a batch of datagrams, which are such pairs too.

    All of them but the last have this size. None for a batch that is not of consecutive data
    records, each in its datagram: what a relay passes on may have gaps.
    """
    count = len(parts) // 2
    headers = HEADER.iter_unpack(b"".join(parts[::2]))
    record_type, index, first, _, _ = HEADER.unpack(parts[0])
    parity_type = PARITY_TYPES.get(record_type)
    if parity_type is None:
        return []
    for counter, header in enumerate(headers, first):
        if header[:3] != (record_type, index, counter):
            return []
    groups = -(-count // GROUP)
    joined = b"".join(parts)
    total = 0
    # In a little-endian number zeros to the right of the bytes change nothing.
    for at in range(0, len(joined), groups * size):
        total ^= int.from_bytes(joined[at : at + groups * size], "little")
    rows = memoryview(bytearray(total.to_bytes(groups * size, "little")))
    parity: list[Part] = []
    for row in range(groups):
        at = row * size
        number, piece_count = rows[at + HEADER_BYTES - 2 : at + HEADER_BYTES]
        members = len(range(row, count, groups))
        lacking = count * size - len(joined) if (count - 1) % groups == row else 0
        low = (first + row) & 0xFFFF_FFFF
        PARITY.pack_into(
            rows, at, parity_type, index, low, members, groups, lacking, number, piece_count
        )
        parity += (rows[at : at + HEADER_BYTES], rows[at + HEADER_BYTES : at + size])
    return parity


class Mender:
    """What a session keeps to make good what it lost, while its peer sends parity.

    What comes after a hole waits for the parity of it, which is usually in the same receive: TCP
    would take a segment that comes late for one that overtook others, or for a lost one.
    """

    def __init__(self, data_type: int) -> None:
        self.held: list[Batch] = []
        """What came since a datagram did not, in its order."""
        self.found: dict[int, bytes] = {}
        """While `held` is gone through again: datagrams that fill holes, by their counters."""
        self.is_mending = False
        """`held` is gone through again."""
        self.is_filling = False
        """What was found is taken."""
        self.given_up: float = 0
        """While `held` is gone through again: wait for no datagram below this counter."""
        self.release_at = math.inf
        self._lost = -1
        """The counter that `held` waits for."""
        self._held_count = 0
        self._parity_came = self._is_sure = False
        """Parity that may fill the hole is held; and it is one, not only a datagram to come."""
        self._data_type = data_type
        self._parity_type = PARITY_TYPES[data_type]
        self._parities = self._stride = 0
        """Groups that were told of in this batch, and how many there are."""
        self._covered = -1
        """The last counter of them all."""
        self._tail: bytes = b""
        """Parity of the one group that the last datagram is missing of, which may follow."""
        self._kept: deque[Batch] = deque()
        """Batches that were taken, and whose parity has not come."""
        self._kept_count = 0
        self._mended: deque[tuple[int, int]] = deque(maxlen=MAX_REMEMBERED)
        """Index and counter of each."""
        self._idle_batches = 0
        self._fruitless = 0
        self._fruitless_since = -math.inf

    @property
    def is_idle(self) -> bool:
        return self._idle_batches > MAX_IDLE_BATCHES and not (self.held or self.is_mending)

    def take_parity(self, parity: memoryview, window: ReplayWindow) -> bool:
        """True if something of its group is lost, so that it and what follows has to be held."""
        group = covered_by(parity, window.highest)
        if not group:
            return False
        missing = [*filter(window.check, group)]
        if missing and missing[0] > window.highest and may_follow(parity):
            del missing[-1]
            self._tail = bytes(parity)
        self._parities += 1
        self._stride = group.step
        self._covered = max(self._covered, group[-1])
        return bool(missing) and missing[0] >= self.given_up

    def end_batch(self, batch: memoryview, size: int, highest: int, now: float) -> None:
        """This was taken, and what followed it, if anything did, is held."""
        tail, self._tail = self._tail, b""
        parities, self._parities = self._parities, 0
        covered, self._covered = self._covered, -1
        self._idle_batches = 0 if parities else self._idle_batches + 1
        if parities >= self._stride and covered == highest:
            # All of it came, as it usually does.
            self._kept.clear()
            self._kept_count = 0
            return
        self._kept.append((memoryview(bytes(batch)), size))
        self._kept_count += -(-len(batch) // size)
        while self._kept_count > MAX_KEPT:
            batch, size = self._kept.popleft()
            self._kept_count -= -(-len(batch) // size)
        if tail and covered > highest and not self.held:
            self.hold(memoryview(tail), len(tail), highest + 1, now, is_sure=False)

    def hold(
        self, batch: memoryview, size: int, lost: int, now: float, *, is_sure: bool = True
    ) -> None:
        """Let this wait, which comes after the datagram that is lost.

        Or may have come before it: then it is parity, and not `is_sure`.
        """
        if not self.held:
            self._lost = lost
            self._parity_came = self._is_sure = False
            if not self.is_mending:
                self.release_at = now + HOLD_S
        self.held.append((memoryview(bytes(batch)), size))
        self._held_count += -(-len(batch) // size)
        if self._held_count > MAX_HELD:
            self.release_at = -math.inf
        self._is_sure = self._is_sure or is_sure
        for at in range(0, len(batch) - HEADER_BYTES, size):
            if batch[at] == self._parity_type and not self._parity_came:
                group = covered_by(batch[at:], lost)
                self._parity_came = lost in group or _is_later(group, lost)

    def release(self, window: ReplayWindow, now: float) -> list[Batch]:
        """What to go through now, `found` being filled; nothing while it has to wait."""
        is_late = now >= self.release_at
        lost = window.highest + 1
        is_hopeless = False
        if self._parity_came and (self._is_sure or is_late):
            is_hopeless = self._find(window, is_late, now)
        if is_late:
            self.given_up = math.inf
        elif is_hopeless:
            self.given_up = lost + 1
        elif lost == self._lost and lost not in self.found:
            return []
        held, self.held = self.held, []
        self._held_count = 0
        return held

    def end_mending(self) -> None:
        self.is_mending = False
        self.given_up = 0
        self.found = {}

    def _find(self, window: ReplayWindow, is_late: bool, now: float) -> bool:
        """Note what parity yields: datagrams that did not come, and may be forged.

        True if the first one that is missing is not among them and never will be.
        """
        if now >= self._fruitless_since + 1.0:
            self._fruitless, self._fruitless_since = 0, now
        if self._fruitless >= MAX_FRUITLESS:
            return True
        members: dict[tuple[int, int], memoryview] = {}
        parities = []
        newest = -1
        for batch, size in (*self._kept, *self.held):
            for at in range(0, len(batch) - HEADER_BYTES, size):
                record_type, index, counter, _, _ = HEADER.unpack_from(batch, at)
                if record_type == self._parity_type:
                    parities.append((index, batch[at : at + size]))
                elif record_type == self._data_type:
                    members[index, counter] = batch[at : at + size]
                    newest = max(newest, counter)
        lost = window.highest + 1
        is_hopeless = False
        for index, parity in parities:
            group = covered_by(parity, window.highest)
            at_hand = [members[index, each] for each in group if (index, each) in members]
            missing = [
                each for each in group if (index, each) not in members and window.check(each)
            ]
            if len(missing) == 1 and len(at_hand) == len(group) - 1:
                (counter,) = missing
                is_due = counter < newest or is_late or not may_follow(parity)
                if is_due and counter not in self.found and self._fruitless < MAX_FRUITLESS:
                    # Until it proves authentic.
                    self._fruitless += 1
                    self.found[counter] = _remaining(parity, self._data_type, counter, at_hand)
            elif lost in missing and any(lost < counter < newest for counter in missing):
                is_hopeless = True  # it is not the only one of its group
            if _is_later(group, lost):
                is_hopeless = True
        if not self.found:
            self._fruitless += 1
        return is_hopeless and lost not in self.found

    def note_mended(self, index: int, counter: int) -> None:
        """What was found for this counter is authentic."""
        self._fruitless = max(0, self._fruitless - 1)
        self._mended.append((index, counter))

    def was_only_late(self, index: int, counter: int) -> bool:
        """A datagram came that had been made good as lost. True once."""
        if (index, counter) not in self._mended:
            return False
        self._mended.remove((index, counter))
        return True


def covered_by(parity: memoryview, highest: int) -> range:
    """The counters of the group that this datagram speaks of; `highest` is the window's."""
    _, _, low, members, stride, _, _, _ = PARITY.unpack_from(parity)
    first = highest + (low - highest + 0x8000_0000) % 0x1_0000_0000 - 0x8000_0000
    if not (0 < members <= MAX_MEMBERS and stride and first >= 0):
        return range(0)
    return range(first, first + members * stride, stride)


def may_follow(parity: memoryview) -> bool:
    """Whether the last datagram of this group comes after its parity, being shorter."""
    return bool(PARITY.unpack_from(parity)[5])


def _is_later(group: range, lost: int) -> bool:
    """Whether this is a group of a batch that began after this datagram."""
    return bool(group) and group[0] - group.step >= lost


def _remaining(
    parity: memoryview, data_type: int, counter: int, members: list[memoryview]
) -> bytes:
    """The datagram with this counter, from all others of its group; empty if it makes no sense."""
    _, index, _, _, _, lacking, _, _ = PARITY.unpack_from(parity)
    total = int.from_bytes(parity, "little")
    size = len(parity)
    for member in members:
        if len(member) > size:
            return b""
        total ^= int.from_bytes(member, "little")
        lacking ^= size - len(member)
    if lacking >= size - HEADER_BYTES:
        return b""
    datagram = bytearray(total.to_bytes(size, "little"))
    number, piece_count = datagram[HEADER_BYTES - 2 : HEADER_BYTES]
    HEADER.pack_into(datagram, 0, data_type, index, counter, number, piece_count)
    return bytes(datagram[: size - lacking])
