import struct

from hypothesis import given
from hypothesis import strategies as st

from router.overlay.ethernet import (
    IpPacket,
    destination_mac,
    ethertype_and_offset,
    is_multicast,
    parse_ip,
    source_mac,
)

MACS = b"\x02\0\0\0\0\1\x02\0\0\0\0\2"
IPV4 = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 1, 0x4000, 64, 17, 0, b"\n\0\0\1", b"\n\0\0\2")
IPV6 = struct.pack("!IHBB16s16s", 6 << 28, 8, 17, 64, bytes(15) + b"\1", bytes(15) + b"\2")


def test_addresses_are_read_where_they_are():
    frame = memoryview(MACS + b"\x08\x00" + IPV4)
    assert destination_mac(frame) == b"\x02\0\0\0\0\1"
    assert source_mac(frame) == b"\x02\0\0\0\0\2"
    assert not is_multicast(frame)
    assert is_multicast(b"\xff" * 6)


def test_vlan_tags_are_looked_through():
    assert ethertype_and_offset(MACS + b"\x08\x06") == (0x0806, 14)
    assert ethertype_and_offset(MACS + b"\x81\0\0\5\x08\x06") == (0x0806, 18)
    assert ethertype_and_offset(MACS + b"\x88\xa8\0\5\x81\0\0\6\x86\xdd") == (0x86DD, 22)
    assert ethertype_and_offset(MACS + b"\x81\0\0\5\x81\0\0\6\x81\0\0\7\x08\0") == (0, 0)


def test_short_frames_and_802_3_have_no_ethertype():
    assert ethertype_and_offset(MACS + b"\x08") == (0, 0)
    assert ethertype_and_offset(MACS + b"\x81\0\0") == (0, 0)
    assert ethertype_and_offset(MACS + b"\x00\x26" + bytes(38)) == (0, 0)


def test_an_ipv4_packet_is_described():
    frame = MACS + b"\x08\x00" + IPV4 + bytes(8)
    assert parse_ip(frame) == IpPacket(
        version=4,
        offset=14,
        length_bytes=28,
        dont_fragment=True,
        later_fragment=False,
        protocol=17,
        payload_offset=34,
    )


def test_an_ipv4_fragment_without_df_is_seen_as_such():
    frame = bytearray(MACS + b"\x08\x00" + IPV4 + bytes(8))
    frame[20:22] = b"\x00\x05"
    packet = parse_ip(bytes(frame))
    assert packet is not None
    assert packet.later_fragment
    assert not packet.dont_fragment


def test_an_ipv6_packet_is_described():
    packet = parse_ip(MACS + b"\x86\xdd" + IPV6 + bytes(8))
    assert packet is not None
    assert (packet.version, packet.length_bytes, packet.dont_fragment) == (6, 48, True)
    assert (packet.protocol, packet.payload_offset) == (17, 54)


def test_ipv6_extension_headers_are_looked_through():
    options = b"\x2c\0" + bytes(6)
    fragment = b"\x3a\0" + b"\0\x09" + bytes(4)
    header = IPV6[:6] + b"\0" + IPV6[7:]
    packet = parse_ip(MACS + b"\x86\xdd" + header + options + fragment + bytes(8))
    assert packet is not None
    assert packet.protocol == 58
    assert packet.later_fragment
    assert packet.payload_offset == 54 + 16


def test_other_frames_and_broken_headers_are_no_ip_packet():
    assert parse_ip(MACS + b"\x08\x06" + bytes(28)) is None
    assert parse_ip(MACS + b"\x08\x00" + IPV4[:19]) is None
    assert parse_ip(MACS + b"\x08\x00\x44" + IPV4[1:]) is None
    assert parse_ip(MACS + b"\x08\x00\x65" + IPV4[1:]) is None
    assert parse_ip(MACS + b"\x86\xdd" + IPV6[:39]) is None


@given(st.binary(max_size=120), st.sampled_from([b"", b"\x08\x00", b"\x86\xdd", b"\x81\0\0\1"]))
def test_any_bytes_are_parsed_or_refused(data, ethertype):
    parse_ip(memoryview(MACS + ethertype + data))
    parse_ip(data)
