"""Frames as a pcapng file, which `tcpdump -r` and Wireshark read, written block by block.

What is written here is the least that is a file: a section header, one Ethernet interface, a
block for each packet, and at the end how many there should have been. Each packet says whether
it went out to peers or came in from one. See draft-ietf-opsawg-pcapng.
"""

from collections.abc import Iterator
from struct import Struct, error, unpack_from

from weavepy.base.errors import ProtocolError

SECTION = 0x0A0D0D0A
INTERFACE = 1
PACKET = 6
STATISTICS = 5

LINK_TYPE_ETHERNET = 1
MAX_BLOCK_BYTES = 1024 * 1024

_NANOSECONDS = 9
_OPTION_END = bytes(4)
_OPTION_NAME = 2
_OPTION_RESOLUTION = 9
_OPTION_FLAGS = 2
_OPTION_RECEIVED = 4
_OPTION_DROPPED = 5
_INBOUND, _OUTBOUND = 1, 2

_uint32 = Struct("<I")
_block_head = Struct("<II")
_packet_head = Struct("<IIIIIII")
_option = Struct("<HH")


def file_head(interface: str, snap_bytes: int) -> bytes:
    section = Struct("<IHHq").pack(0x1A2B3C4D, 1, 0, -1)
    described = Struct("<HHI").pack(LINK_TYPE_ETHERNET, 0, snap_bytes)
    described += _with_option(_OPTION_NAME, interface.encode())
    described += _with_option(_OPTION_RESOLUTION, bytes((_NANOSECONDS,))) + _OPTION_END
    return _block(SECTION, section) + _block(INTERFACE, described)


def packet(at_ns: int, data: bytes, length: int, *, outbound: bool) -> bytes:
    """`data` is as much as is kept of a frame of this length; the time counts from 1970."""
    padding = -len(data) % 4
    total = _packet_head.size + len(data) + padding + 12 + 4
    head = _packet_head.pack(PACKET, total, 0, at_ns >> 32, at_ns & 0xFFFFFFFF, len(data), length)
    flags = _with_option(_OPTION_FLAGS, _uint32.pack(_OUTBOUND if outbound else _INBOUND))
    return b"".join((head, data, bytes(padding), flags, _OPTION_END, _uint32.pack(total)))


def statistics(at_ns: int, received: int, dropped: int) -> bytes:
    """How many packets there were, and how many of them are not in the file."""
    content = Struct("<III").pack(0, at_ns >> 32, at_ns & 0xFFFFFFFF)
    content += _with_option(_OPTION_RECEIVED, Struct("<Q").pack(received))
    content += _with_option(_OPTION_DROPPED, Struct("<Q").pack(dropped)) + _OPTION_END
    return _block(STATISTICS, content)


class Reader:
    """Takes a file in parts of any size and gives its blocks, each (type, content)."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Raises `ProtocolError` where the blocks' lengths make no sense."""
        self._rest += data
        at = 0
        while len(self._rest) - at >= _block_head.size:
            kind, length = _block_head.unpack_from(self._rest, at)
            if not 12 <= length <= MAX_BLOCK_BYTES or length % 4:
                raise ProtocolError(f"not a pcapng file: a block of {length} bytes")
            if len(self._rest) - at < length:
                break
            yield kind, self._rest[at + 8 : at + length - 4]
            at += length
        self._rest = self._rest[at:]


def dropped_of(content: bytes) -> int:
    """How many packets a statistics block says were dropped."""
    at = 12
    try:
        while at < len(content):
            code, length = _option.unpack_from(content, at)
            if code == _OPTION_DROPPED:
                return int(unpack_from("<Q", content, at + 4)[0])
            at += 4 + length + -length % 4
    except error as wrong:
        raise ProtocolError("not a pcapng file: an option without an end") from wrong
    return 0


def frame_of(content: bytes) -> tuple[bytes, int, bool]:
    """What is kept of the frame in a packet block, its length, and whether it went out."""
    try:
        _, _, _, kept, length = unpack_from("<IIIII", content, 0)
        at = 20 + kept + -kept % 4
        (flags,) = _uint32.unpack_from(content, at + 4)
    except error as wrong:
        raise ProtocolError("not a packet as we write it") from wrong
    return content[20 : 20 + kept], length, flags & 3 == _OUTBOUND


def _block(kind: int, content: bytes) -> bytes:
    total = len(content) + 12
    return _block_head.pack(kind, total) + content + _uint32.pack(total)


def _with_option(code: int, value: bytes) -> bytes:
    return _option.pack(code, len(value)) + value + bytes(-len(value) % 4)
