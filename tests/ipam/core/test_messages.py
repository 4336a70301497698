"""What is on the wire: round trips, golden bytes, and nothing but `ProtocolError` for garbage."""

from contextlib import suppress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.core.messages import (
    ForeignUniverse,
    Hint,
    SpaceRequest,
    Update,
    UpdateCodec,
    decode_message,
    encode_message,
)
from ipam.core.paxos import NO_BALLOT, Ballot, Proposal, Vote
from ipam.core.ranges import Universe
from ipam.core.ring import Entry
from tests.ipam.core.mesh import peer_name
from weavepy.base.errors import ProtocolError

UNIVERSE = Universe.of(ip_network("fd00::/64"))
CODEC = UpdateCodec(UNIVERSE)
A, B = peer_name(1), peer_name(2)

FULL = Update(
    ring_id=b"12345678",
    entries=[
        Entry(UNIVERSE.first, 2**63, A, 3, 1),
        Entry(UNIVERSE.first + 2**63, 2**63, B, 1, 0, disputed=True),
    ],
    hints={A: Hint(4, 100)},
    votes={
        A: Vote(Ballot(2, B), NO_BALLOT, None),
        B: Vote(Ballot(2, B), Ballot(2, B), Proposal(b"12345678", (A, B))),
    },
    nicknames={A: "host1"},
    slices={3: b"x" * 256},
    more=True,
)


def test_an_update_survives_the_wire() -> None:
    assert CODEC.decode(CODEC.encode(FULL)) == FULL


def test_the_bytes_of_an_update_are_these() -> None:
    codec = UpdateCodec(Universe.of(ip_network("10.32.0.0/24")))
    first = int(ip_network("10.32.0.0/24")[0])
    update = Update(ring_id=b"ring", entries=[Entry(first + 128, 64, A, 2, 1)])
    assert codec.encode(update).hex() == (
        "99"
        "9304c4100000000000000000000000000a20000008"
        "c40472696e67"
        "9192c406020000000001a0"
        "9198cc803f000201c20000"
        "90908" + "0c290"
    )


def test_messages_survive_the_wire() -> None:
    message = SpaceRequest(1, b"12345678", 0, 2**64 - 1, True)
    assert decode_message(encode_message(message)) == message


def test_updates_of_another_universe_are_told_apart() -> None:
    other = UpdateCodec(Universe.of(ip_network("10.32.0.0/12")))
    with pytest.raises(ForeignUniverse) as caught:
        CODEC.decode(other.encode(Update()))
    assert caught.value.universe == "10.32.0.0/12"


def test_combine_says_what_both_say() -> None:
    older = Update(ring_id=b"r", entries=[Entry(UNIVERSE.first, 9, A, 1, 0)], hints={A: Hint(1, 5)})
    newer = Update(ring_id=b"r", entries=[Entry(UNIVERSE.first, 4, A, 2, 1)], hints={A: Hint(2, 3)})
    combined = CODEC.decode(CODEC.combine(CODEC.encode(older), CODEC.encode(newer)))
    assert combined.entries == newer.entries
    assert combined.hints == {A: Hint(2, 3)}
    assert CODEC.decode(CODEC.combine(CODEC.encode(newer), CODEC.encode(older))) == combined


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_protocol_error(data: bytes) -> None:
    for decode in (CODEC.decode, decode_message):
        with suppress(ProtocolError):
            decode(data)
    CODEC.combine(data, data)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_a_mangled_update_decodes_or_raises_protocol_error(at: int, data: bytes) -> None:
    good = CODEC.encode(FULL)
    at %= len(good)
    with suppress(ProtocolError):
        CODEC.decode(good[:at] + data + good[at + len(data) :])
