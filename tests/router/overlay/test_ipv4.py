from ipaddress import ip_address

import pytest

from router.overlay.icmp import checksum
from router.overlay.ipv4 import fragments

ETHERNET = b"\2\0\0\0\0\2" + b"\2\0\0\0\0\1" + b"\x08\x00"
MORE = 0x2000
DONT = 0x4000


def packet(payload: bytes, flags: int = 0, options: bytes = b"") -> bytes:
    header_bytes = 20 + len(options)
    header = bytes([0x40 | header_bytes // 4, 0]) + (header_bytes + len(payload)).to_bytes(2, "big")
    header += b"\x12\x34" + flags.to_bytes(2, "big") + b"\x40\x11\0\0"
    header += ip_address("10.32.0.1").packed + ip_address("10.32.0.2").packed + options
    return ETHERNET + header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload


def joined(frames: list[bytes]) -> bytes:
    """As a receiver puts them together; asserts that each is sound by itself."""
    whole = bytearray()
    for number, frame in enumerate(frames):
        header, payload = frame[14:34], frame[34:]
        assert frame[:14] == ETHERNET
        assert checksum(header) == 0
        assert int.from_bytes(header[2:4], "big") == 20 + len(payload)
        place = int.from_bytes(header[6:8], "big")
        assert (place & 0x1FFF) * 8 == len(whole)
        assert bool(place & MORE) == (number < len(frames) - 1)
        assert header[4:6] == b"\x12\x34"
        whole += payload
    return bytes(whole)


@pytest.mark.parametrize("mtu_bytes", [576, 1400, 1401, 4999])
def test_the_pieces_make_the_packet_and_none_is_larger_than_asked(mtu_bytes: int) -> None:
    payload = bytes(range(256)) * 20
    pieces = fragments(packet(payload), mtu_bytes)
    assert joined(pieces) == payload
    assert max(len(piece) - 14 for piece in pieces) <= mtu_bytes
    assert len(pieces) == -(-len(payload) // ((mtu_bytes - 20) // 8 * 8))


def test_what_follows_the_packet_in_its_frame_is_left_out() -> None:
    assert joined(fragments(packet(bytes(3000)) + b"trailer", 1400)) == bytes(3000)


def test_a_fragment_is_cut_again_and_stays_in_its_place() -> None:
    pieces = fragments(packet(bytes(2000), flags=MORE | 100), 1400)
    places = [int.from_bytes(piece[20:22], "big") for piece in pieces]
    assert places == [MORE | 100, MORE | (100 + 1376 // 8)]


@pytest.mark.parametrize(
    "frame",
    [
        packet(bytes(3000), flags=DONT),
        packet(bytes(3000), options=b"\x94\x04\0\0"),
        packet(bytes(3000))[:1500],
        ETHERNET[:12] + b"\x86\xdd" + bytes(3000),
        ETHERNET + bytes(5),
    ],
    ids=["DF", "options", "cut short", "IPv6", "runt"],
)
def test_what_cannot_be_cut_is_not(frame: bytes) -> None:
    assert fragments(frame, 1400) == []
