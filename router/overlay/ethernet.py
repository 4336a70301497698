"""Reading Ethernet frames: just the fields on which the switch and the path MTU depend.

Frames are `bytes` or `memoryview` and are never copied, only looked at. A frame that is too
short or contradicts itself is not an error here but `None` or 0: the bridge carries whatever
containers send, and so do we.
"""

from dataclasses import dataclass

MAC_BYTES = 6
HEADER_BYTES = 14
VLAN_TAG_BYTES = 4
MAX_VLAN_TAGS = 2

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
_VLAN_ETHERTYPES = (0x8100, 0x88A8)

BROADCAST_MAC = b"\xff" * MAC_BYTES

PROTOCOL_ICMPV4 = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_ICMPV6 = 58

IPV4_MIN_HEADER_BYTES = 20
IPV6_HEADER_BYTES = 40

_IPV6_EXTENSIONS = (0, 43, 60)
"""Hop-by-hop options, routing, destination options: all begin with next header and length."""
_IPV6_FRAGMENT = 44
_MAX_IPV6_EXTENSIONS = 8

Frame = bytes | memoryview


def destination_mac(frame: Frame) -> bytes:
    return bytes(frame[0:6])


def source_mac(frame: Frame) -> bytes:
    return bytes(frame[6:12])


def is_multicast(mac: Frame) -> bool:
    """Whether this address, or the destination of this frame, is a group (broadcast included)."""
    return bool(mac[0] & 1)


def ethertype_and_offset(frame: Frame) -> tuple[int, int]:
    """The type of what the frame carries, under VLAN tags if any, and where that begins.

    (0, 0) for a frame that ends too early, or is 802.3 (the field is a length), or has more
    than two tags.
    """
    offset = HEADER_BYTES
    if len(frame) < offset:
        return 0, 0
    ethertype = frame[12] << 8 | frame[13]
    for _ in range(MAX_VLAN_TAGS):
        if ethertype not in _VLAN_ETHERTYPES:
            break
        offset += VLAN_TAG_BYTES
        if len(frame) < offset:
            return 0, 0
        ethertype = frame[offset - 2] << 8 | frame[offset - 1]
    if ethertype < 0x0600 or ethertype in _VLAN_ETHERTYPES:
        return 0, 0
    return ethertype, offset


@dataclass(frozen=True, slots=True)
class IpPacket:
    """Where an IP packet lies in its frame and what matters of its header."""

    version: int
    offset: int
    """Of the IP header in the frame."""
    length_bytes: int
    """Of the whole packet as its header has it; at least the header's own length."""
    dont_fragment: bool
    """The DF bit; always true of IPv6, which no one on the way may fragment."""
    later_fragment: bool
    """A fragment other than the first: what follows the header is not a transport header."""
    protocol: int
    """Of the payload; for IPv6 the last next-header value that could be followed."""
    payload_offset: int
    """Of what `protocol` describes, in the frame; may lie beyond its end."""


def parse_ip(frame: Frame) -> IpPacket | None:
    """The IP packet that a frame carries; None for other frames and for broken headers."""
    ethertype, offset = ethertype_and_offset(frame)
    if ethertype == ETHERTYPE_IPV4:
        return _parse_ipv4(frame, offset)
    if ethertype == ETHERTYPE_IPV6:
        return _parse_ipv6(frame, offset)
    return None


def _parse_ipv4(frame: Frame, offset: int) -> IpPacket | None:
    if len(frame) < offset + IPV4_MIN_HEADER_BYTES or frame[offset] >> 4 != 4:
        return None
    header_bytes = (frame[offset] & 0xF) * 4
    length_bytes = frame[offset + 2] << 8 | frame[offset + 3]
    if header_bytes < IPV4_MIN_HEADER_BYTES or length_bytes < header_bytes:
        return None
    if len(frame) < offset + header_bytes:
        return None
    flags_and_fragment = frame[offset + 6] << 8 | frame[offset + 7]
    return IpPacket(
        version=4,
        offset=offset,
        length_bytes=length_bytes,
        dont_fragment=bool(flags_and_fragment & 0x4000),
        later_fragment=bool(flags_and_fragment & 0x1FFF),
        protocol=frame[offset + 9],
        payload_offset=offset + header_bytes,
    )


def _parse_ipv6(frame: Frame, offset: int) -> IpPacket | None:
    if len(frame) < offset + IPV6_HEADER_BYTES or frame[offset] >> 4 != 6:
        return None
    length_bytes = IPV6_HEADER_BYTES + (frame[offset + 4] << 8 | frame[offset + 5])
    protocol = frame[offset + 6]
    payload = offset + IPV6_HEADER_BYTES
    later_fragment = False
    for _ in range(_MAX_IPV6_EXTENSIONS):
        if len(frame) < payload + 8:
            break
        if protocol in _IPV6_EXTENSIONS:
            protocol, payload = frame[payload], payload + (frame[payload + 1] + 1) * 8
        elif protocol == _IPV6_FRAGMENT and not later_fragment:
            later_fragment = bool((frame[payload + 2] << 8 | frame[payload + 3]) >> 3)
            protocol, payload = frame[payload], payload + 8
            if later_fragment:
                break
        else:
            break
    return IpPacket(
        version=6,
        offset=offset,
        length_bytes=length_bytes,
        dont_fragment=True,
        later_fragment=later_fragment,
        protocol=protocol,
        payload_offset=payload,
    )
