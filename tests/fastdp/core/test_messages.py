"""Offers and heartbeats on the wire; what is neither is refused or nothing."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdp.core.messages import (
    PREFIX,
    Heartbeat,
    Offer,
    decode_heartbeat,
    decode_offer,
    encode_heartbeat,
    encode_offer,
)
from weavepy.base.errors import ProtocolError

OFFER = Offer(True, "", b"12345678", 1400, 6784, "10.0.0.1")


def test_an_offer_survives_the_wire_and_begins_as_no_other_message() -> None:
    payload = encode_offer(OFFER)
    assert payload.startswith(PREFIX)
    assert decode_offer(payload) == OFFER


@pytest.mark.parametrize(
    "wrong",
    [
        Offer(True, "", b"1234567", 1400, 6784, ""),
        Offer(False, "x" * 201, b"12345678", 1400, 6784, ""),
        Offer(False, "a\x1b[2Jb", b"12345678", 1400, 6784, ""),
        Offer(True, "", b"12345678", 0, 6784, ""),
        Offer(True, "", b"12345678", 65536, 6784, ""),
        Offer(True, "", b"12345678", 1400, 0, ""),
        Offer(True, "", b"12345678", 1400, 6784, "\n"),
        Offer(True, "", b"12345678", 1400, 6784, "x" * 65),
    ],
)
def test_an_offer_out_of_bounds_is_the_peers_fault(wrong: Offer) -> None:
    with pytest.raises(ProtocolError):
        decode_offer(encode_offer(wrong))


@given(st.binary(max_size=80))
def test_any_bytes_are_an_offer_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_offer(PREFIX + data)


def test_a_heartbeat_has_fourteen_bytes_and_any_padding() -> None:
    beat = Heartbeat(b"abcdefgh", 7, 1250)
    payload = encode_heartbeat(beat)
    assert payload.hex() == b"abcdefgh".hex() + "00000007" + "04e2"
    assert decode_heartbeat(payload + bytes(1400)) == beat
    assert decode_heartbeat(payload[:-1]) is None
