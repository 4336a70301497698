"""Cutting an IPv4 packet, as a router does where the next link takes less (RFC 791, 3.2).

The overlay is one layer-2 segment whose hosts may take packets of different sizes. What may be
fragmented and is too large for its destination is therefore fragmented where it enters.
"""

from router.overlay.ethernet import IPV4_MIN_HEADER_BYTES, Frame, parse_ip
from router.overlay.icmp import checksum

_MORE = 0x2000
_OFFSET = 0x1FFF


def fragments(frame: Frame, mtu_bytes: int) -> list[bytes]:
    """Frames with packets of `mtu_bytes` at most; none if it is no packet that we can cut.

    That is one with DF or with options, which are rare enough. Checksums inside must be complete.
    """
    packet = parse_ip(frame)
    if packet is None or packet.version != 4 or packet.dont_fragment:
        return []
    start, body = packet.offset, packet.offset + IPV4_MIN_HEADER_BYTES
    if packet.payload_offset != body or len(frame) < start + packet.length_bytes:
        return []
    payload = frame[body : start + packet.length_bytes]
    flags = int.from_bytes(frame[start + 6 : start + 8], "big")
    step = (mtu_bytes - IPV4_MIN_HEADER_BYTES) // 8 * 8
    cut = []
    for at in range(0, len(payload), step):
        piece = payload[at : at + step]
        more = flags & _MORE or (_MORE if at + step < len(payload) else 0)
        place = more | (flags & _OFFSET) + at // 8
        header = bytes(frame[start : start + 2])
        header += (IPV4_MIN_HEADER_BYTES + len(piece)).to_bytes(2, "big")
        header += bytes(frame[start + 4 : start + 6]) + place.to_bytes(2, "big")
        header += bytes(frame[start + 8 : start + 10]) + b"\0\0" + bytes(frame[start + 12 : body])
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
        cut.append(bytes(frame[:start]) + header + bytes(piece))
    return cut
