"""Offers, messages about keys and heartbeats on the wire; what is neither is refused or nothing."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdp.core.messages import (
    PREFIX,
    Answer,
    Confirm,
    Done,
    EspMessage,
    Heartbeat,
    Offer,
    Propose,
    Renew,
    decode_heartbeat,
    decode_message,
    encode_heartbeat,
    encode_message,
)
from weavepy.base.errors import ProtocolError
from weavepy.base.wire import encode

OFFER = Offer(True, "", b"12345678", 1400, 6784, "10.0.0.1")


def test_an_offer_survives_the_wire_and_begins_as_no_other_message() -> None:
    payload = encode_message(OFFER)
    assert payload.startswith(PREFIX)
    assert decode_message(payload) == OFFER


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
        decode_message(encode_message(wrong))


NONCE, PROOF = b"n" * 32, b"p" * 16
PROPOSE = Propose(NONCE, 256)
ANSWER = Answer(NONCE, NONCE, 0xFFFFFFFF, PROOF)


@pytest.mark.parametrize("message", [PROPOSE, ANSWER, Confirm(NONCE, PROOF), Done(NONCE), Renew()])
def test_messages_about_keys_survive_the_wire(message: EspMessage) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize(
    "wrong",
    [
        Propose(b"short", 256),
        Propose(NONCE, 255),
        Propose(NONCE, 1 << 32),
        Answer(NONCE, b"", 256, PROOF),
        Answer(NONCE, NONCE, 256, b""),
        Confirm(b"", PROOF),
        Confirm(NONCE, b""),
        Done(b""),
    ],
)
def test_messages_about_keys_out_of_bounds_are_the_peers_fault(wrong: EspMessage) -> None:
    with pytest.raises(ProtocolError):
        decode_message(encode_message(wrong))


def test_an_offer_of_a_router_that_knows_no_esp_means_no() -> None:
    old = {"type": "Offer", "willing": False, "reason": "no", "token": b"12345678"}
    old |= {"mtu_bytes": 1400, "port": 6784, "your_host": "10.0.0.1"}
    offer = decode_message(PREFIX + encode(old))
    assert isinstance(offer, Offer)
    assert not offer.esp


@given(st.binary(max_size=80))
def test_any_bytes_are_an_offer_or_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_message(PREFIX + data)


def test_a_heartbeat_has_fourteen_bytes_and_any_padding() -> None:
    beat = Heartbeat(b"abcdefgh", 7, 1250)
    payload = encode_heartbeat(beat)
    assert payload.hex() == b"abcdefgh".hex() + "00000007" + "04e2"
    assert decode_heartbeat(payload + bytes(1400)) == beat
    assert decode_heartbeat(payload[:-1]) is None
