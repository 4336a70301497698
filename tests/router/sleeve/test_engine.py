"""Engines that talk to each other over a wire in memory, with real sessions and real keys."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.overlay.flood import PEER_COPIES_PER_S
from router.sleeve.format import HEADER, KIND_FRAME, pack_inner_header
from router.sleeve.messages import DropCount, InstallRoutes, RemoveSession, SessionUp
from router.sleeve.pieces import complete_checksum
from router.sleeve.record import KIND_BUNDLE, KIND_PARTIAL, KIND_PIECE
from tests.router.sleeve.flows import ACK, PSH, UDP, Flow, as_kernel
from tests.router.sleeve.memory import (
    PLAIN_VIRTIO,
    Node,
    Wire,
    chain,
    frame_of,
    introduce,
    pair,
)

LARGE = Flow(payload=Random(1).randbytes(60_000), mss=1348, tcp_options=bytes(12), flags=ACK | PSH)


def between(flow: Flow, source: Node, destination: Node) -> tuple[bytes, bytes]:
    """The flow's large frame between two containers, and its virtio header."""
    frame = flow.large()
    return destination.mac + source.mac + frame[12:], flow.virtio()


def wire_segments(flow: Flow, source: Node, destination: Node) -> list[bytes]:
    return [
        destination.mac + source.mac + flow.segment(number)[12:] for number in range(flow.count)
    ]


def left_by(node: Node, flow: Flow) -> list[bytes]:
    """What leaves that host's kernel for its container."""
    return [segment for written in node.bridge for segment in as_kernel(written, flow.ip_at)]


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_frame_crosses_as_it_is(encrypted: bool) -> None:
    wire, one, two = pair(encrypted=encrypted)
    frame = frame_of(one.mac, two.mac)
    one.feed(frame)
    wire.run()
    assert two.bridge == [PLAIN_VIRTIO + frame]
    assert any(frame in datagram for datagram in wire.carried) == (not encrypted)


def test_small_frames_of_one_turn_share_a_record_and_keep_their_order() -> None:
    wire, one, two = pair()
    frames = [frame_of(one.mac, two.mac, b"%d" % number * 20) for number in range(50)]
    for frame in frames:
        one.feed(frame)
    wire.run()
    assert two.bridge == [PLAIN_VIRTIO + frame for frame in frames]
    assert len(wire.carried) < 4
    assert one.forwarder(two).frames_sent >= 50
    assert two.forwarder(one).frames_received >= 50


def test_small_and_large_frames_of_one_flow_keep_their_order() -> None:
    wire, one, two = pair()
    small = frame_of(one.mac, two.mac)
    one.feed(small)
    one.feed(*between(LARGE, one, two))
    one.feed(small)
    wire.run()
    assert two.bridge[0] == two.bridge[-1] == PLAIN_VIRTIO + small
    assert len(two.bridge) > 2


def test_a_partial_checksum_stays_partial_between_offloading_hosts() -> None:
    wire, one, two = pair()
    flow = Flow(payload=b"x" * 30, mss=1348)
    frame, virtio = between(flow, one, two)
    # Not to be cut: no GSO, only a checksum to complete.
    virtio = virtio[:1] + b"\0\0\0\0\0" + virtio[6:]
    one.feed(frame, virtio)
    wire.run()
    assert two.bridge == [virtio + frame]


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("protocol", [6, UDP])
def test_a_large_frame_arrives_whole(ipv6: bool, protocol: int) -> None:
    wire, one, two = pair()
    flow = replace(LARGE, ipv6=ipv6, protocol=protocol, mss=1300)
    one.feed(*between(flow, one, two))
    wire.run()
    assert left_by(two, flow) == wire_segments(flow, one, two)
    assert len(two.bridge) == 1
    assert b"".join(two.bridge) == flow.virtio() + between(flow, one, two)[0]


def test_large_frames_that_follow_each_other_stay_apart() -> None:
    wire, one, two = pair()
    flow = replace(LARGE, payload=bytes(10 * LARGE.mss))
    for _ in range(3):
        one.feed(*between(flow, one, two))
    wire.run()
    assert two.bridge == [flow.virtio() + between(flow, one, two)[0]] * 3


def test_a_piece_beyond_its_count_is_malformed_and_not_relayed() -> None:
    # A relay gives each piece the counter base + number. A number beyond the count would take
    # a counter that was not reserved for it, and use a nonce twice.
    wire, (one, two, three) = chain(3)
    forwarder = one.forwarder(two)
    reserved = forwarder.reserve(1)
    assert reserved is not None
    epoch, counter = reserved
    plaintext = pack_inner_header(1, 3, KIND_PIECE, 5) + bytes(100)
    forwarder.seal(epoch, 1, counter, 2, 2, plaintext)
    wire.run()
    assert two.drops()["malformed"] == 1
    assert two.forwarder(three).drops == {}
    assert "malformed" not in three.drops()


@given(st.sets(st.integers(0, 44)), st.sampled_from((False, True)))
@settings(max_examples=25, deadline=None)
def test_what_is_lost_is_only_what_was_lost(lost: set[int], relayed: bool) -> None:
    wire, nodes = chain(3) if relayed else chain(2)
    one, last = nodes[0], nodes[-1]
    seen = [0]

    def lose(batch: object, number: int) -> bool:
        if batch.sender is not one:  # type: ignore[attr-defined]  # a Batch
            return False
        seen[0] += 1
        return seen[0] - 1 in lost

    wire.lose = lose
    one.feed(*between(LARGE, one, last))
    wire.run()
    everything = wire_segments(LARGE, one, last)
    expected = [segment for number, segment in enumerate(everything) if number not in lost]
    assert left_by(last, LARGE) == expected


def test_pieces_in_any_order_arrive_each_once() -> None:
    wire, one, two = pair()
    one.feed(*between(LARGE, one, two))
    one.end_turn()
    datagrams = [datagram for batch in wire.batches for datagram in batch.datagrams]
    wire.batches.clear()
    Random(3).shuffle(datagrams)
    for datagram in datagrams + datagrams:
        two.receive(datagram, len(datagram), one.host)
    two.end_turn()
    assert sorted(left_by(two, LARGE)) == sorted(wire_segments(LARGE, one, two))
    assert two.drops()["replayed"] == len(datagrams)


def test_a_relay_passes_large_frames_on_in_pieces_and_its_own_bridge_sees_none() -> None:
    wire, (one, two, three) = chain(3)
    one.feed(*between(LARGE, one, three))
    wire.run()
    assert two.bridge == []
    assert left_by(three, LARGE) == wire_segments(LARGE, one, three)
    assert len(three.bridge) == 1


def test_a_relay_uses_no_counter_twice_when_pieces_come_in_several_batches() -> None:
    wire, (one, two, three) = chain(3)
    one.feed(*between(LARGE, one, three))
    one.feed(*between(LARGE, one, three))
    one.end_turn()
    datagrams = [datagram for batch in wire.batches for datagram in batch.datagrams]
    wire.batches.clear()
    Random(4).shuffle(datagrams)
    for datagram in datagrams:
        two.receive(datagram, len(datagram), one.host)
        two.end_turn()
    relayed = [datagram for batch in wire.batches for datagram in batch.datagrams]
    counters = [HEADER.unpack_from(datagram)[2] for datagram in relayed]
    assert len(set(counters)) == len(counters) == 2 * LARGE.count
    wire.run()
    twice = wire_segments(LARGE, one, three) * 2
    assert sorted(left_by(three, LARGE)) == sorted(twice)


def test_a_small_path_after_a_relay_gets_fragments_of_what_does_not_fit() -> None:
    wire, (one, two, three) = chain(3)
    forwarder = two.forwarder(three)
    forwarder.session.max_datagram_payload_bytes = 900
    one.feed(*between(LARGE, one, three))
    big = frame_of(one.mac, three.mac, Random(5).randbytes(1300))
    one.feed(big)
    wire.run()
    assert three.bridge[-1] == PLAIN_VIRTIO + big
    assert left_by_all(three.bridge[:-1], LARGE) == wire_segments(LARGE, one, three)


def left_by_all(written: list[bytes], flow: Flow) -> list[bytes]:
    return [segment for one in written for segment in as_kernel(one, flow.ip_at)]


def test_a_frame_that_comes_back_to_its_source_ends_there() -> None:
    wire, (one, two, three) = chain(3)
    # A wrong route: 2 believes that 3 is behind 1.
    wire.route(two, {1: 1, 3: 1}, {})
    one.feed(frame_of(one.mac, three.mac))
    wire.run()
    assert three.bridge == []
    assert one.drops()["looped-back"] == 1


def test_a_frame_between_relays_that_each_believe_in_the_other_ends() -> None:
    wire, (one, two, three) = chain(3)
    wire.route(one, {2: 2, 3: 2, 4: 2}, {})
    wire.route(two, {1: 1, 3: 3, 4: 3}, {})
    wire.route(three, {1: 2, 2: 2, 4: 2}, {})
    one.switch.learn_behind(b"\x02\0\0\0\0\4", 4, wire.now)
    one.feed(frame_of(one.mac, b"\x02\0\0\0\0\4"))
    one.feed(*between(LARGE, one, three))
    wire.run()
    assert two.drops().get("hops-exceeded", 0) + three.drops().get("hops-exceeded", 0) == 1
    assert left_by(three, LARGE) == wire_segments(LARGE, one, three)


def test_an_offloading_and_a_portable_host_understand_each_other() -> None:
    wire, one, two = pair(offload=(True, False))
    one.feed(*between(LARGE, one, two))
    wire.run()
    assert two.bridge == wire_segments(LARGE, one, two)
    partial = replace(LARGE, payload=b"y" * 30)
    frame, virtio = between(partial, one, two)
    one.feed(frame, virtio[:1] + b"\0\0\0\0\0" + virtio[6:])
    wire.run()
    assert two.bridge[-1] == complete_checksum(frame, partial.transport_at, 16)
    back = frame_of(two.mac, one.mac)
    two.feed(back)
    wire.run()
    assert one.bridge == [PLAIN_VIRTIO + back]


def test_a_large_frame_for_everyone_reaches_everyone() -> None:
    wire, nodes = chain(3)
    one, two, three = nodes
    flow = replace(LARGE, protocol=UDP, tcp_options=b"", mss=1300)
    group = bytes.fromhex("01005e000001")
    one.feed(group + one.mac + flow.large()[12:], flow.virtio())
    wire.run()
    expected = [group + one.mac + flow.segment(n)[12:] for n in range(flow.count)]
    assert left_by(two, flow) == expected
    assert left_by(three, flow) == expected


def test_a_broadcast_arrives_once_even_if_the_routes_are_a_loop() -> None:
    wire = Wire()
    nodes = [Node(wire, number) for number in (1, 2, 3)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        wire.join(nodes[one], nodes[other])
    for node in nodes:
        others = [n for n in (1, 2, 3) if n != node.number]
        wire.route(node, {n: n for n in others}, dict.fromkeys((1, 2, 3), others))
    wire.pass_time(3.0)
    frame = frame_of(nodes[0].mac, b"\xff" * 6)
    nodes[0].feed(frame)
    wire.run()
    assert nodes[0].bridge == []
    assert nodes[1].bridge == nodes[2].bridge == [PLAIN_VIRTIO + frame]
    # The copies that came over the third side were counted, and went no further.
    assert [node.drops().get("duplicate-broadcast") for node in nodes] == [None, 1, 1]
    # Nobody sent it back to whom it came from.
    assert nodes[0].drops().get("looped-back") is None


def test_a_peer_that_knows_no_limits_is_limited_where_its_broadcasts_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire, (one, two, three) = chain(3)
    monkeypatch.setattr(one.switch, "may_flood", lambda source, frames, now: True)
    passed = int(PEER_COPIES_PER_S) // 2
    wire.pass_time(1.0)
    for _ in range(passed + 500):
        one.feed(frame_of(one.mac, b"\xff" * 6))
    wire.run()
    assert (len(two.bridge), len(three.bridge)) == (passed, passed)
    assert two.drops()["storm"] == 500
    one.feed(frame_of(one.mac, three.mac))
    three.feed(frame_of(three.mac, b"\xff" * 6))
    wire.run()
    assert (len(two.bridge), len(three.bridge)) == (passed + 1, passed + 1)


def test_an_unknown_destination_is_flooded_and_a_known_one_is_not() -> None:
    wire, (one, two, three) = chain(3)
    one.feed(frame_of(one.mac, b"\x02\0\0\0\0\x77"))
    wire.run()
    assert len(two.bridge) == len(three.bridge) == 1
    one.feed(frame_of(one.mac, three.mac))
    wire.run()
    assert (len(two.bridge), len(three.bridge)) == (1, 2)


def test_a_frame_between_local_containers_goes_nowhere() -> None:
    wire, one, two = pair()
    neighbour = b"\x02\0\0\0\x01\x01"
    one.feed(frame_of(neighbour, b"\xff" * 6))
    wire.run()
    two.bridge.clear()
    one.feed(frame_of(one.mac, neighbour))
    wire.run()
    assert two.bridge == []
    assert one.drops()["local-to-local"] == 1


def test_a_df_packet_too_big_for_the_path_is_answered_to_its_sender() -> None:
    wire, one, two = pair()
    session = one.forwarder(two).session
    session.overlay_mtu_bytes = 1000
    session.max_datagram_payload_bytes = 1072
    one.feed(*between(LARGE, one, two))
    wire.run()
    assert two.bridge == []
    (answer,) = one.bridge
    frame = answer[10:]
    assert frame[:6] == one.mac
    assert frame[23] == 1  # ICMP
    assert frame[34:36] == b"\x03\x04"  # fragmentation needed
    assert int.from_bytes(frame[40:42], "big") == 1000
    assert one.drops()["too-big-for-path"] == 1


def test_what_is_too_large_for_its_destination_is_answered_or_cut_there_and_nowhere_else() -> None:
    wire, (one, two, three) = chain(3)
    one.steering.handle_message(
        InstallRoutes(1, {2: 2, 3: 2}, {1: [2]}, {2: two.peer, 3: three.peer}, {3: 1000}), wire.now
    )
    one.feed(*between(LARGE, one, three))
    (answer,) = one.bridge
    assert int.from_bytes(answer[10:][40:42], "big") == 1000

    packet = without_df(1300, one, three)
    one.feed(packet)
    one.feed(without_df(1300, one, two))
    wire.run()
    sizes = [len(frame) - len(PLAIN_VIRTIO) - 14 for frame in three.bridge]
    assert sizes == [996, 324]
    assert sum(sizes) == 1300 + 20
    assert [len(frame) - len(PLAIN_VIRTIO) - 14 for frame in two.bridge] == [1300]


def without_df(size: int, one: Node, other: Node) -> bytes:
    """An IPv4 packet that may be fragmented."""
    header = bytes([0x45, 0]) + size.to_bytes(2, "big") + b"\0\x07\0\0\x40\xfd\0\0"
    header += bytes([10, 32, 0, one.number, 10, 32, 0, other.number])
    return other.mac + one.mac + b"\x08\0" + header + bytes(size - 20)


def test_a_packet_without_df_goes_in_fragments() -> None:
    wire, one, two = pair()
    one.forwarder(two).session.overlay_mtu_bytes = 1000
    one.forwarder(two).session.max_datagram_payload_bytes = 1072
    frame = frame_of(one.mac, two.mac, Random(6).randbytes(1386))
    one.feed(frame)
    wire.run()
    assert two.bridge == [PLAIN_VIRTIO + frame]
    assert len(wire.carried) == 2


def test_tiny_segments_beyond_the_count_of_pieces_still_arrive() -> None:
    wire, one, two = pair()
    flow = replace(LARGE, payload=bytes(3000), mss=10, tcp_options=b"")
    one.feed(*between(flow, one, two))
    wire.run()
    assert left_by(two, flow) == wire_segments(flow, one, two)


def test_garbage_from_anywhere_is_counted_and_nothing_else() -> None:
    wire, one, two = pair()
    known = next(iter(two.engine.epochs))
    for data, reason in (
        (b"x", "runt-datagram"),
        (bytes(40), "unknown-index"),
        (HEADER.pack(1, known, 10**6, 0, 1) + bytes(40), "not-authentic"),
    ):
        before = two.drops().get(reason, 0)
        two.receive(data, len(data), "10.99.0.77")
        assert two.drops()[reason] == before + 1
    # The forged counter did not move the window, nor the address of the peer.
    one.feed(frame_of(one.mac, two.mac))
    wire.run()
    assert len(two.bridge) == 1
    assert two.forwarder(one).session.endpoint[0] == one.host


def test_plain_records_are_refused_by_an_encrypted_mesh() -> None:
    _, one, two = pair()
    known = next(iter(two.engine.epochs))
    inner = pack_inner_header(1, 2, KIND_FRAME, 5)
    plain = HEADER.pack(3, known, 10**6, 0, 1) + inner + frame_of(one.mac, two.mac)
    two.receive(plain, len(plain), one.host)
    two.end_turn()
    assert two.bridge == []
    assert two.drops()["not-authentic"] == 1


@given(st.binary(max_size=200), st.integers(1, 200), st.booleans())
@settings(max_examples=50, deadline=None)
def test_any_bytes_from_strangers_do_no_harm(data: bytes, size: int, addressed: bool) -> None:
    _, _, two = SHARED
    if addressed:
        data = HEADER.pack(1, next(iter(two.engine.epochs)), 2**40, 0, 1) + data
        size += HEADER.size
    two.receive(data, size, "10.99.0.77")
    two.end_turn()


@given(
    st.binary(max_size=300),
    st.integers(0, 15),
    st.sampled_from((1, 2, 3, 0, 0xFFF)),
    st.sampled_from((1, 2, 3, 0xFFF)),
    st.integers(0, 255),
    st.integers(0, 255),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_any_authentic_record_of_a_lying_peer_does_no_harm(
    content: bytes,
    kind: int,
    source: int,
    destination: int,
    number: int,
    count: int,
    bare: bool,
) -> None:
    wire, one, two = SHARED
    for each in (kind, KIND_PARTIAL, KIND_BUNDLE, KIND_PIECE):
        plaintext = pack_inner_header(source, destination, each, 3) + content
        if bare:
            plaintext = content
        forwarder = one.forwarder(two)
        epoch = forwarder.session.sending
        assert epoch is not None
        epoch.counter += 1
        forwarder.seal(epoch, 1, epoch.counter, number, count, plaintext)
    wire.run()
    assert len(two.engine.drops) < 30
    two.bridge.clear()


@given(
    st.binary(min_size=0, max_size=300),
    st.tuples(
        st.integers(0, 255),
        st.sampled_from((0, 1, 4, 5, 3, 0x81, 200)),
        st.integers(0, 2000),
        st.integers(0, 65535),
        st.integers(0, 65535),
    ),
)
@settings(max_examples=100, deadline=None)
def test_any_frame_from_the_bridge_does_no_harm(
    frame: bytes, fields: tuple[int, int, int, int, int]
) -> None:
    wire, one, two = SHARED
    flags, gso_type, gso_size, start, offset = fields
    virtio = bytes((flags, gso_type, 0, 0)) + b"".join(
        value.to_bytes(2, "little") for value in (gso_size, start, offset)
    )
    for lead in (b"", two.mac + one.mac + b"\x08\0\x45", b"\xff" * 6 + one.mac + b"\x86\xdd\x60"):
        one.feed(lead + frame, virtio)
        wire.run()
    two.bridge.clear()
    one.bridge.clear()


def test_a_new_epoch_under_traffic_loses_nothing() -> None:
    wire, one, two = pair()
    sent = []
    for number in range(60):
        if number in (20, 40):
            wire.join(one, two, seed=number)
        frame = frame_of(one.mac, two.mac, b"%04d" % number * 20)
        sent.append(PLAIN_VIRTIO + frame)
        one.feed(frame)
        wire.run()
        wire.pass_time(0.1)
    assert two.bridge == sent
    assert one.steering.snapshot(wire.now).sessions[0].epoch == 2


def test_sessions_come_up_and_say_so() -> None:
    _, one, two = pair()
    assert SessionUp(two.peer, two.host, 6783) in one.told
    report = one.steering.snapshot(0.0)
    (session,) = report.sessions
    assert session.up
    assert session.path_mtu_bytes == 1500
    assert report.routes.ourself == 1
    assert {entry.short_id for entry in report.macs} == {1, 2}


def test_a_removed_session_is_gone_with_its_keys() -> None:
    wire, one, two = pair()
    one.steering.handle_message(RemoveSession(two.peer), wire.now)
    assert one.engine.epochs == {}
    assert one.engine.forwarders == {}
    one.feed(frame_of(one.mac, two.mac))
    wire.run()
    assert two.bridge == []
    assert one.drops()["no-route"] == 1
    wire.join(one, two, seed=9)
    wire.pass_time(3.0)
    introduce(wire, one, two)
    one.feed(frame_of(one.mac, two.mac))
    wire.run()
    assert len(two.bridge) == 1


def test_what_a_write_to_the_tap_meets_is_counted() -> None:
    wire, one, two = pair()
    two.tap.error = "EIO"
    one.feed(frame_of(one.mac, two.mac))
    wire.run()
    assert two.drops()["tap-EIO"] == 1


def test_what_the_kernel_dropped_before_us_is_reported_too() -> None:
    wire, one, _ = pair()
    assert one.steering.snapshot(wire.now).drops == []
    one.tap.queue_drops = 3
    assert one.steering.snapshot(wire.now).drops == [DropCount("tap-queue-full", 3)]


def test_frames_before_there_are_routes_or_keys_are_counted() -> None:
    wire = Wire()
    one = Node(wire, 1)
    one.feed(frame_of(one.mac, b"\xff" * 6))
    assert one.drops() == {"no-route": 1}
    two = Node(wire, 2)
    wire.join(one, two)
    wire.route(one, {2: 2}, {1: [2]})
    one.feed(frame_of(one.mac, b"\xff" * 6))
    assert one.drops()["no-keys"] == 1


SHARED = pair()
