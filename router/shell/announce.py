"""Telling the neighbours where an address lives now: gratuitous ARP and unsolicited NA.

Who had talked to an address before may still hold the MAC of a container that is gone. The
frames built here correct such caches, and on their way teach every bridge and switch between
on which side the MAC is. RFC 5227 (section 3, ARP announcement) and RFC 4861 (section 7.2.6).
"""

import socket
import struct
from collections.abc import Iterable
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address

from weavepy.kernel.behind import do_behind
from weavepy.kernel.netlink import explained

ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
ARP_REQUEST = 1
NEXT_HEADER_ICMPV6 = 58
NEIGHBOUR_ADVERTISEMENT = 136
OVERRIDE = 0x20000000
OPTION_TARGET_LINK_ADDRESS = 2
ALL_NODES = IPv6Address("ff02::1")


class Announcer:
    """Speaks out of an interface of the namespace in which it is made, from whichever thread."""

    def __init__(self, interface: str) -> None:
        self._doing = f"announcing addresses on {interface}"
        with explained(self._doing):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            try:
                self._socket.bind((interface, 0))
            except OSError:
                self.close()
                raise

    def announce(self, mac: str, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
        """Send one frame per address."""
        with explained(self._doing):
            for address in addresses:
                self._socket.send(announcement(mac, address))

    def close(self) -> None:
        """The kernel does it when no processor can be using it any more: 8 to 16 ms later."""
        do_behind(self._socket.close)


def announce(interface: str, mac: str, addresses: Iterable[IPv4Address | IPv6Address]) -> None:
    """Send one frame per address out of an interface of the thread's namespace."""
    wanted = list(addresses)
    if wanted:
        with closing(Announcer(interface)) as announcer:
            announcer.announce(mac, wanted)


def announcement(mac: str, address: IPv4Address | IPv6Address) -> bytes:
    hardware = bytes.fromhex(mac.replace(":", ""))
    if isinstance(address, IPv4Address):
        return gratuitous_arp(hardware, address)
    return unsolicited_advertisement(hardware, address)


def gratuitous_arp(hardware: bytes, address: IPv4Address) -> bytes:
    header = b"\xff" * 6 + hardware + struct.pack("!H", ETHERTYPE_ARP)
    request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, ARP_REQUEST)
    return header + request + hardware + address.packed + bytes(6) + address.packed


def unsolicited_advertisement(hardware: bytes, address: IPv6Address) -> bytes:
    body = struct.pack("!BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, OVERRIDE) + address.packed
    body += bytes([OPTION_TARGET_LINK_ADDRESS, 1]) + hardware
    pseudo = address.packed + ALL_NODES.packed
    pseudo += struct.pack("!IxxxB", len(body), NEXT_HEADER_ICMPV6)
    body = body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]
    packet = struct.pack("!IHBB", 6 << 28, len(body), NEXT_HEADER_ICMPV6, 255)
    packet += address.packed + ALL_NODES.packed + body
    return b"\x33\x33\x00\x00\x00\x01" + hardware + struct.pack("!H", ETHERTYPE_IPV6) + packet


def checksum(data: bytes) -> int:
    """RFC 1071, for data of even length."""
    assert len(data) % 2 == 0
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
