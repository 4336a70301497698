"""What the plain text of a data record holds, after the inner header that relays read.

    FRAME     one Ethernet frame
    FRAGMENT  a part of a whole record that fitted no datagram (hop by hop: `fragments`)
    PARTIAL   checksum hint 2 | one frame whose transport checksum is partial
    BUNDLE    several small frames, each as: length 2 | checksum hint 2 | frame
    PIECE     GSO type 1 | checksum start / 2 1 | headers of the large frame | payload slice
    RUN       GSO type 1 | checksum start / 2 1 | segment size 2 | first segment 1 | segments of
              the whole frame 1 | padding length 1 | padding | headers of the large frame | payload

A run is what a spanning record holds: one or more consecutive segments of a large frame, often
all of them. The padding, before what it pads so that the payload need not move, makes the slices
of the record equal, so that several such records leave in one system call.

For everyone's frames the broadcast header comes before all that. A checksum hint says where the
checksum starts (divided by two: it is always even) and where in that it is to be written; two
zeros say that the frame is complete. That leaves the sum to the far kernel, or to the network
card behind it, or, between containers, to nobody at all.

Which large frame a piece belongs to needs no field: the pieces of one frame have consecutive
counters, so `counter - piece number` is the frame's base, and (epoch, base) names it.
"""

from collections.abc import Iterator
from struct import Struct

from router.sleeve.format import (
    HEADER_BYTES,
    INNER_HEADER_BYTES,
    KIND_FRAGMENT,
    KIND_FRAME,
    TAG_BYTES,
)

KIND_PARTIAL = 2
KIND_BUNDLE = 3
KIND_PIECE = 4
KIND_RUN = 5

assert KIND_FRAME == 0
assert KIND_FRAGMENT == 1

HINT_BYTES = 2
NO_HINT = b"\0\0"
BUNDLE_ENTRY_BYTES = 2 + HINT_BYTES
PIECE_HINT_BYTES = 2
RUN_HINT = Struct("!BBHBBB")
"""GSO type, checksum start / 2, segment size, first segment, segments of the frame, padding."""
RUN_HINT_BYTES = RUN_HINT.size
MIN_FRAME_BYTES = 14

MAX_HINTED_START = 510
"""A checksum that starts later, or at an odd place, has to be completed by the sender."""


def checksum_hint(checksum_start: int, checksum_offset: int) -> bytes:
    """The hint for these, or `NO_HINT` if they cannot be said in one."""
    if checksum_start > MAX_HINTED_START or checksum_start & 1 or checksum_offset > 0xFF:
        return NO_HINT
    return bytes((checksum_start >> 1, checksum_offset))


def bundle_entry(frame: bytes | memoryview, hint: bytes) -> bytes:
    return b"".join((len(frame).to_bytes(2, "big"), hint, frame))


def bundled(plaintext: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Each (hint, frame) of a bundle that starts at `at`; ends early where it makes no sense."""
    end = len(plaintext)
    while at + BUNDLE_ENTRY_BYTES + MIN_FRAME_BYTES <= end:
        frame_at = at + BUNDLE_ENTRY_BYTES
        at = frame_at + (plaintext[at] << 8 | plaintext[at + 1])
        if at > end or at < frame_at + MIN_FRAME_BYTES:
            return
        yield plaintext[frame_at - HINT_BYTES : frame_at], plaintext[frame_at:at]


def plaintext_room(max_datagram_payload_bytes: int, encrypted: bool) -> int:
    """How long a record's plain text may be, inner header included, to fit one datagram."""
    return max_datagram_payload_bytes - HEADER_BYTES - (TAG_BYTES if encrypted else 0)


def inner_bytes(source: int, destination: int, kind: int, hops_left: int) -> bytes:
    """`format.pack_inner_header` without its checks: for ids that were checked before."""
    return (source << 20 | destination << 8 | kind << 4 | hops_left).to_bytes(
        INNER_HEADER_BYTES, "big"
    )


def one_hop_less(plaintext: bytes) -> bytes:
    """The same record with one hop fewer left. The caller has seen that there is one."""
    return b"".join((plaintext[:3], bytes((plaintext[3] - 1,)), plaintext[4:]))


def with_kind(inner: bytes, kind: int) -> bytes:
    """The same inner header for another kind of content."""
    return inner[:3] + bytes((kind << 4 | inner[3] & 0xF,))
