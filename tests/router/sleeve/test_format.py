import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sleeve.format import (
    BROADCAST_SHORT_ID,
    HEADER,
    HEADER_BYTES,
    KIND_FRAGMENT,
    TYPE_DATA,
    ip_overhead_of,
    overlay_mtu_of,
    pack_inner_header,
    unpack_inner_header,
)

short_ids = st.integers(0, 0xFFF)
nibbles = st.integers(0, 15)


def test_the_datagram_header_has_these_bytes():
    header = HEADER.pack(TYPE_DATA, 0x01020304, 0x1112131415161718, 2, 9)
    assert header.hex() == "010102030411121314151617180209"
    assert len(header) == HEADER_BYTES == 15


def test_the_inner_header_has_these_bytes():
    inner = pack_inner_header(0x123, BROADCAST_SHORT_ID, KIND_FRAGMENT, 15)
    assert inner.hex() == "123fff1f"


@given(short_ids, short_ids, nibbles, nibbles)
def test_the_inner_header_says_what_was_put_in(source, destination, kind, hops_left):
    packed = pack_inner_header(source, destination, kind, hops_left)
    assert unpack_inner_header(memoryview(packed + b"frame")) == (
        source,
        destination,
        kind,
        hops_left,
    )


@pytest.mark.parametrize(
    ("host", "overhead_bytes"),
    [("10.0.0.1", 28), ("2001:db8::1", 48), ("::1", 48), ("::ffff:10.0.0.1", 28)],
)
def test_overhead_follows_the_family_of_the_address(host, overhead_bytes):
    assert ip_overhead_of(host) == overhead_bytes


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1"])
@pytest.mark.parametrize("underlay_mtu_bytes", [1280, 1500, 9000])
def test_a_frame_of_the_overlay_mtu_fits_one_datagram(host, underlay_mtu_bytes):
    frame_bytes = overlay_mtu_of(underlay_mtu_bytes) + 14
    assert ip_overhead_of(host) + 15 + 4 + frame_bytes + 16 <= underlay_mtu_bytes


def test_the_overlay_mtu_is_as_large_as_promised():
    assert overlay_mtu_of(1500) == 1400
    assert overlay_mtu_of(9000) == 8900
