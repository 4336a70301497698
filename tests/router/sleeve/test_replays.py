"""Nothing that was recorded on the wire is ever accepted again, and nothing new is taken for it.

WEAVEPY_REPLAYS=1000000     so many datagrams are recorded and re-sent in each test
"""

import os
from random import Random

import pytest

from tests.router.sleeve.flows import Flow
from tests.router.sleeve.memory import Node, Wire, chain, frame_of, introduce, pair

REPLAYS = int(os.environ.get("WEAVEPY_REPLAYS", "20000"))
BATCH = 64
"""As many datagrams of one size come in one read of the socket."""

REORDERED_BY = 8192
FORGOTTEN_S = 15.0
"""By then an epoch that was replaced is gone."""

pytestmark = pytest.mark.timeout(900)


def record(wire: Wire, one: Node, two: Node, spans: tuple[int, ...] = (1, 4)) -> list[bytes]:
    """Small frames, pieces of large ones, and records that span datagrams, in equal parts."""
    # Its segments are small so that a million of them fit in memory.
    flow = Flow(payload=bytes(4800), mss=100)
    large = two.mac + one.mac + flow.large()[12:]
    for share, span in enumerate(spans, start=1):
        one.pin_span(two, span)
        while len(wire.carried) < REPLAYS * share // (len(spans) + 1):
            one.feed(large, flow.virtio())
            wire.run()
    while len(wire.carried) < REPLAYS:
        one.feed(frame_of(one.mac, two.mac))
        one.end_turn()
        wire.run()
    recorded, wire.carried = wire.carried, []
    assert two.bridge
    return [datagram for datagram in recorded if datagram]


def replay(recorded: list[bytes], node: Node, host: str) -> None:
    at = 0
    while at < len(recorded):
        size, end = len(recorded[at]), at + 1
        while end < len(recorded) and end - at < BATCH and len(recorded[end]) == size:
            end += 1
        node.receive(b"".join(recorded[at:end]), size, host)
        node.end_turn()
        at = end


def refused(node: Node) -> int:
    drops = node.drops()
    return drops.get("replayed", 0) + drops.get("unknown-index", 0)


def assert_refuses(wire: Wire, node: Node, recorded: list[bytes], host: str) -> None:
    before = refused(node)
    node.bridge.clear()
    wire.carried.clear()
    replay(recorded, node, host)
    assert node.bridge == []
    wire.run()
    assert wire.carried == [], "no answer, and nothing passed on"
    assert refused(node) - before == len(recorded)


def test_in_the_same_epoch_and_in_the_next_no_recorded_datagram_is_accepted() -> None:
    wire, one, two = pair()
    recorded = record(wire, one, two)
    assert_refuses(wire, two, recorded, one.host)
    Random(1).shuffle(recorded)
    assert_refuses(wire, two, recorded, "192.0.2.66")
    assert_refuses(wire, one, recorded, two.host)

    wire.join(one, two, seed=2)
    wire.pass_time(1.0)
    assert len(two.engine.epochs) == 2
    assert_refuses(wire, two, recorded, one.host)
    wire.pass_time(FORGOTTEN_S)
    assert len(two.engine.epochs) == 1
    assert_refuses(wire, two, recorded, one.host)
    assert two.forwarder(one).session.endpoint[0] == one.host


@pytest.mark.parametrize("restarted", [1, 2])
def test_after_a_restart_of_either_side_no_recorded_datagram_is_accepted(restarted: int) -> None:
    wire, one, two = pair()
    recorded = record(wire, one, two)
    if restarted == 1:
        one = Node(wire, 1)
        wire.route(one, {2: 2}, {1: [2], 2: []})
    else:
        two = Node(wire, 2)
        wire.route(two, {1: 1}, {2: [1], 1: []})
        assert_refuses(wire, two, recorded, one.host)
    wire.join(one, two, seed=2)
    wire.pass_time(3.0)
    assert one.forwarder(two).session.up
    assert_refuses(wire, two, recorded, one.host)
    assert_refuses(wire, one, recorded, two.host)
    introduce(wire, one, two)
    one.feed(frame_of(one.mac, two.mac))
    wire.run()
    assert len(two.bridge) == 1, "what is new passes"


def test_through_a_relay_no_recorded_datagram_is_accepted() -> None:
    wire, (one, two, three) = chain(3)
    flow = Flow(payload=bytes(4800), mss=100)
    large = three.mac + one.mac + flow.large()[12:]
    while len(wire.carried) < REPLAYS:
        one.feed(large, flow.virtio())
        one.feed(frame_of(one.mac, three.mac))
        wire.run()
    recorded, wire.carried = wire.carried, []
    assert three.bridge
    three.bridge.clear()
    for node, host in ((two, one.host), (three, two.host), (two, three.host), (one, two.host)):
        assert_refuses(wire, node, recorded, host)
    assert three.bridge == []


def test_datagrams_that_were_overtaken_by_eight_thousand_others_are_all_accepted() -> None:
    wire, one, two = pair(offload=(False, False))
    for number in range(REPLAYS):
        one.feed(frame_of(one.mac, two.mac, number.to_bytes(4, "big").ljust(50)))
        one.end_turn()
    sent = [datagram for batch in wire.batches for datagram in batch.datagrams]
    wire.batches.clear()
    assert len(sent) == REPLAYS
    # Every second one is overtaken by exactly so many that were sent after it.
    order = sorted(range(REPLAYS), key=lambda n: n + (REORDERED_BY + 1.5) * (n % 2))
    lag = 0
    highest = -1
    for number in order:
        highest = max(highest, number)
        lag = max(lag, highest - number)
    assert lag >= min(REORDERED_BY, REPLAYS // 2)
    replay([sent[number] for number in order], two, one.host)
    arrived = [int.from_bytes(frame[14:18], "big") for frame in two.bridge]
    assert arrived == order
    assert two.drops().get("replayed", 0) == 0
