"""What a sleeve datagram looks like on the wire, and how much room it leaves for a frame.

    type 1 | receiver index 4 | record counter 8 | piece number 1 | piece count 1 | ciphertext

All numbers are big endian. The 15 bytes before the ciphertext are its additional authenticated
data. The index was drawn at random by the receiver and says which session and which keys; the
counter is the nonce, and it never repeats under one key. In an insecure mesh the types are
others, the ciphertext is the plain text, and there is no tag, so no datagram of the one kind
can ever be taken for the other.

A record may *span* datagrams: they share its counter, each carries a slice of the one ciphertext
(with its one tag), number and count say which. The authenticated header is that of the first.
The record is used whole or not at all. In datagrams of the other types, which are records of
their own, number and count place a piece in its large frame.

The plain text of a data record begins with the inner header, which relays read:

    source short id 12 bits | destination short id 12 bits | kind 4 bits | hops left 4 bits
"""

from struct import Struct

TYPE_DATA = 1
TYPE_CONTROL = 2
TYPE_PLAIN_DATA = 3
"""Data of an insecure mesh: no encryption and no tag."""
TYPE_PLAIN_CONTROL = 4
TYPE_SPAN = 5
"""Data, one slice of a record that spans several datagrams."""
TYPE_PLAIN_SPAN = 6
TYPE_PARITY = 7
"""What a lost datagram of data can be made from: see `router.sleeve.parity`."""
TYPE_PLAIN_PARITY = 8

HEADER = Struct("!BIQBB")
"""Type, receiver index, record counter, piece number, piece count."""

HEADER_BYTES = HEADER.size
TAG_BYTES = 16
INNER_HEADER_BYTES = 4

BROADCAST_SHORT_ID = 0xFFF
"""As a destination: everyone. No peer is ever given this short id."""

MAX_HOPS = 15

KIND_FRAME = 0
"""One whole Ethernet frame follows the inner header."""
KIND_FRAGMENT = 1
"""One part of an Ethernet frame that did not fit: see `router.sleeve.fragments`."""

PASS_ON = 8
"""Bit of a kind, on a broadcast's first hop: the receiver's bridge has got this frame by the fast
path; it is here only to go on along the source's tree, where it travels without the bit."""

BROADCAST_HEADER = Struct("!IQ")
"""After the inner header when the destination is everyone: the source's boot nonce and sequence."""

IPV4_HEADER_BYTES = 20
IPV6_HEADER_BYTES = 40
UDP_HEADER_BYTES = 8
ETHERNET_HEADER_BYTES = 14

MIN_OVERLAY_MTU_BYTES = 476
"""An underlay of 576 bytes, the least that IPv4 promises, leaves this."""

OVERLAY_OVERHEAD_BYTES = 100
"""Underlay MTU minus overlay MTU: one round number for both families, so that hosts agree."""

_SLEEVE_BYTES = HEADER_BYTES + TAG_BYTES + INNER_HEADER_BYTES + ETHERNET_HEADER_BYTES
assert HEADER_BYTES == 15
assert IPV4_HEADER_BYTES + UDP_HEADER_BYTES + _SLEEVE_BYTES == 77
assert IPV6_HEADER_BYTES + UDP_HEADER_BYTES + _SLEEVE_BYTES == 97
assert IPV6_HEADER_BYTES + UDP_HEADER_BYTES + _SLEEVE_BYTES <= OVERLAY_OVERHEAD_BYTES


def overlay_mtu_of(underlay_mtu_bytes: int) -> int:
    """The largest inner IP packet that is sure to fit one datagram of an underlay packet."""
    return underlay_mtu_bytes - OVERLAY_OVERHEAD_BYTES


def ip_overhead_of(host: str) -> int:
    """Bytes of an underlay packet that are not UDP payload, by the family of a numeric address.

    An IPv4 address that was mapped into IPv6 (`::ffff:10.0.0.1`) travels as IPv4.
    """
    if ":" in host and "." not in host:
        return IPV6_HEADER_BYTES + UDP_HEADER_BYTES
    return IPV4_HEADER_BYTES + UDP_HEADER_BYTES


def pack_inner_header(source: int, destination: int, kind: int, hops_left: int) -> bytes:
    assert 0 <= source <= 0xFFF
    assert 0 <= destination <= 0xFFF
    assert 0 <= kind <= 0xF
    assert 0 <= hops_left <= MAX_HOPS
    return (source << 20 | destination << 8 | kind << 4 | hops_left).to_bytes(4, "big")


def unpack_inner_header(data: bytes | memoryview) -> tuple[int, int, int, int]:
    """Source, destination, kind, hops left. `data` has at least 4 bytes."""
    word = int.from_bytes(data[:4], "big")
    return word >> 20, word >> 8 & 0xFFF, word >> 4 & 0xF, word & 0xF
