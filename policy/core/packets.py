"""Reading the headers of a packet that may be cut: who, to whom, and which ports."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from policy.core.objects import Address

NUMBERS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}
WITH_PORTS = (6, 17, 132)
_EXTENSIONS = (0, 43, 60, 135)
"""IPv6 headers that say what follows them and how long they are (RFC 8200, 6275)."""
_FRAGMENT = 44
_MAX_EXTENSIONS = 8


@dataclass(frozen=True, slots=True)
class Packet:
    source: Address
    destination: Address
    protocol: str
    """ "tcp", "udp", "sctp", "icmp", or its number."""
    source_port: int | None = None
    destination_port: int | None = None


def read_packet(data: bytes) -> Packet | None:
    """None for what is no IP packet, or too short to say whose it is."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        length = (data[0] & 15) * 4
        is_first = int.from_bytes(data[6:8]) & 0x1FFF == 0
        ends = IPv4Address(data[12:16]), IPv4Address(data[16:20])
        return _with_ports(*ends, data[9], data[length:] if is_first else b"")
    if len(data) >= 40 and data[0] >> 4 == 6:
        ends6 = IPv6Address(data[8:24]), IPv6Address(data[24:40])
        protocol, offset = data[6], 40
        for _ in range(_MAX_EXTENSIONS):
            if len(data) < offset + 8:
                break
            if protocol in _EXTENSIONS:
                protocol, offset = data[offset], offset + 8 + data[offset + 1] * 8
            elif protocol == _FRAGMENT:
                if int.from_bytes(data[offset + 2 : offset + 4]) & 0xFFF8:
                    return _with_ports(*ends6, data[offset], b"")
                protocol, offset = data[offset], offset + 8
            else:
                break
        return _with_ports(*ends6, protocol, data[offset:])
    return None


def _with_ports(source: Address, destination: Address, protocol: int, rest: bytes) -> Packet:
    name = NUMBERS.get(protocol, str(protocol))
    if protocol not in WITH_PORTS or len(rest) < 4:
        return Packet(source, destination, name)
    ports = int.from_bytes(rest[:2]), int.from_bytes(rest[2:4])
    return Packet(source, destination, name, *ports)
