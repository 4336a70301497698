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

Part = bytes | memoryview

GROUP = 4
"""Datagrams at most in a group. At a loss of 1 % two of five are lost once in a thousand groups."""

PARITY = Struct("!BIIBBHBB")
assert PARITY.size == HEADER_BYTES

MAX_MEMBERS = 16
"""Of a group that we take, so that a forged one does not cost much."""

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


def is_later(group: range, lost: int) -> bool:
    """Whether this is a group of a batch that began after this datagram."""
    return bool(group) and group[0] - group.step >= lost


def remaining(parity: memoryview, data_type: int, counter: int, members: list[memoryview]) -> bytes:
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
