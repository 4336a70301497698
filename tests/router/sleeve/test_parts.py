"""Messages that are larger than a packet of the socket between router and datapath."""

import pytest

from router.sleeve.messages import (
    MAX_MESSAGE_BYTES,
    InstallRoutes,
    Part,
    Report,
    to_datapath_decoder,
)
from router.sleeve.parts import MAX_PARTS, Joiner, packets
from weavepy.base.errors import ProtocolError
from weavepy.base.wire import encode


def star(neighbours: int) -> InstallRoutes:
    """The routes of a star's centre."""
    leaves = range(1, neighbours + 1)
    return InstallRoutes(
        ourself=0,
        unicast={leaf: leaf for leaf in leaves},
        broadcast={leaf: [other for other in leaves if other != leaf] for leaf in leaves},
        short_ids={leaf: f"peer {leaf}" for leaf in leaves},
    )


@pytest.fixture
def joiner() -> Joiner:
    return Joiner(to_datapath_decoder)


def test_a_small_message_is_one_packet_without_any_frills(joiner: Joiner) -> None:
    assert packets(Report()) == [encode(Report())]
    assert joiner.take(encode(Report())) == Report()


def test_a_large_message_comes_out_with_its_last_part_and_not_before(joiner: Joiner) -> None:
    routes = star(600)
    sent = packets(routes)
    assert len(sent) > 2
    assert max(map(len, sent)) <= MAX_MESSAGE_BYTES
    assert [joiner.take(packet) for packet in sent[:-1]] == [None] * (len(sent) - 1)
    assert joiner.take(sent[-1]) == routes
    assert joiner.take(encode(Report())) == Report()


@pytest.mark.parametrize(
    "order", [(1, 2), (0, 2), (0, 0), (0, 1, 1)], ids=["no first", "gap", "twice", "late twice"]
)
def test_parts_out_of_order_are_refused_and_the_next_message_is_understood(
    joiner: Joiner, order: tuple[int, ...]
) -> None:
    sent = packets(star(600))
    for number in order[:-1]:
        with_first = order[0] == 0
        if with_first:
            assert joiner.take(sent[number]) is None
        else:
            with pytest.raises(ProtocolError):
                joiner.take(sent[number])
    with pytest.raises(ProtocolError):
        joiner.take(sent[order[-1]])
    assert joiner.take(encode(Report())) == Report()


def test_a_message_amid_parts_ends_them(joiner: Joiner) -> None:
    sent = packets(star(600))
    assert joiner.take(sent[0]) is None
    with pytest.raises(ProtocolError, match="instead of part 1"):
        joiner.take(encode(Report()))
    with pytest.raises(ProtocolError, match="out of order"):
        joiner.take(sent[1])


@pytest.mark.parametrize(
    "part",
    [
        Part(0, 0, b""),
        Part(0, MAX_PARTS + 1, b""),
        Part(-1, 2, b""),
        Part(1, 1, b""),
        Part(0, 1, b"\xff"),
        Part(0, 1, encode(Part(0, 1, encode(Report())))),
    ],
)
def test_a_part_that_cannot_be_is_refused(joiner: Joiner, part: Part) -> None:
    with pytest.raises(ProtocolError):
        joiner.take(encode(part))


def test_there_is_an_end_to_how_large_a_message_may_be() -> None:
    names = dict.fromkeys(range(MAX_PARTS), "n" * MAX_MESSAGE_BYTES)
    with pytest.raises(ProtocolError, match="too large"):
        packets(InstallRoutes(0, {}, {}, names))
