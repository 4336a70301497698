import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.sleeve.control import (
    Acceptance,
    Answer,
    Offer,
    Probe,
    Receipt,
    decode_control,
    encode_control,
)

EXAMPLES = [
    (Probe(0x0102030405060708, 0x1234), "0101020304050607081234"),
    (Answer(1, 1472), "020000000000000001000005c0"),
    (Offer(b"basebase", b"p" * 32, 7), "03" + b"basebase".hex() + "70" * 32 + "00000007"),
    (
        Acceptance(b"basebase", b"offeroff", b"q" * 32, 0xFFFFFFFF),
        "04" + b"basebase".hex() + b"offeroff".hex() + "71" * 32 + "ffffffff",
    ),
    (Receipt(64, 0xFFFFFFFF, 7, 5), "05c0ffffffff0000000700000005"),
    (Receipt(64, 0xFFFFFFFF, 7, None), "0540ffffffff00000007"),
]


@pytest.mark.parametrize(("message", "wire"), EXAMPLES)
def test_messages_have_these_bytes(message, wire):
    assert encode_control(message).hex() == wire
    assert decode_control(bytes.fromhex(wire)) == message


@pytest.mark.parametrize(("message", "wire"), EXAMPLES)
def test_padding_after_a_message_changes_nothing(message, wire):
    assert decode_control(bytes.fromhex(wire) + bytes(1400)) == message


@pytest.mark.parametrize(("message", "wire"), EXAMPLES)
def test_a_message_cut_short_is_no_message(message, wire):
    for length in range(len(wire) // 2):
        assert decode_control(bytes.fromhex(wire)[:length]) is None


@given(st.binary(max_size=200))
def test_decoding_any_bytes_gives_a_message_or_none(data):
    message = decode_control(data)
    if message is not None:
        assert data.startswith(encode_control(message))
