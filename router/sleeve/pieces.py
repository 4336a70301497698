"""Large frames in pieces: how a TSO or USO frame is cut, and how pieces become frames again.

With offloads the kernel hands us up to 64 KiB of one TCP (or UDP) flow as one *large frame*:
one set of headers, then payload that counts as many segments of `gso_size` bytes. Each piece
travels in its own datagram as *those same headers, untouched*, and its slice of the payload.
So cutting costs no header work at all, and the receiver can put any consecutive run of pieces
back together: only where a run does not begin at the first piece or end at the last one do the
headers need to be made true, which is what `true_headers` does, for one piece as for forty.

The rules are the kernel's own (tcp_gso_segment, __udp_gso_segment): IPv4 id and TCP sequence
count up from the first piece, CWR belongs to the first, FIN and PSH to the last, lengths are
the run's own. The transport checksum is *partial* all along: the field holds the sum of the
pseudo header, and who writes to the wire adds the rest. `complete_checksum` is for a receiver
whose TAP has no offloads.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from router.overlay.icmp import checksum as internet_checksum
from weavepy.base.errors import ProtocolError

GSO_NONE = 0
GSO_TCP4 = 1
GSO_TCP6 = 4
GSO_UDP = 5
GSO_ECN = 0x80
"""Values of virtio_net_hdr.gso_type; ECN is a flag beside one of the TCP types."""

CHECKSUM_OFFSETS = {GSO_TCP4: 16, GSO_TCP6: 16, GSO_TCP4 | GSO_ECN: 16, GSO_TCP6 | GSO_ECN: 16}
CHECKSUM_OFFSETS[GSO_UDP] = 6
"""Where in the transport header the checksum is; the keys are all the kinds we cut."""

MAX_PIECES = 255
"""The outer header counts pieces in one byte."""

_ETHERTYPE_IPV6 = 0x86DD
_VLAN_ETHERTYPES = (0x8100, 0x88A8)
_MAX_VLAN_TAGS = 2
_UDP_HEADER_BYTES = 8
_TCP_HEADER_BYTES = 20
_TCP_FLAGS_AT = 13
_FIN_PSH = 0x09
_CWR = 0x80

_u16 = struct.Struct(">H")
_u32 = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Cut:
    """How one large frame falls into pieces. Offsets count from the Ethernet header."""

    gso_type: int
    header_bytes: int
    """Of Ethernet, IP and transport header together: the same bytes open each piece."""
    checksum_start: int
    """Where the transport header begins."""
    gso_size: int
    count: int


def plan_cut(
    frame: bytes | memoryview, gso_type: int, gso_size: int, checksum_start: int
) -> Cut | None:
    """Return None for a frame that no sane kernel hands over; it is to be dropped.

    `count` may exceed `MAX_PIECES` when segments are tiny: such a frame cannot travel in pieces
    and `segments` has to take it apart.
    """
    header_bytes = header_length(frame, gso_type, checksum_start)
    if not header_bytes or not gso_size or len(frame) <= header_bytes:
        return None
    count = (len(frame) - header_bytes + gso_size - 1) // gso_size
    return Cut(gso_type, header_bytes, checksum_start, gso_size, count)


def header_length(frame: bytes | memoryview, gso_type: int, checksum_start: int) -> int:
    """Length of all headers, or 0 if the frame is not what its `gso_type` says."""
    if gso_type not in CHECKSUM_OFFSETS or checksum_start < 34:
        return 0
    if gso_type == GSO_UDP:
        header_bytes = checksum_start + _UDP_HEADER_BYTES
    else:
        if len(frame) < checksum_start + _TCP_HEADER_BYTES:
            return 0
        data_offset_bytes = (frame[checksum_start + 12] >> 4) * 4
        if data_offset_bytes < _TCP_HEADER_BYTES:
            return 0
        header_bytes = checksum_start + data_offset_bytes
    return header_bytes if len(frame) >= header_bytes else 0


def true_headers(
    headers: bytes,
    gso_type: int,
    checksum_start: int,
    gso_size: int,
    first: int,
    includes_last: bool,
    payload_bytes: int,
) -> bytes:
    """Make a large frame's headers true for the run of its pieces that starts at `first`.

    `gso_size` is the payload of each piece but the last. The checksum stays partial.
    Raises `ProtocolError` if these are not the headers of such a frame.
    """
    ip_at = _network_offset(headers)
    is_ipv6 = headers[ip_at] >> 4 == 6
    fixed = bytearray(headers)
    transport_bytes = len(headers) - checksum_start + payload_bytes
    ip_header_bytes = checksum_start - ip_at
    if ip_header_bytes < (40 if is_ipv6 else 20):
        raise ProtocolError("a piece whose transport header begins inside its IP header")
    if is_ipv6:
        old_transport_bytes = _u16.unpack_from(headers, ip_at + 4)[0] + 40 - ip_header_bytes
        _u16.pack_into(fixed, ip_at + 4, ip_header_bytes - 40 + transport_bytes)
    else:
        old_transport_bytes = _u16.unpack_from(headers, ip_at + 2)[0] - ip_header_bytes
        _u16.pack_into(fixed, ip_at + 2, ip_header_bytes + transport_bytes)
        identification = (_u16.unpack_from(headers, ip_at + 4)[0] + first) & 0xFFFF
        _u16.pack_into(fixed, ip_at + 4, identification)
        _u16.pack_into(fixed, ip_at + 10, 0)
        _u16.pack_into(fixed, ip_at + 10, internet_checksum(bytes(fixed[ip_at:checksum_start])))
    if gso_type == GSO_UDP:
        _u16.pack_into(fixed, checksum_start + 4, transport_bytes)
    else:
        sequence = _u32.unpack_from(headers, checksum_start + 4)[0] + first * gso_size
        _u32.pack_into(fixed, checksum_start + 4, sequence & 0xFFFFFFFF)
        if not includes_last:
            fixed[checksum_start + _TCP_FLAGS_AT] &= ~_FIN_PSH & 0xFF
        if first:
            fixed[checksum_start + _TCP_FLAGS_AT] &= ~_CWR & 0xFF
    checksum_at = checksum_start + CHECKSUM_OFFSETS[gso_type]
    partial = _u16.unpack_from(headers, checksum_at)[0] + transport_bytes - old_transport_bytes
    # Arithmetic modulo 65535 is ones' complement arithmetic.
    _u16.pack_into(fixed, checksum_at, partial % 0xFFFF)
    return bytes(fixed)


def gso_size_before(headers: bytes, checksum_start: int, count: int, last_bytes: int) -> int:
    """The payload of each piece but the last, told from the last one; 0 if that makes no sense.

    The headers are those of the whole frame, so they hold its whole length.
    """
    try:
        ip_at = _network_offset(headers)
    except ProtocolError:
        return 0
    length = _u16.unpack_from(headers, ip_at + (4 if headers[ip_at] >> 4 == 6 else 2))[0]
    if headers[ip_at] >> 4 == 6:
        length += 40
    before = length - (len(headers) - ip_at) - last_bytes
    gso_size, remainder = divmod(before, count - 1)
    return gso_size if not remainder and gso_size >= last_bytes else 0


def segments(frame: bytes | memoryview, cut: Cut) -> Iterator[bytes]:
    """Take a large frame apart into ordinary frames, their checksums still partial."""
    headers = bytes(frame[: cut.header_bytes])
    for number in range(cut.count):
        start = cut.header_bytes + number * cut.gso_size
        payload = bytes(frame[start : start + cut.gso_size])
        yield (
            true_headers(
                headers,
                cut.gso_type,
                cut.checksum_start,
                cut.gso_size,
                number,
                number == cut.count - 1,
                len(payload),
            )
            + payload
        )


def complete_checksum(frame: bytes, checksum_start: int, checksum_offset: int) -> bytes:
    """Finish a partial checksum. Raises `ProtocolError` if it does not lie inside the frame."""
    checksum_at = checksum_start + checksum_offset
    if checksum_at + 2 > len(frame):
        raise ProtocolError("a checksum beyond the end of its frame")
    # In UDP 0 means "none". Its double 0xFFFF is as good for every protocol.
    checksum = internet_checksum(frame[checksum_start:])
    return b"".join((frame[:checksum_at], _u16.pack(checksum or 0xFFFF), frame[checksum_at + 2 :]))


def _network_offset(headers: bytes) -> int:
    """Where the IP header begins, behind any VLAN tags."""
    at = 12
    for _ in range(_MAX_VLAN_TAGS + 1):
        if len(headers) < at + 2 + 20:
            break
        ethertype = _u16.unpack_from(headers, at)[0]
        if ethertype not in _VLAN_ETHERTYPES:
            if headers[at + 2] >> 4 == (6 if ethertype == _ETHERTYPE_IPV6 else 4):
                return at + 2
            break
        at += 4
    raise ProtocolError("a piece that is not an IP packet")
