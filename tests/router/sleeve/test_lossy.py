"""On a path that loses datagrams small records leave twice, and arrive once."""

import pytest

from router.sleeve.control import Receipt
from router.sleeve.spans import LOSSY_DATAGRAMS, MAX_SPAN, SpanChoice
from tests.router.sleeve.memory import Node, Wire, chain, frame_of, pair


def acknowledge(wire: Wire, one: Node, two: Node, size: int = 52) -> list[bytes]:
    """Send a small frame from one to the other; return the datagrams that left."""
    one.feed(frame_of(one.mac, two.mac, bytes(size)))
    one.end_turn()
    left = [datagram for batch in wire.batches for datagram in batch.datagrams]
    wire.run()
    return left


def test_a_small_record_survives_the_loss_of_either_datagram() -> None:
    for lost in (0, 1):
        wire, one, two = pair()
        one.forwarder(two).session.lossy = True
        wire.lose = lambda batch, number, lost=lost: number == lost
        first, second = acknowledge(wire, one, two)
        assert first == second, "the same record, so that no nonce is used for two texts"
        assert len(two.bridge) == 1


def test_a_small_record_that_comes_twice_is_delivered_once() -> None:
    wire, one, two = pair()
    one.forwarder(two).session.lossy = True
    acknowledge(wire, one, two)
    assert len(two.bridge) == 1
    assert two.drops()["replayed"] == 1


@pytest.mark.parametrize(("lossy", "size"), [(False, 52), (True, 300), (True, 1386)])
def test_nothing_leaves_twice_on_a_clean_path_nor_what_is_not_small(lossy: bool, size: int) -> None:
    wire, one, two = pair()
    one.forwarder(two).session.lossy = lossy
    assert len(acknowledge(wire, one, two, size)) == 1
    assert two.drops() == {}


def test_a_relay_decides_by_the_loss_of_the_path_onward() -> None:
    wire, (one, two, three) = chain()
    two.forwarder(three).session.lossy = True
    assert len(acknowledge(wire, one, three)) == 1
    assert len(three.bridge) == 1
    assert three.drops()["replayed"] == 1


def test_a_path_is_lossy_from_a_loss_until_enough_came_through() -> None:
    choice = SpanChoice()

    def told(datagrams: int, lost: int) -> bool:
        choice.handle_receipt(Receipt(MAX_SPAN, datagrams, lost), 0.0)
        return choice.lossy

    n = LOSSY_DATAGRAMS
    assert [told(0, 0), told(n, 0)] == [False, False]
    assert [told(n + 1, 1), told(2 * n, 1), told(2 * n + 1, 1)] == [True, True, False]
    assert told(2 * n + 2, 2)
    choice.start_anew()
    assert not choice.lossy, "nothing is known of another path"
