"""Telling a container that its packet is too big for the path: the only ICMP that we make.

A packet that must not be fragmented and does not fit gets "fragmentation needed" (RFC 792, with
the next hop's MTU as in RFC 1191) or "packet too big" (RFC 4443). The overlay is one layer-2
segment, so there is no router whose address the message could bear: it comes from the address
that the packet was going to, and from that MAC. Stacks look at the packet that the message
quotes, not at who sent it.

RFC 1122 (3.2.2) and RFC 4443 (2.4 e) forbid to answer ICMP errors, later fragments, packets to
a group and packets whose source is not one host. RFC 4443 would allow "packet too big" for
multicast; we don't, since one sender could so be answered by each peer.
"""

from struct import Struct

from router.overlay.ethernet import (
    PROTOCOL_ICMPV4,
    PROTOCOL_ICMPV6,
    Frame,
    IpPacket,
    parse_ip,
)

MIN_IPV4_MTU_BYTES = 68
MIN_IPV6_MTU_BYTES = 1280
"""IPv6 hosts ignore a smaller one (RFC 8201, 4), so such packets are to be fragmented by us."""

QUOTED_IPV4_BYTES = 548
"""So that the answer has at most 576 bytes (RFC 1812, 4.3.2.3)."""
QUOTED_IPV6_BYTES = MIN_IPV6_MTU_BYTES - 40 - 8

_HOP_LIMIT = 64
_ICMPV4_UNREACHABLE = 3
_ICMPV4_FRAGMENTATION_NEEDED = 4
_ICMPV4_ERRORS = (3, 4, 5, 11, 12)
_ICMPV6_TOO_BIG = 2
_ICMPV6_FIRST_INFORMATIONAL = 128
_ICMPV6_REDIRECT = 137
_IPV4_HEADER = Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = Struct("!IHBB16s16s")
_ICMPV4_HEADER = Struct("!BBHHH")
_ICMPV6_HEADER = Struct("!BBHI")


def too_big_answer(frame: Frame, mtu_bytes: int) -> bytes | None:
    """The frame that tells the sender of this one that packets may have `mtu_bytes` at most.

    None if there is no one to tell, or it would not help: the packet may be fragmented, is not
    IP, is itself an ICMP error, or goes to a group. Whether it is too big is for the caller to
    know (a large frame is going to be cut into segments that may well fit).
    """
    packet = parse_ip(frame)
    if packet is None or not packet.dont_fragment or packet.later_fragment:
        return None
    if frame[0] & 1 or frame[6] & 1 or _is_icmp_error(frame, packet):
        return None
    if packet.version == 4:
        answer = _fragmentation_needed(frame, packet, mtu_bytes)
    else:
        answer = _packet_too_big(frame, packet, mtu_bytes)
    if answer is None:
        return None
    types_and_tags = bytes(frame[12 : packet.offset])
    return bytes(frame[6:12]) + bytes(frame[0:6]) + types_and_tags + answer


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of these bytes."""
    if len(data) % 2:
        data += b"\0"
    # The one's complement sum of 16-bit words is the number modulo 65,535, except that a sum
    # which is not zero is written as 65,535 and not as 0.
    total = int.from_bytes(data, "big")
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def _is_icmp_error(frame: Frame, packet: IpPacket) -> bool:
    if packet.protocol not in (PROTOCOL_ICMPV4, PROTOCOL_ICMPV6):
        return False
    if len(frame) <= packet.payload_offset:
        return True
    kind = frame[packet.payload_offset]
    if packet.version == 4:
        return packet.protocol == PROTOCOL_ICMPV4 and kind in _ICMPV4_ERRORS
    if packet.protocol != PROTOCOL_ICMPV6:
        return False
    return kind < _ICMPV6_FIRST_INFORMATIONAL or kind == _ICMPV6_REDIRECT


def _fragmentation_needed(frame: Frame, packet: IpPacket, mtu_bytes: int) -> bytes | None:
    offset = packet.offset
    source = bytes(frame[offset + 12 : offset + 16])
    destination = bytes(frame[offset + 16 : offset + 20])
    if mtu_bytes < MIN_IPV4_MTU_BYTES or not _one_ipv4_host(source):
        return None
    if not _one_ipv4_host(destination):
        return None
    quoted = _quote(frame, packet, QUOTED_IPV4_BYTES)
    body = _ICMPV4_HEADER.pack(_ICMPV4_UNREACHABLE, _ICMPV4_FRAGMENTATION_NEEDED, 0, 0, mtu_bytes)
    body += quoted
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    header = _IPV4_HEADER.pack(
        0x45,
        0xC0,  # internetwork control, as RFC 1812 (4.3.2.5) asks of ICMP errors
        _IPV4_HEADER.size + len(body),
        0,
        0x4000,
        _HOP_LIMIT,
        PROTOCOL_ICMPV4,
        0,
        destination,
        source,
    )
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + body


def _packet_too_big(frame: Frame, packet: IpPacket, mtu_bytes: int) -> bytes | None:
    offset = packet.offset
    source = bytes(frame[offset + 8 : offset + 24])
    destination = bytes(frame[offset + 24 : offset + 40])
    if mtu_bytes < MIN_IPV6_MTU_BYTES or not _one_ipv6_host(source):
        return None
    if not _one_ipv6_host(destination):
        return None
    body = _ICMPV6_HEADER.pack(_ICMPV6_TOO_BIG, 0, 0, mtu_bytes)
    body += _quote(frame, packet, QUOTED_IPV6_BYTES)
    pseudo_header = destination + source + Struct("!II").pack(len(body), PROTOCOL_ICMPV6)
    body = body[:2] + checksum(pseudo_header + body).to_bytes(2, "big") + body[4:]
    header = _IPV6_HEADER.pack(6 << 28, len(body), PROTOCOL_ICMPV6, _HOP_LIMIT, destination, source)
    return header + body


def _quote(frame: Frame, packet: IpPacket, limit_bytes: int) -> bytes:
    """The packet from its header on, without what pads the frame, up to the limit."""
    return bytes(frame[packet.offset : packet.offset + min(limit_bytes, packet.length_bytes)])


def _one_ipv4_host(address: bytes) -> bool:
    """Not unspecified, loopback, multicast, reserved or broadcast."""
    return address[0] not in (0, 127) and address[0] < 224


def _one_ipv6_host(address: bytes) -> bool:
    return address[0] != 0xFF and any(address)
