"""Beside tunnels of the kernel: what the datapath still sends, and what it tells the router."""

from random import Random
from typing import Any

from router.overlay.strays import MAX_WAITING
from router.overlay.switch import RELAYED_AFTER_S
from router.sleeve.format import BROADCAST_HEADER, KIND_FRAME, PASS_ON, pack_inner_header
from router.sleeve.messages import (
    MAX_FAST_MACS,
    MAX_MESSAGE_BYTES,
    FastPeersSet,
    MacsOnTap,
    SetFastPeers,
    from_datapath_decoder,
    to_datapath_decoder,
)
from router.sleeve.steering import FAST_MAC_AGE_S, HOUSEKEEPING_S
from tests.router.sleeve.memory import PLAIN_VIRTIO, Node, Wire, chain, frame_of, pair
from weavepy.base.wire import encode

EVERYONE = b"\xff" * 6


def set_fast(
    wire: Wire,
    node: Node,
    *fast: Node,
    relays: tuple[Node, ...] = (),
    tunnels: tuple[Node, ...] = (),
    learn: Any = None,
) -> FastPeersSet:
    """What the router would say, and the answer."""
    node.steering.handle_message(
        SetFastPeers(
            generation=7,
            fast=[other.number for other in fast],
            relays=[other.number for other in relays],
            tunnels=[other.number for other in tunnels],
            learn=learn or {},
        ),
        wire.now,
    )
    answer = node.told.pop()
    assert isinstance(answer, FastPeersSet)
    assert answer.generation == 7
    return answer


def strays(node: Node) -> dict[int, list[str]]:
    """As the process does at the end of each turn."""
    if not node.engine.strays.waiting:
        return {}
    node.steering.handle_strays()
    told = node.told.pop()
    assert isinstance(told, MacsOnTap)
    return told.macs


def test_the_answer_says_what_is_known_behind_fast_peers() -> None:
    wire, (one, two, three) = chain(3)

    assert set_fast(wire, one, two).macs == {2: [two.mac.hex(":")]}
    assert set_fast(wire, one, two, three).macs == {
        2: [two.mac.hex(":")],
        3: [three.mac.hex(":")],
    }
    assert one.steering.snapshot(wire.now).fast == [2, 3]


def test_our_broadcasts_do_not_go_to_fast_peers() -> None:
    wire, one, two = pair()
    set_fast(wire, one, two)

    one.feed(frame_of(one.mac, EVERYONE))
    one.feed(frame_of(one.mac, b"\2\0\0\0\0\x77"))
    wire.run()
    assert two.bridge == []

    set_fast(wire, one)
    one.feed(frame_of(one.mac, EVERYONE))
    wire.run()
    assert len(two.bridge) == 1


def test_a_broadcast_too_big_for_a_datagram_is_passed_on_in_the_same_way() -> None:
    wire, (one, two, three) = chain(3)
    set_fast(wire, one, two, relays=(two,))
    one.forwarder(two).session.max_datagram_payload_bytes = 900
    frame = frame_of(one.mac, EVERYONE, Random(5).randbytes(1300))

    one.feed(frame)
    wire.run()

    assert two.bridge == []
    assert three.bridge == [PLAIN_VIRTIO + frame]


def test_new_routes_keep_to_the_fast_peers() -> None:
    wire, (one, two, three) = chain(3)
    set_fast(wire, one, two, relays=(two,))
    wire.route(one, {2: 2, 3: 2}, {1: [2]})

    one.feed(frame_of(one.mac, EVERYONE))
    wire.run()

    assert two.bridge == []
    assert len(three.bridge) == 1


def test_broadcasts_of_others_go_on_to_fast_peers() -> None:
    # The tunnel takes what our own bridge floods, and this does not come from there.
    wire, (one, two, three) = chain(3)
    set_fast(wire, two, three)

    one.feed(frame_of(one.mac, EVERYONE))
    wire.run()

    assert len(two.bridge) == len(three.bridge) == 1


def test_what_others_relay_of_a_peer_with_a_tunnel_to_us_is_passed_on_and_not_delivered() -> None:
    # The tunnel may have brought it: routes change at one end first.
    wire, (one, two, three, four) = chain(4)
    set_fast(wire, three, tunnels=(one,))

    one.feed(frame_of(one.mac, EVERYONE))
    wire.run()
    assert three.bridge == []
    assert three.drops()["relayed-beside-tunnel"] == 1
    assert len(two.bridge) == len(four.bridge) == 1

    set_fast(wire, three)
    one.feed(frame_of(one.mac, EVERYONE))
    wire.run()
    assert three.bridge == [], "the other end may not have heard of it yet"

    wire.now += RELAYED_AFTER_S
    one.feed(frame_of(one.mac, EVERYONE))
    wire.run()
    assert len(three.bridge) == 1


def test_nobody_but_the_source_says_that_a_broadcast_came_by_tunnel() -> None:
    wire, (one, two, three) = chain(3)
    plaintext = pack_inner_header(1, 0xFFF, KIND_FRAME | PASS_ON, 5)
    plaintext += BROADCAST_HEADER.pack(1, 10**6) + frame_of(one.mac, EVERYONE)

    two.forwarder(three).send_record(plaintext)
    wire.run()

    assert three.drops()["malformed"] == 1
    assert three.bridge == []


def test_a_frame_that_comes_to_us_for_a_fast_peer_goes_by_sleeve_and_the_router_hears_of_it() -> (
    None
):
    wire, one, two = pair()
    set_fast(wire, one, two)
    frame = frame_of(one.mac, two.mac)

    one.feed(frame)
    wire.run()

    assert two.bridge == [PLAIN_VIRTIO + frame]
    assert strays(one) == {2: [two.mac.hex(":")]}


def test_the_router_hears_of_an_address_once_a_second() -> None:
    wire, one, two = pair()
    set_fast(wire, one, two)
    for _ in range(10):
        one.feed(frame_of(one.mac, two.mac))
    assert strays(one) == {2: [two.mac.hex(":")]}

    one.feed(frame_of(one.mac, two.mac))
    assert strays(one) == {}

    wire.now += 1.0
    one.feed(frame_of(one.mac, two.mac))
    assert strays(one) == {2: [two.mac.hex(":")]}


def test_the_router_hears_of_few_addresses_at_once_and_of_the_others_later() -> None:
    wire, one, two = pair()
    macs = [bytes((2, 0, 0, 0, 1, number)) for number in range(MAX_WAITING + 10)]
    set_fast(wire, one, two, learn={2: [mac.hex(":") for mac in macs]})

    def feed_all() -> list[str]:
        for mac in macs:
            one.feed(frame_of(one.mac, mac))
        return strays(one).get(2, [])

    assert sorted(feed_all() + feed_all()) == [mac.hex(":") for mac in macs]


def test_without_fast_peers_the_router_hears_nothing() -> None:
    _, one, two = pair()
    one.feed(frame_of(one.mac, two.mac))
    assert strays(one) == {}


def test_what_a_tunnel_had_learnt_is_known_when_it_retires() -> None:
    wire, one, two = pair()
    taught = b"\2\0\0\0\0\x77"

    set_fast(wire, one, two, learn={2: [taught.hex(":"), "no MAC", "", "ff:ff:ff:ff:ff:ff"]})

    assert one.switch.macs.lookup(taught) == 2
    assert one.switch.macs.lookup(EVERYONE) is None


def test_what_is_behind_a_tunnel_is_forgotten_before_the_bridge_forgets_it() -> None:
    # Known here and unknown to the bridge, it would go to its peer by tunnel and by sleeve.
    wire, (one, two, three) = chain(3)
    set_fast(wire, one, two)

    wire.pass_time(FAST_MAC_AGE_S + HOUSEKEEPING_S + 1, step_s=1.0)

    assert one.switch.macs.lookup(two.mac) is None
    assert one.switch.macs.lookup(three.mac) == 3
    assert one.switch.macs.lookup(one.mac) == 1


def test_the_fullest_answer_fits_one_message() -> None:
    wire, one, two = pair()
    macs = [(2 << 40 | number).to_bytes(6, "big") for number in range(MAX_FAST_MACS + 5)]
    for mac in macs:
        one.switch.learn_behind(mac, 2, wire.now)

    answer = set_fast(wire, one, two)

    assert answer.macs == {2: [mac.hex(":") for mac in macs[:4:-1]]}
    assert len(encode(answer)) < MAX_MESSAGE_BYTES
    assert from_datapath_decoder.decode(encode(answer)) == answer


def test_the_messages_survive_the_wire() -> None:
    wanted = SetFastPeers(generation=1, fast=[2], relays=[2], learn={2: ["02:00:00:00:00:01"]})
    told = MacsOnTap({2: ["02:00:00:00:00:01"]})

    assert to_datapath_decoder.decode(encode(wanted)) == wanted
    assert from_datapath_decoder.decode(encode(told)) == told
