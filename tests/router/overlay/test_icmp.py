import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.overlay.icmp import checksum, too_big_answer

TO, FROM = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"
V4_FROM, V4_TO = b"\x0a\x20\0\1", b"\x0a\x20\0\2"
V6_FROM, V6_TO = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"


def ipv4(payload: bytes, *, flags: int = 0x4000, protocol: int = 6, **address: bytes) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        20 + len(payload),
        7,
        flags,
        64,
        protocol,
        0,
        address.get("source", V4_FROM),
        address.get("destination", V4_TO),
    )
    return TO + FROM + b"\x08\x00" + header + payload


def ipv6(payload: bytes, *, protocol: int = 6, **address: bytes) -> bytes:
    header = struct.pack(
        "!IHBB16s16s",
        6 << 28,
        len(payload),
        protocol,
        64,
        address.get("source", V6_FROM),
        address.get("destination", V6_TO),
    )
    return TO + FROM + b"\x86\xdd" + header + payload


def slow_checksum(data: bytes) -> int:
    """RFC 1071 to the letter: add 16-bit words with end-around carry, complement."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for (word,) in struct.iter_unpack("!H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@given(st.binary(max_size=100))
def test_checksum_is_that_of_rfc_1071(data):
    assert checksum(data) == slow_checksum(data)


def test_the_example_of_rfc_1071():
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


def test_fragmentation_needed_names_the_mtu_and_quotes_the_packet():
    frame = ipv4(bytes(range(256)) * 6)
    answer = too_big_answer(memoryview(frame), 1400)
    assert answer is not None
    assert answer[:14] == FROM + TO + b"\x08\x00"
    header, icmp = answer[14:34], answer[34:]
    assert header[12:16] == V4_TO
    assert header[16:20] == V4_FROM
    assert header[9] == 1
    assert slow_checksum(header) == 0
    assert struct.unpack("!H", header[2:4])[0] == len(answer) - 14 <= 576
    assert icmp[:2] == b"\x03\x04"
    assert struct.unpack("!H", icmp[6:8])[0] == 1400
    assert slow_checksum(icmp) == 0
    assert frame[14:].startswith(icmp[8:])
    assert len(icmp[8:]) >= 28


def test_packet_too_big_names_the_mtu_and_quotes_the_packet():
    frame = ipv6(bytes(range(256)) * 6)
    answer = too_big_answer(frame, 1380)
    assert answer is not None
    assert answer[:14] == FROM + TO + b"\x86\xdd"
    header, icmp = answer[14:54], answer[54:]
    assert header[8:24] == V6_TO
    assert header[24:40] == V6_FROM
    assert len(header + icmp) == 1280
    assert icmp[:2] == b"\x02\x00"
    assert struct.unpack("!I", icmp[4:8])[0] == 1380
    pseudo = header[8:40] + struct.pack("!II", len(icmp), 58)
    assert slow_checksum(pseudo + icmp) == 0
    assert frame[14:].startswith(icmp[8:])


def test_a_short_packet_is_quoted_without_the_padding_of_its_frame():
    answer = too_big_answer(ipv4(b"12345678") + bytes(100), 1400)
    assert answer is not None
    assert len(answer) == 14 + 20 + 8 + 28


def test_vlan_tags_are_kept():
    frame = ipv4(bytes(1500))
    tagged = frame[:12] + b"\x81\0\0\5" + frame[12:]
    answer = too_big_answer(tagged, 1400)
    assert answer is not None
    assert answer[12:18] == b"\x81\0\0\5\x08\x00"


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(ipv4(bytes(1500), flags=0), id="may be fragmented"),
        pytest.param(ipv4(bytes(1500), flags=0x4005), id="later fragment"),
        pytest.param(ipv4(b"\x03" + bytes(50), protocol=1), id="icmp error"),
        pytest.param(ipv4(b"", protocol=1), id="icmp without a type"),
        pytest.param(ipv4(bytes(1500), destination=b"\xe0\0\0\1"), id="to a group"),
        pytest.param(ipv4(bytes(1500), destination=b"\xff" * 4), id="to everyone"),
        pytest.param(ipv4(bytes(1500), source=bytes(4)), id="from no one"),
        pytest.param(ipv4(bytes(1500), source=b"\x7f\0\0\1"), id="from loopback"),
        pytest.param(b"\xff" * 6 + ipv4(bytes(1500))[6:], id="broadcast frame"),
        pytest.param(ipv6(b"\x01" + bytes(50), protocol=58), id="icmpv6 error"),
        pytest.param(ipv6(b"\x89" + bytes(50), protocol=58), id="icmpv6 redirect"),
        pytest.param(ipv6(bytes(1500), destination=b"\xff\2" + bytes(14)), id="to an ipv6 group"),
        pytest.param(ipv6(bytes(1500), source=bytes(16)), id="from the unspecified address"),
        pytest.param(TO + FROM + b"\x08\x06" + bytes(28), id="arp"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_must_not_be_answered_is_not(frame):
    assert too_big_answer(frame, 1400) is None


@pytest.mark.parametrize(
    "frame",
    [ipv4(b"\x08" + bytes(1500), protocol=1), ipv6(b"\x80" + bytes(1500), protocol=58)],
)
def test_a_ping_that_is_too_big_is_answered(frame):
    assert too_big_answer(frame, 1400) is not None


def test_ipv6_is_never_told_less_than_every_ipv6_link_has():
    assert too_big_answer(ipv6(bytes(1500)), 1279) is None
    assert too_big_answer(ipv6(bytes(1500)), 1280) is not None


@given(st.binary(max_size=150), st.sampled_from([b"\x08\x00", b"\x86\xdd"]))
def test_any_frame_is_answered_or_not_and_raises_nothing(data, ethertype):
    too_big_answer(TO + FROM + ethertype + data, 1400)
    too_big_answer(data, 1400)
